// Runs parsed templates.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/status.h"
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/syntax.h"

namespace tq::jinja {

using Variables = std::map<std::string, Value, std::less<>>;

// What the template writes with these variables. Errors name the line.
StatusOr<MarkedText> Evaluate(const Body& body, const Variables& variables, Runtime& runtime);

}  // namespace tq::jinja
