// Reads GGUF files as plainly as can be, apart from the program's own reader: the list of tensors,
// and the blocks of ggml's types that `tq export` writes. For sound files only.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/dtype.h"

namespace tq::testing {

struct ListedTensor {
  std::vector<uint64_t> ne;  // ggml's order
  uint32_t type = 0;
  std::string_view data;  // of the file's bytes, to their end
};

struct GgufListing {
  std::set<std::string> keys;
  std::map<std::string, ListedTensor> tensors;
};

class GgufLister {
 public:
  // `file` must outlive the listing.
  explicit GgufLister(std::string_view file) : file_(file) {}

  GgufListing List() {
    TQ_CHECK(file_.substr(0, 4) == "GGUF");
    at_ = 4;
    TQ_CHECK(Take<uint32_t>() == 3);
    const auto tensors = Take<uint64_t>(), keys = Take<uint64_t>();
    GgufListing listing;
    for (uint64_t i = 0; i < keys; ++i) {
      listing.keys.insert(String());
      SkipValue(Take<uint32_t>());
    }
    std::map<std::string, uint64_t> offsets;
    for (uint64_t i = 0; i < tensors; ++i) {
      const std::string name = String();
      ListedTensor& tensor = listing.tensors[name];
      tensor.ne.resize(Take<uint32_t>());
      for (uint64_t& n : tensor.ne) n = Take<uint64_t>();
      tensor.type = Take<uint32_t>();
      offsets[name] = Take<uint64_t>();
    }
    const uint64_t data = (at_ + 31) / 32 * 32;
    for (auto& [name, tensor] : listing.tensors) {
      TQ_CHECK(offsets[name] % 32 == 0);
      tensor.data = file_.substr(data + offsets[name]);
    }
    return listing;
  }

 private:
  template <class T>
  T Take() {
    T value;
    TQ_CHECK(file_.size() - at_ >= sizeof(value));
    std::memcpy(&value, file_.data() + at_, sizeof(value));
    at_ += sizeof(value);
    return value;
  }
  std::string String() {
    const auto size = Take<uint64_t>();
    at_ += size;
    return std::string(file_.substr(at_ - size, size));
  }
  void SkipValue(uint32_t type) {
    constexpr int kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) {
      String();
    } else if (type == 9) {
      const auto inner = Take<uint32_t>();
      const auto count = Take<uint64_t>();
      for (uint64_t i = 0; i < count; ++i) SkipValue(inner);
    } else {
      at_ += static_cast<size_t>(kSizes[type]);
    }
  }

  std::string_view file_;
  size_t at_ = 0;
};

namespace internal {

inline float HalfAt(const uint8_t* bytes) {
  return HalfToFloat(static_cast<uint16_t>(bytes[0] | bytes[1] << 8));
}

// Q4_K: scale (i < 8) or minimum (i - 8) of a run, from the 12 bytes behind d and dmin.
inline int SixBits(const uint8_t* s, int i) {
  const int run = i % 8, kind = i / 8;
  if (run < 4) return s[4 * kind + run] & 63;
  const int low = kind == 0 ? s[8 + run - 4] & 15 : s[8 + run - 4] >> 4;
  return low | (s[4 * kind + run - 4] >> 6) << 4;
}

// Value `i` of a block of a ggml type.
inline float ValueInBlock(uint32_t type, const uint8_t* b, int i) {
  switch (type) {
    case 0: {
      float value;
      std::memcpy(&value, b, sizeof(value));
      return value;
    }
    case 1:
      return HalfAt(b);
    case 30:
      return BFloat16ToFloat(static_cast<uint16_t>(b[0] | b[1] << 8));
    case 8:
      return HalfAt(b) * static_cast<float>(static_cast<int8_t>(b[2 + i]));
    case 6: {
      const int low = i < 16 ? b[6 + i] & 15 : b[6 + i - 16] >> 4;
      const int high = b[2 + i / 8] >> (i % 8) & 1;
      return HalfAt(b) * static_cast<float>((low | high << 4) - 16);
    }
    case 12: {
      const int run = i / 32, byte = b[16 + run / 2 * 32 + i % 32];
      const int q = run % 2 == 0 ? byte & 15 : byte >> 4;
      return HalfAt(b) * static_cast<float>(SixBits(b + 4, run)) * static_cast<float>(q) -
             HalfAt(b + 2) * static_cast<float>(SixBits(b + 4, run + 8));
    }
    case 14: {
      const int half = i / 128, j = i % 128;
      const int low = j < 64 ? b[64 * half + j] & 15 : b[64 * half + j - 64] >> 4;
      const int high = b[128 + 32 * half + j % 32] >> (2 * (j / 32)) & 3;
      return HalfAt(b + 208) * static_cast<float>(static_cast<int8_t>(b[192 + i / 16])) *
             static_cast<float>((low | high << 4) - 32);
    }
    default:
      tq::internal::CheckFailed(__FILE__, __LINE__, "a type that is written");
  }
}

}  // namespace internal

// `n` values of a ggml type.
inline std::vector<float> DecodeGgml(uint32_t type, const void* bytes, size_t n) {
  // Values and bytes of a block.
  static const std::map<uint32_t, std::pair<size_t, size_t>> kBlocks = {
      {0, {1, 4}},   {1, {1, 2}},      {30, {1, 2}},    {6, {32, 22}},
      {8, {32, 34}}, {12, {256, 144}}, {14, {256, 210}}};
  const auto [values, size] = kBlocks.at(type);
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) {
    const auto* block = static_cast<const uint8_t*>(bytes) + i / values * size;
    out[i] = internal::ValueInBlock(type, block, static_cast<int>(i % values));
  }
  return out;
}

}  // namespace tq::testing
