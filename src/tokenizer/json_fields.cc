#include "tokenizer/json_fields.h"

#include <algorithm>
#include <limits>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"

namespace tq {

using nlohmann::json;

StatusOr<JsonFields> JsonFields::Of(const json& value, std::string where) {
  if (!value.is_object()) {
    return InvalidArgument("{} is {}, want an object", where, JsonTypeName(value));
  }
  return JsonFields(value, std::move(where));
}

std::string JsonFields::Name(std::string_view key) const {
  return fmt::format("{}.{}", where_, key);
}

const json* JsonFields::Find(std::string_view key) const {
  const auto found = value_->find(key);
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

StatusOr<bool> JsonFields::BoolOr(std::string_view key, bool fallback) const {
  const json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  return InvalidArgument("{} is {}, want true or false", Name(key), JsonTypeName(*value));
}

StatusOr<std::string> JsonFields::StringOr(std::string_view key, std::string fallback) const {
  const json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_string()) return value->get<std::string>();
  return InvalidArgument("{} is {}, want a string", Name(key), JsonTypeName(*value));
}

StatusOr<std::string> JsonFields::String(std::string_view key) const {
  if (Find(key) == nullptr) return InvalidArgument("{} is missing", Name(key));
  return StringOr(key, "");
}

StatusOr<int32_t> JsonFields::Id(std::string_view key) const {
  const json* value = Find(key);
  if (value == nullptr) return InvalidArgument("{} is missing", Name(key));
  return JsonTokenId(*value, Name(key));
}

Status JsonFields::RefuseOthers(std::initializer_list<std::string_view> known) const {
  for (const auto& item : value_->items()) {
    const std::string_view key = item.key();
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return Unimplemented("{}: unknown field {}", where_, Quote(item.key()));
    }
  }
  return OkStatus();
}

Status JsonFields::RefuseTrue(std::string_view key) const {
  TQ_ASSIGN_OR_RETURN(const bool value, BoolOr(key, false));
  return value ? Unimplemented("{} is true", Name(key)) : OkStatus();
}

StatusOr<const json::array_t*> JsonListOrEmpty(const JsonFields& fields, std::string_view key) {
  static const json::array_t empty;
  const json* value = fields.Find(key);
  if (value == nullptr) return &empty;
  if (value->is_array()) return value->get_ptr<const json::array_t*>();
  return InvalidArgument("{} is {}, want a list", fields.Name(key), JsonTypeName(*value));
}

StatusOr<int32_t> JsonTokenId(const json& value, std::string_view name) {
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
    return static_cast<int32_t>(value.get<uint64_t>());
  }
  if (value.is_number()) {
    return InvalidArgument("{} is {}, want a whole number of 0 to 2147483647", name, value.dump());
  }
  return InvalidArgument("{} is {}, want an id", name, JsonTypeName(value));
}

}  // namespace tq
