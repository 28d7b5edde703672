// String literals of templates, with Python's escapes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tq::jinja {

struct StringLiteral {
  std::string value;
  size_t size = 0;  // bytes of it in the source, quotes included
};

// The literal that `source` begins with, at its quote.
StatusOr<StringLiteral> ReadStringLiteral(std::string_view source);

}  // namespace tq::jinja
