// Makes GGUF files byte by byte, sound ones and (through the raw parts) broken ones, and
// packs floats into ggml's simpler block types.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/checked.h"
#include "base/status.h"
#include "tensor/dtype.h"

namespace tq::testing {

// Value types of the metadata, by their numbers in the file.
enum GgufKeyType : uint32_t {
  kGgufUint8 = 0,
  kGgufUint32 = 4,
  kGgufInt32 = 5,
  kGgufFloat32 = 6,
  kGgufBool = 7,
  kGgufString = 8,
  kGgufArray = 9,
  kGgufUint64 = 10,
};

template <class T>
void PutRaw(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
inline void PutString(std::string& out, std::string_view text) {
  PutRaw<uint64_t>(out, text.size());
  out += text;
}

class GgufBuilder {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  // of the layout; the key general.alignment is set apart

  // Any value: its type and the bytes behind it.
  GgufBuilder& Key(std::string_view key, uint32_t type, std::string_view bytes) {
    PutString(keys_, key);
    PutRaw(keys_, type);
    keys_ += bytes;
    ++num_keys_;
    return *this;
  }
  template <class T>
  GgufBuilder& Scalar(std::string_view key, uint32_t type, T value) {
    std::string bytes;
    PutRaw(bytes, value);
    return Key(key, type, bytes);
  }
  GgufBuilder& Uint(std::string_view key, uint32_t value) {
    return Scalar(key, kGgufUint32, value);
  }
  GgufBuilder& Float(std::string_view key, float value) { return Scalar(key, kGgufFloat32, value); }
  GgufBuilder& Bool(std::string_view key, bool value) {
    return Scalar<uint8_t>(key, kGgufBool, value);
  }
  GgufBuilder& String(std::string_view key, std::string_view value) {
    std::string bytes;
    PutString(bytes, value);
    return Key(key, kGgufString, bytes);
  }
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes;
    PutRaw<uint32_t>(bytes, kGgufString);
    PutRaw<uint64_t>(bytes, values.size());
    for (const std::string& value : values) PutString(bytes, value);
    return Key(key, kGgufArray, bytes);
  }
  GgufBuilder& Ints(std::string_view key, const std::vector<int32_t>& values) {
    std::string bytes;
    PutRaw<uint32_t>(bytes, kGgufInt32);
    PutRaw<uint64_t>(bytes, values.size());
    for (const int32_t value : values) PutRaw(bytes, value);
    return Key(key, kGgufArray, bytes);
  }

  // `ne`: ggml's order, the row length first. The data follow one another, aligned.
  GgufBuilder& Tensor(std::string_view name, uint32_t type, const std::vector<uint64_t>& ne,
                      std::string_view bytes) {
    data_.resize(RoundUp<uint64_t>(data_.size(), alignment), '\0');
    RawTensor(name, type, ne, data_.size());
    data_ += bytes;
    return *this;
  }
  // The description alone, at any offset.
  GgufBuilder& RawTensor(std::string_view name, uint32_t type, const std::vector<uint64_t>& ne,
                         uint64_t offset) {
    PutString(tensors_, name);
    PutRaw(tensors_, static_cast<uint32_t>(ne.size()));
    for (const uint64_t n : ne) PutRaw(tensors_, n);
    PutRaw(tensors_, type);
    PutRaw(tensors_, offset);
    ++num_tensors_;
    return *this;
  }

  std::string Build() const {
    std::string file = "GGUF";
    PutRaw(file, version);
    PutRaw(file, num_tensors_);
    PutRaw(file, num_keys_);
    file += keys_;
    file += tensors_;
    file.resize(RoundUp<uint64_t>(file.size(), alignment), '\0');
    file += data_;
    return file;
  }

 private:
  std::string keys_, tensors_, data_;
  uint64_t num_keys_ = 0, num_tensors_ = 0;
};

// ggml type numbers that PackGguf makes.
enum GgufPackType : uint32_t {
  kPackF32 = 0,
  kPackF16 = 1,
  kPackQ4_0 = 2,
  kPackQ4_1 = 3,
  kPackQ8_0 = 8,
  kPackBF16 = 30,
  kPackTQ1_0 = 34,  // of 256 values that are -d, 0 and d
  kPackTQ2_0 = 35,
};

namespace internal {

inline void PutHalf(std::string& out, float value) { PutRaw(out, FloatToHalf(value)); }

// One block of 32 values, rounded to nearest in the simplest way.
inline void PackBlock(uint32_t type, const float* x, std::string& out) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float largest = std::max(std::abs(*low), std::abs(*high));
  const auto code = [](float value, float step, int bottom, int top) {
    return std::clamp(step == 0 ? 0 : static_cast<int>(std::lround(value / step)), bottom, top);
  };
  if (type == kPackQ8_0) {
    const float step = HalfToFloat(FloatToHalf(largest / 127));
    PutHalf(out, step);
    for (int i = 0; i < 32; ++i) out += static_cast<char>(code(x[i], step, -128, 127));
    return;
  }
  const bool affine = type == kPackQ4_1;
  const float step = HalfToFloat(FloatToHalf(affine ? (*high - *low) / 15 : largest / 7));
  const float base = affine ? HalfToFloat(FloatToHalf(*low)) : -8 * step;
  PutHalf(out, step);
  if (affine) PutHalf(out, base);
  for (int i = 0; i < 16; ++i) {
    const int first = code(x[i] - base, step, 0, 15), second = code(x[i + 16] - base, step, 0, 15);
    out += static_cast<char>(first | second << 4);
  }
}

// Trits t + 1 of bytes that hold five, the first one worth 81: fractions of 243.
inline char PackTrits(const std::vector<int>& t, int first, int step, int count) {
  int number = 0;
  for (int n = 0; n < 5; ++n) number = 3 * number + (n < count ? t[first + step * n] : 0);
  return static_cast<char>((number * 256 + 242) / 243);
}

// One block of 256 ternary values.
inline void PackTernaryBlock(uint32_t type, const float* x, std::string& out) {
  const float d = std::abs(
      *std::max_element(x, x + 256, [](float a, float b) { return std::abs(a) < std::abs(b); }));
  std::vector<int> t(256);
  for (int i = 0; i < 256; ++i) t[i] = 1 + (x[i] > 0) - (x[i] < 0);
  if (type == kPackTQ2_0) {
    for (int i = 0; i < 64; ++i) {
      const int v = i / 32 * 128 + i % 32;
      out += static_cast<char>(t[v] | t[v + 32] << 2 | t[v + 64] << 4 | t[v + 96] << 6);
    }
  } else {
    for (int i = 0; i < 32; ++i) out += PackTrits(t, i, 32, 5);
    for (int i = 0; i < 16; ++i) out += PackTrits(t, 160 + i, 16, 5);
    for (int i = 0; i < 4; ++i) out += PackTrits(t, 240 + i, 4, 4);
  }
  PutHalf(out, d);
}

}  // namespace internal

// The values as bytes of a ggml type; for block types their number is a multiple of 32, or of 256.
inline std::string PackGguf(uint32_t type, const std::vector<float>& values) {
  std::string out;
  switch (type) {
    case kPackF32:
      for (const float value : values) PutRaw(out, value);
      return out;
    case kPackF16:
      for (const float value : values) PutRaw(out, FloatToHalf(value));
      return out;
    case kPackBF16:
      for (const float value : values) PutRaw(out, FloatToBFloat16(value));
      return out;
    case kPackTQ1_0:
    case kPackTQ2_0:
      TQ_CHECK(values.size() % 256 == 0);
      for (size_t i = 0; i < values.size(); i += 256) {
        internal::PackTernaryBlock(type, &values[i], out);
      }
      return out;
    default:
      TQ_CHECK(type == kPackQ4_0 || type == kPackQ4_1 || type == kPackQ8_0);
      TQ_CHECK(values.size() % 32 == 0);
      for (size_t i = 0; i < values.size(); i += 32) internal::PackBlock(type, &values[i], out);
      return out;
  }
}

}  // namespace tq::testing
