// The header of a safetensors file: one JSON object, parsed without building a document,
// so that memory stays proportional to the number of tensors whatever the text holds.
#include <algorithm>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/checked.h"
#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "checkpoint/safetensors.h"

namespace tq {
namespace {

using nlohmann::json;

constexpr size_t kMaxName = 1024;
constexpr size_t kMaxRank = 16;

// Floats of 4, 6 and 8 bits by the names of the format: F4, F6_E2M3, F8_E4M3, ...
bool IsNarrowFloat(std::string_view dtype) {
  return dtype == "F4" || dtype.starts_with("F6_") || dtype.starts_with("F8_");
}
constexpr std::string_view kNarrowFloatAdvice =
    ": weights of so few bits have scales in other tensors; convert the model to BF16, F16 or F32";

// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
//  "__metadata__": {"key": "text"}}
class HeaderReader final : public nlohmann::json_sax<json> {
 public:
  HeaderReader(std::string_view file, uint64_t data_begin) : file_(file), begin_(data_begin) {}

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override {
    return Unexpected(fmt::format("the number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected("the number " + Quote(text));
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ != 3) return Unexpected(fmt::format("the number {}", value));
    const size_t limit = numbers_ == &shape_ ? kMaxRank : 2;
    if ((*numbers_)->size() >= limit) {
      return Fail(InvalidArgument("{}: tensor {}: {} has more than {} elements", file_,
                                  Quote(name_), field_, limit));
    }
    (*numbers_)->push_back(value);
    return true;
  }
  bool string(string_t& value) override {
    if (in_metadata_ && depth_ == 2) return true;
    if (depth_ != 2 || field_ != "dtype") return Unexpected("a string");
    dtype_ = DTypeFromName(value);
    if (!dtype_) {
      return Fail(Unimplemented("{}: tensor {}: dtype {} is not supported{}", file_, Quote(name_),
                                Quote(value), IsNarrowFloat(value) ? kNarrowFloatAdvice : ""));
    }
    return true;
  }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool start_object(size_t) override {
    if (depth_ >= 2) return Unexpected("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    if (depth_-- == 2 && !in_metadata_) return FinishTensor();
    return true;
  }
  bool start_array(size_t) override {
    if (depth_ != 2 || in_metadata_ || field_ == "dtype") return Unexpected("an array");
    numbers_ = field_ == "shape" ? &shape_ : &offsets_;
    numbers_->emplace();
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }

  bool key(string_t& key) override {
    if (depth_ == 1) return StartTensor(key);
    if (in_metadata_) return true;
    const bool repeated = (key == "dtype" && dtype_) || (key == "shape" && shape_) ||
                          (key == "data_offsets" && offsets_);
    if (repeated || (key != "dtype" && key != "shape" && key != "data_offsets")) {
      return Fail(InvalidArgument("{}: tensor {}: {} field {}", file_, Quote(name_),
                                  repeated ? "duplicate" : "unknown", Quote(key)));
    }
    field_ = key;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception& error) override {
    return Fail(JsonSyntaxError(file_, position, error.what()));
  }

  StatusOr<SafetensorsEntries> Take() {
    if (!status_.ok()) return status_;
    return std::move(entries_);
  }

 private:
  bool Fail(Status status) {
    status_ = std::move(status);
    return false;
  }
  bool Unexpected(std::string_view what) {
    if (depth_ == 0) return Fail(InvalidArgument("{}: the header is no JSON object", file_));
    return Fail(InvalidArgument("{}: header: unexpected {} in {}{}{}", file_, what, Quote(name_),
                                depth_ >= 2 ? ", field " : "", depth_ >= 2 ? field_ : ""));
  }

  bool StartTensor(const std::string& name) {
    if (name.empty() || name.size() > kMaxName) {
      return Fail(InvalidArgument("{}: tensor name {}: {} bytes, allowed are 1 to {}", file_,
                                  Quote(name), name.size(), kMaxName));
    }
    in_metadata_ = name == "__metadata__";
    const bool repeated =
        in_metadata_ ? std::exchange(metadata_seen_, true) : entries_.find(name) != entries_.end();
    if (repeated) return Fail(InvalidArgument("{}: duplicate tensor {}", file_, Quote(name)));
    name_ = name;
    field_.clear();
    dtype_.reset();
    shape_.reset();
    offsets_.reset();
    return true;
  }

  bool FinishTensor() {
    if (!dtype_ || !shape_ || !offsets_ || offsets_->size() != 2) {
      return Fail(InvalidArgument("{}: tensor {}: dtype, shape or data_offsets is missing", file_,
                                  Quote(name_)));
    }
    const uint64_t begin = (*offsets_)[0], end = (*offsets_)[1];
    const auto bytes = NumBytes(*shape_, *dtype_);
    if (!bytes.ok()) return Fail(bytes.status().WithContext(Where()));
    if (begin > end || end - begin != *bytes) {
      return Fail(InvalidArgument("{}: data_offsets [{}, {}) do not hold the {} bytes of {} {}",
                                  Where(), begin, end, *bytes, DTypeName(*dtype_),
                                  ShapeToString(*shape_)));
    }
    const auto offset = CheckedAdd(begin_, begin);
    if (!offset || !CheckedAdd(*offset, *bytes)) {
      return Fail(InvalidArgument("{}: data_offsets [{}, {}) overflow", Where(), begin, end));
    }
    entries_.emplace(name_, SafetensorsEntry{*dtype_, std::move(*shape_), *offset, *bytes});
    return true;
  }

  std::string Where() const { return fmt::format("{}: tensor {}", file_, Quote(name_)); }

  std::string_view file_;
  uint64_t begin_;
  int depth_ = 0;  // 1: the header, 2: a tensor or the metadata, 3: an array of numbers
  bool in_metadata_ = false, metadata_seen_ = false;
  std::string name_, field_;
  std::optional<DType> dtype_;
  std::optional<Shape> shape_, offsets_;
  std::optional<Shape>* numbers_ = nullptr;
  SafetensorsEntries entries_;
  Status status_;
};

// Every byte of the data belongs to exactly one tensor: no overlap (two names for one
// memory), no gap or tail (where a file of another kind could hide).
Status CheckTiling(const SafetensorsEntries& entries, uint64_t data_begin, uint64_t data_bytes,
                   std::string_view file) {
  std::vector<const SafetensorsEntries::value_type*> order;
  order.reserve(entries.size());
  for (const auto& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.offset, a->second.bytes) <
           std::pair(b->second.offset, b->second.bytes);
  });
  uint64_t at = data_begin;
  for (const auto* entry : order) {
    if (entry->second.offset != at) {
      return InvalidArgument("{}: tensor {} starts at data byte {}, expected {} ({})", file,
                             Quote(entry->first), entry->second.offset - data_begin,
                             at - data_begin, entry->second.offset < at ? "overlap" : "gap");
    }
    at += entry->second.bytes;  // cannot overflow: checked per tensor
  }
  const uint64_t used = at - data_begin;
  if (used > data_bytes) {
    return DataLoss("{}: truncated: the tensors need {} data bytes, the file holds {}", file, used,
                    data_bytes);
  }
  if (used < data_bytes) {
    return InvalidArgument("{}: {} bytes after the last tensor", file, data_bytes - used);
  }
  return OkStatus();
}

}  // namespace

StatusOr<SafetensorsEntries> ParseSafetensorsHeader(std::string_view header, uint64_t data_begin,
                                                    uint64_t data_bytes, std::string_view file) {
  if (header.empty() || header.front() != '{') {
    return InvalidArgument("{}: the header does not start with '{{'", file);
  }
  TQ_RETURN_IF_ERROR(CheckNoNul(header, file));
  HeaderReader reader(file, data_begin);
  try {
    json::sax_parse(header, &reader);
  } catch (const std::exception& error) {  // bad_alloc above all
    return ResourceExhausted("{}: reading the header: {}", file, error.what());
  }
  TQ_ASSIGN_OR_RETURN(SafetensorsEntries entries, reader.Take());
  TQ_RETURN_IF_ERROR(CheckTiling(entries, data_begin, data_bytes, file));
  return entries;
}

}  // namespace tq
