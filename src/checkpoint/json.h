// JSON from files that nobody vouches for: bounded in depth and number of values,
// no duplicate keys, no numbers beyond double, no exceptions.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tq {

struct JsonLimits {
  int depth = 64;
  uint64_t values = 8'000'000;  // about 16 to 64 bytes of memory each
};

// `file` is named in errors.
StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view file,
                                   const JsonLimits& limits = {});

// The parser's own complaint as a Status: one short line with the position.
Status JsonSyntaxError(std::string_view file, size_t position, std::string_view what);

// The parser takes a NUL byte for the end of the text and would not see what follows.
Status CheckNoNul(std::string_view text, std::string_view file);

// "WHERE: 'FIELD' = 'VALUE' is not supported".
Status FieldNotSupported(std::string_view where, std::string_view field,
                         const nlohmann::json& value);

// "string", "null", ... of a value, for messages.
std::string JsonTypeName(const nlohmann::json& value);

}  // namespace tq
