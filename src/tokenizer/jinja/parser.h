// Parses templates.
#pragma once

#include <string_view>

#include "base/status.h"
#include "tokenizer/jinja/syntax.h"

namespace tq::jinja {

// `source` is UTF-8. What of Jinja is not supported, tags, filters, tests and attributes of Python
// among it, is an error that names it and its line.
StatusOr<Body> ParseTemplate(std::string_view source);

}  // namespace tq::jinja
