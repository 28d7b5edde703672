// Typed fields of JSON objects whose errors say which field, of which file.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tq {

// An object of a file, and how messages call it: "tokenizer.json: model".
class JsonFields {
 public:
  // An error when `value` is no object.
  static StatusOr<JsonFields> Of(const nlohmann::json& value, std::string where);

  const std::string& where() const { return where_; }
  // "<where>.<key>"
  std::string Name(std::string_view key) const;
  // Null when absent or JSON null.
  const nlohmann::json* Find(std::string_view key) const;
  // Errors when the type is another; absent and null give the fallback.
  StatusOr<bool> BoolOr(std::string_view key, bool fallback) const;
  StatusOr<std::string> StringOr(std::string_view key, std::string fallback) const;
  StatusOr<std::string> String(std::string_view key) const;
  // An id of a token: an integer in [0, 2^31).
  StatusOr<int32_t> Id(std::string_view key) const;
  // Names the first key that is not in the list: a field that we do not know may change
  // the result.
  Status RefuseOthers(std::initializer_list<std::string_view> known) const;
  // An error unless the field is absent, null or false.
  Status RefuseTrue(std::string_view key) const;

 private:
  JsonFields(const nlohmann::json& value, std::string where)
      : value_(&value), where_(std::move(where)) {}
  const nlohmann::json* value_;
  std::string where_;
};

// A list of a file; absent and null give an empty one.
StatusOr<const nlohmann::json::array_t*> JsonListOrEmpty(const JsonFields& fields,
                                                         std::string_view key);

// An id from a JSON value; `name` for the error.
StatusOr<int32_t> JsonTokenId(const nlohmann::json& value, std::string_view name);

}  // namespace tq
