// GGUF version 3, as its specification (ggml, docs/gguf.md) lays it out:
//   "GGUF", u32 version, u64 tensors, u64 keys,
//   per key: string name, u32 type, value;  string: u64 length, bytes
//   per tensor: string name, u32 dimensions, u64 ne[], u32 type, u64 offset
//   padding to the alignment, then the data that the offsets count from.
// Everything is copied out of the file by pread(2), piece by piece, before it is trusted;
// no count is believed further than the bytes that are left.
#include "checkpoint/gguf_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "base/checked.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/quote.h"

namespace tq {
namespace {

constexpr uint64_t kMaxKeys = 1 << 16;
constexpr uint64_t kMaxTensors = 1 << 20;
constexpr uint64_t kMaxNameBytes = 1024;
constexpr uint64_t kMaxKeyBytes = 65535;         // the format's own limit
constexpr uint64_t kMaxArrayElements = 1 << 24;  // of all arrays together; vocabularies are < 2^20
constexpr uint64_t kMaxAlignment = 1 << 16;

enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

class Reader {
 public:
  explicit Reader(const MappedFile& file) : file_(file), name_(file.path().string()) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return file_.size() - position_; }

  Status Read(void* out, uint64_t size) {
    auto* bytes = static_cast<uint8_t*>(out);
    while (size > 0) {
      if (position_ < buffer_begin_ || position_ - buffer_begin_ >= buffer_.size()) {
        TQ_RETURN_IF_ERROR(Fill());
      }
      const uint64_t at = position_ - buffer_begin_;
      const uint64_t n = std::min<uint64_t>(size, buffer_.size() - at);
      std::memcpy(bytes, buffer_.data() + at, n);
      bytes += n;
      position_ += n;
      size -= n;
    }
    return OkStatus();
  }

  template <class T>
  StatusOr<T> Read() {
    T value{};
    TQ_RETURN_IF_ERROR(Read(&value, sizeof(value)));
    return value;
  }

  StatusOr<std::string> ReadString(std::string_view what, uint64_t limit) {
    TQ_ASSIGN_OR_RETURN(const uint64_t size, Read<uint64_t>());
    if (size > limit || size > left()) {
      return InvalidArgument("{}: {}: string of {} bytes, the limit here is {}", name_, what, size,
                             std::min(limit, left()));
    }
    std::string text(size, '\0');
    TQ_RETURN_IF_ERROR(Read(text.data(), size));
    return text;
  }

  const std::string& name() const { return name_; }

 private:
  Status Fill() {
    constexpr uint64_t kChunk = 256 << 10;
    if (left() == 0) return DataLoss("{}: truncated inside the header", name_);
    buffer_.resize(std::min(kChunk, left()));
    buffer_begin_ = position_;
    return file_.ReadAt(position_, buffer_.data(), buffer_.size());
  }

  const MappedFile& file_;
  std::string name_;
  uint64_t position_ = 0, buffer_begin_ = 0;
  std::vector<uint8_t> buffer_;
};

class HeaderParser {
 public:
  explicit HeaderParser(const MappedFile& file) : reader_(file) {}

  StatusOr<GgufHeader> Parse() {
    TQ_RETURN_IF_ERROR(ParsePreamble());
    for (uint64_t i = 0; i < num_keys_; ++i) TQ_RETURN_IF_ERROR(ParseKey());
    for (uint64_t i = 0; i < num_tensors_; ++i) TQ_RETURN_IF_ERROR(ParseTensor());
    header_.data_begin = RoundUp(reader_.position(), header_.alignment);
    return std::move(header_);
  }

 private:
  const std::string& file() const { return reader_.name(); }

  Status ParsePreamble() {
    if (reader_.left() < 24) {
      return DataLoss("{}: {} bytes are too few for a GGUF file", file(), reader_.left());
    }
    char magic[4];
    TQ_RETURN_IF_ERROR(reader_.Read(magic, sizeof(magic)));
    if (std::memcmp(magic, "GGUF", 4) != 0) {
      return InvalidArgument("{}: not a GGUF file (bad magic)", file());
    }
    TQ_ASSIGN_OR_RETURN(const uint32_t version, reader_.Read<uint32_t>());
    if (version != 0 && (version & 0xffff) == 0) {
      return Unimplemented("{}: GGUF of the other byte order", file());
    }
    if (version != 3) {
      return Unimplemented("{}: GGUF version {}; only 3 is supported", file(), version);
    }
    TQ_ASSIGN_OR_RETURN(num_tensors_, reader_.Read<uint64_t>());
    TQ_ASSIGN_OR_RETURN(num_keys_, reader_.Read<uint64_t>());
    if (num_tensors_ > kMaxTensors) {
      return InvalidArgument("{}: {} tensors, the limit is {}", file(), num_tensors_, kMaxTensors);
    }
    if (num_keys_ > kMaxKeys) {
      return InvalidArgument("{}: {} metadata keys, the limit is {}", file(), num_keys_, kMaxKeys);
    }
    return OkStatus();
  }

  Status ParseKey() {
    TQ_ASSIGN_OR_RETURN(std::string key, reader_.ReadString("metadata key", kMaxKeyBytes));
    if (key.empty()) return InvalidArgument("{}: empty metadata key", file());
    TQ_ASSIGN_OR_RETURN(const uint32_t type, reader_.Read<uint32_t>());
    TQ_ASSIGN_OR_RETURN(GgufValue value, ParseValue(key, type));
    if (key == "general.alignment") {
      const auto* alignment = std::get_if<uint64_t>(&value.value);
      if (type != kUint32 || *alignment < 8 || *alignment > kMaxAlignment ||
          !std::has_single_bit(*alignment)) {
        return InvalidArgument("{}: general.alignment must be a uint32 power of two from 8 to {}{}",
                               file(), kMaxAlignment,
                               type == kUint32 ? fmt::format(", not {}", *alignment) : "");
      }
      header_.alignment = *alignment;
    }
    const auto [at, inserted] = header_.metadata.emplace(std::move(key), std::move(value));
    if (!inserted) {
      return InvalidArgument("{}: duplicate metadata key {}", file(), Quote(at->first));
    }
    return OkStatus();
  }

  template <class Stored, class Wide>
  StatusOr<GgufValue> Scalar() {
    TQ_ASSIGN_OR_RETURN(const Stored value, reader_.Read<Stored>());
    return GgufValue{static_cast<Wide>(value)};
  }

  StatusOr<GgufValue> ParseValue(const std::string& key, uint32_t type) {
    switch (type) {
      case kUint8:
        return Scalar<uint8_t, uint64_t>();
      case kInt8:
        return Scalar<int8_t, int64_t>();
      case kUint16:
        return Scalar<uint16_t, uint64_t>();
      case kInt16:
        return Scalar<int16_t, int64_t>();
      case kUint32:
        return Scalar<uint32_t, uint64_t>();
      case kInt32:
        return Scalar<int32_t, int64_t>();
      case kFloat32:
        return Scalar<float, double>();
      case kUint64:
        return Scalar<uint64_t, uint64_t>();
      case kInt64:
        return Scalar<int64_t, int64_t>();
      case kFloat64:
        return Scalar<double, double>();
      case kBool: {
        TQ_ASSIGN_OR_RETURN(const uint8_t value, reader_.Read<uint8_t>());
        if (value > 1) {
          return InvalidArgument("{}: key {}: boolean {}", file(), Quote(key), value);
        }
        return GgufValue{value == 1};
      }
      case kString: {
        TQ_ASSIGN_OR_RETURN(std::string text,
                            reader_.ReadString("key " + Quote(key), kMaxGgufStringBytes));
        return GgufValue{std::move(text)};
      }
      case kArray:
        return ParseArray(key);
      default:
        return InvalidArgument("{}: key {}: unknown value type {}", file(), Quote(key), type);
    }
  }

  template <class Stored, class Wide>
  StatusOr<GgufValue> Array(uint64_t count) {
    std::vector<Stored> stored(count);
    TQ_RETURN_IF_ERROR(reader_.Read(stored.data(), count * sizeof(Stored)));
    if constexpr (std::is_same_v<Stored, uint64_t>) {
      for (const uint64_t value : stored) {
        if (!std::in_range<int64_t>(value)) {
          return InvalidArgument("{}: array element {} is above 2^63 - 1", file(), value);
        }
      }
    }
    return GgufValue{std::vector<Wide>(stored.begin(), stored.end())};
  }

  StatusOr<GgufValue> ParseArray(const std::string& key) {
    TQ_ASSIGN_OR_RETURN(const uint32_t type, reader_.Read<uint32_t>());
    TQ_ASSIGN_OR_RETURN(const uint64_t count, reader_.Read<uint64_t>());
    // Fewest bytes of an element in the file; a string has at least its length field.
    constexpr uint64_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
    if (type >= std::size(kSizes) || type == kArray) {
      return Unimplemented("{}: key {}: array of {} is not supported", file(), Quote(key),
                           type == kArray ? "arrays" : fmt::format("unknown type {}", type));
    }
    if (count > kMaxArrayElements - array_elements_ || count > reader_.left() / kSizes[type]) {
      return InvalidArgument(
          "{}: key {}: array of {} elements, the limit here is {}", file(), Quote(key), count,
          std::min(kMaxArrayElements - array_elements_, reader_.left() / kSizes[type]));
    }
    array_elements_ += count;
    switch (type) {
      case kUint8:
      case kBool:
        return Array<uint8_t, int64_t>(count);
      case kInt8:
        return Array<int8_t, int64_t>(count);
      case kUint16:
        return Array<uint16_t, int64_t>(count);
      case kInt16:
        return Array<int16_t, int64_t>(count);
      case kUint32:
        return Array<uint32_t, int64_t>(count);
      case kInt32:
        return Array<int32_t, int64_t>(count);
      case kUint64:
        return Array<uint64_t, int64_t>(count);
      case kInt64:
        return Array<int64_t, int64_t>(count);
      case kFloat32:
        return Array<float, double>(count);
      case kFloat64:
        return Array<double, double>(count);
      default:
        break;
    }
    std::vector<std::string> strings;
    strings.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      TQ_ASSIGN_OR_RETURN(std::string text,
                          reader_.ReadString("key " + Quote(key), kMaxGgufStringBytes));
      strings.push_back(std::move(text));
    }
    return GgufValue{std::move(strings)};
  }

  Status ParseTensor() {
    GgufTensor tensor;
    TQ_ASSIGN_OR_RETURN(tensor.name, reader_.ReadString("tensor name", kMaxNameBytes));
    if (tensor.name.empty()) return InvalidArgument("{}: empty tensor name", file());
    if (!names_.insert(tensor.name).second) {
      return InvalidArgument("{}: duplicate tensor {}", file(), Quote(tensor.name));
    }
    const std::string where = file() + ": tensor " + Quote(tensor.name);
    TQ_ASSIGN_OR_RETURN(const uint32_t dimensions, reader_.Read<uint32_t>());
    if (dimensions < 1 || dimensions > 4) {
      return InvalidArgument("{}: {} dimensions, allowed are 1 to 4", where, dimensions);
    }
    tensor.shape.resize(dimensions);
    for (uint32_t i = 0; i < dimensions; ++i) {
      TQ_ASSIGN_OR_RETURN(const uint64_t ne, reader_.Read<uint64_t>());
      if (ne == 0 || !std::in_range<int64_t>(ne)) {
        return InvalidArgument("{}: dimension {} is {}", where, i, static_cast<int64_t>(ne));
      }
      tensor.shape[dimensions - 1 - i] = ne;  // ggml's ne starts with the fastest dimension
    }
    TQ_ASSIGN_OR_RETURN(const uint32_t type, reader_.Read<uint32_t>());
    const auto format = GgufBlockFormat(type);
    if (!format) {
      return Unimplemented("{}: type {} is not read; those that are: {}", where, GgufTypeName(type),
                           GgufTypesRead());
    }
    tensor.type = static_cast<GgufType>(type);
    TQ_ASSIGN_OR_RETURN(const uint64_t elements, NumElements(tensor.shape));
    if (tensor.shape.back() % format->values != 0) {
      return InvalidArgument("{}: rows of {} values are no multiple of {}'s block of {}", where,
                             tensor.shape.back(), GgufTypeName(type), format->values);
    }
    const auto bytes = CheckedMul<uint64_t>(elements / format->values, format->bytes);
    if (!bytes) return InvalidArgument("{}: the size overflows", where);
    tensor.bytes = *bytes;
    TQ_ASSIGN_OR_RETURN(tensor.offset, reader_.Read<uint64_t>());
    header_.tensors.push_back(std::move(tensor));
    return OkStatus();
  }

  Reader reader_;
  GgufHeader header_;
  uint64_t num_tensors_ = 0, num_keys_ = 0, array_elements_ = 0;
  std::set<std::string> names_;
};

}  // namespace

StatusOr<GgufHeader> ReadGgufHeader(const MappedFile& file) { return HeaderParser(file).Parse(); }

}  // namespace tq
