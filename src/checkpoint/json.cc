#include "checkpoint/json.h"

#include <exception>
#include <utility>
#include <vector>

#include "checkpoint/quote.h"

namespace tq {
namespace {

using nlohmann::json;

// Builds the document; every callback returns false to stop, with status_ set.
class Builder final : public nlohmann::json_sax<json> {
 public:
  Builder(std::string_view file, const JsonLimits& limits) : file_(file), limits_(limits) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return false; }

  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    const auto [at, inserted] = open_.back()->get_ref<json::object_t&>().emplace(name, nullptr);
    if (!inserted) return Fail(InvalidArgument("{}: duplicate key {}", file_, Quote(name)));
    slot_ = &at->second;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception& error) override {
    return Fail(JsonSyntaxError(file_, position, error.what()));
  }

  StatusOr<json> Take() {
    if (!status_.ok()) return status_;
    return std::move(root_);
  }

 private:
  bool Fail(Status status) {
    status_ = std::move(status);
    return false;
  }

  // Puts a value where it belongs and returns its place, or null at the limit.
  json* Place(json value) {
    if (++count_ > limits_.values) {
      Fail(ResourceExhausted("{}: more than {} JSON values", file_, limits_.values));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<json::array_t&>();
      array.push_back(std::move(value));
      return &array.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool Add(json value) { return Place(std::move(value)) != nullptr; }

  bool Open(json value) {
    if (static_cast<int>(open_.size()) >= limits_.depth) {
      return Fail(
          InvalidArgument("{}: JSON nested more than {} levels deep", file_, limits_.depth));
    }
    json* place = Place(std::move(value));
    if (place == nullptr) return false;
    // Containers that hold `place` do not grow while it is open, so the pointer stays valid.
    open_.push_back(place);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  std::string_view file_;
  JsonLimits limits_;
  json root_;
  json* slot_ = nullptr;  // the value of the last key
  std::vector<json*> open_;
  uint64_t count_ = 0;
  Status status_;
};

}  // namespace

Status JsonSyntaxError(std::string_view file, size_t position, std::string_view what) {
  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..."
  const size_t bracket = what.find("] ");
  if (bracket != std::string_view::npos) what.remove_prefix(bracket + 2);
  std::string line;
  for (const char c : what.substr(0, 160)) line += c >= ' ' && c <= '~' ? c : '?';
  if (what.size() > 160) line += "...";
  return InvalidArgument("{}: not JSON at byte {}: {}", file, position, line);
}

Status CheckNoNul(std::string_view text, std::string_view file) {
  const size_t at = text.find('\0');
  if (at == std::string_view::npos) return OkStatus();
  return JsonSyntaxError(file, at, "NUL byte");
}

StatusOr<json> ParseJson(std::string_view text, std::string_view file, const JsonLimits& limits) {
  TQ_RETURN_IF_ERROR(CheckNoNul(text, file));
  Builder builder(file, limits);
  try {
    json::sax_parse(text, &builder);
  } catch (const std::exception& error) {  // bad_alloc above all
    return ResourceExhausted("{}: reading JSON: {}", file, error.what());
  }
  return builder.Take();
}

Status FieldNotSupported(std::string_view where, std::string_view field, const json& value) {
  return Unimplemented("{}: {} = {} is not supported", where, Quote(field), Quote(value.dump()));
}

std::string JsonTypeName(const json& value) { return value.type_name(); }

}  // namespace tq
