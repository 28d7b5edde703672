// The tokens of a template as the parsers take them.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/quote.h"
#include "tokenizer/jinja/budget.h"
#include "tokenizer/jinja/lexer.h"

namespace tq::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  int line() const { return current().line; }
  bool Is(TokenKind kind) const { return current().kind == kind; }
  bool IsOperator(std::string_view text) const {
    return Is(TokenKind::kOperator) && current().text == text;
  }
  bool IsName(std::string_view name) const {
    return Is(TokenKind::kName) && current().text == name;
  }
  // Whether the token behind the current one is this name.
  bool NextIsName(std::string_view name) const {
    return !Is(TokenKind::kEnd) && tokens_[at_ + 1].kind == TokenKind::kName &&
           tokens_[at_ + 1].text == name;
  }

  // The current token; the one behind it is current then.
  Token Take() { return Is(TokenKind::kEnd) ? tokens_[at_] : std::move(tokens_[at_++]); }
  bool TakeOperator(std::string_view text) {
    if (!IsOperator(text)) return false;
    Take();
    return true;
  }
  bool TakeName(std::string_view name) {
    if (!IsName(name)) return false;
    Take();
    return true;
  }
  Status ExpectOperator(std::string_view text) {
    return TakeOperator(text) ? OkStatus() : Unexpected(Quote(text));
  }
  Status Expect(TokenKind kind, std::string_view what) {
    if (!Is(kind)) return Unexpected(what);
    Take();
    return OkStatus();
  }
  StatusOr<std::string> ExpectName(std::string_view what) {
    if (!Is(TokenKind::kName)) return Unexpected(what);
    return Take().text;
  }

  // "line 3: want <what>, not '...'"
  Status Unexpected(std::string_view want) const {
    const Token& token = current();
    const char* instead = nullptr;
    switch (token.kind) {
      case TokenKind::kEnd:
        instead = "the end of the template";
        break;
      case TokenKind::kVariableEnd:
      case TokenKind::kBlockEnd:
        instead = "the end of the tag";
        break;
      case TokenKind::kText:
      case TokenKind::kVariableBegin:
      case TokenKind::kBlockBegin:
        instead = "text or a tag";
        break;
      default:
        return InvalidArgument("line {}: want {}, not {}", token.line, want, Quote(token.text));
    }
    return InvalidArgument("line {}: want {}, not {}", token.line, want, instead);
  }

  // One level of nesting, as long as it lives.
  class Nested {
   public:
    explicit Nested(TokenStream& stream) : stream_(stream) { ++stream_.depth_; }
    ~Nested() { --stream_.depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    Status Check() const { return stream_.CheckDepth(stream_.depth_); }

   private:
    TokenStream& stream_;
  };
  Status CheckDepth(int depth) const {
    if (depth <= kMaxSyntaxDepth) return OkStatus();
    return ResourceExhausted("line {}: nested more than {} deep", line(), kMaxSyntaxDepth);
  }

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace tq::jinja
