// Cuts a template into text and the tokens of its tags, as Jinja does with the settings of Hugging
// Face's library: trim_blocks (a newline behind a block tag or comment is dropped) and
// lstrip_blocks (so is white space between the start of a line and such a tag), both overridden by
// "-" (all white space) and "+" (none) in the tag; a newline at the end of the template is dropped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tq::jinja {

enum class TokenKind {
  kText,           // between tags; white space removed already
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kInteger,
  kFloat,
  kString,    // its value, escapes resolved
  kOperator,  // with brackets and punctuation
  kEnd,
};

struct Token {
  TokenKind kind;
  int line;  // from 1
  std::string text;
};

// The last token is kEnd. An error names the line. `source` is UTF-8.
StatusOr<std::vector<Token>> Lex(std::string_view source);

}  // namespace tq::jinja
