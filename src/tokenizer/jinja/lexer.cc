#include "tokenizer/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "checkpoint/quote.h"
#include "tokenizer/jinja/python_text.h"
#include "tokenizer/jinja/string_literal.h"

namespace tq::jinja {
namespace {

// Longest first.
constexpr std::array<std::string_view, 26> kOperators = {
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// "\r\n" and "\r" become "\n"; one newline at the end is dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)), rest_(source_) {}

  StatusOr<std::vector<Token>> Run() {
    while (!rest_.empty()) TQ_RETURN_IF_ERROR(TextAndTag());
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void Add(TokenKind kind, std::string_view text) {
    tokens_.push_back({kind, line_, std::string(text)});
  }

  void Skip(size_t bytes) {
    line_ += static_cast<int>(
        std::count(rest_.begin(), rest_.begin() + static_cast<int64_t>(bytes), '\n'));
    rest_.remove_prefix(bytes);
  }

  // Text up to the next tag, and the tag.
  Status TextAndTag() {
    size_t at = 0;
    while ((at = rest_.find('{', at)) != std::string_view::npos) {
      const std::string_view opening = rest_.substr(at, 2);
      if (opening == "{{" || opening == "{%" || opening == "{#") break;
      ++at;
    }
    if (at == std::string_view::npos) {
      Add(TokenKind::kText, rest_);
      Skip(rest_.size());
      return OkStatus();
    }
    const char type = rest_[at + 1];
    const char sign = at + 2 < rest_.size() ? rest_[at + 2] : '\0';
    const bool has_sign = sign == '-' || sign == '+';
    AddText(rest_.substr(0, at), type, sign);
    Skip(at + (has_sign ? 3 : 2));
    if (type == '#') return Comment();
    Add(type == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
    return Tag(type == '{');
  }

  void AddText(std::string_view text, char type, char sign) {
    if (sign == '-') {
      text.remove_suffix(TrailingSpace(text));
    } else if (sign != '+' && type != '{') {
      // Where the line begins, if what precedes the tag on it is white space.
      const size_t newline = text.rfind('\n');
      const bool at_line_start = newline != std::string_view::npos || line_starts_;
      const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
      if (at_line_start && LeadingSpace(text.substr(begin)) == text.size() - begin) {
        text = text.substr(0, begin);
      }
    }
    if (!text.empty()) Add(TokenKind::kText, text);
  }

  // Skips the end of a tag (`closing`, after its sign) and what white space goes with it.
  void Close(std::string_view closing, char sign, bool trim_newline) {
    size_t size = closing.size() + (sign != '\0' ? 1 : 0);
    if (sign == '-') {
      size += LeadingSpace(rest_.substr(size));
    } else if (sign == '\0' && trim_newline && rest_.substr(size).starts_with('\n')) {
      ++size;
    }
    line_starts_ = rest_[size - 1] == '\n';
    Skip(size);
  }

  Status Comment() {
    const size_t at = rest_.find("#}");
    if (at == std::string_view::npos) {
      return InvalidArgument("line {}: a comment that does not end", line_);
    }
    const char last = at > 0 ? rest_[at - 1] : '\0';
    const char sign = last == '-' || last == '+' ? last : '\0';
    Skip(sign != '\0' ? at - 1 : at);
    Close("#}", sign, true);
    return OkStatus();
  }

  // Whether the tag ends here; if so, it is closed.
  bool TagEnds(bool variable) {
    const std::string_view closing = variable ? "}}" : "%}";
    char sign = '\0';
    if (rest_[0] == '-' || (rest_[0] == '+' && !variable)) sign = rest_[0];
    if (!rest_.substr(sign != '\0' ? 1 : 0).starts_with(closing)) return false;
    Close(closing, sign, !variable);
    return true;
  }

  Status Tag(bool variable) {
    const int line = line_;
    std::string brackets;  // closing ones that are due
    while (true) {
      Skip(LeadingSpace(rest_));
      if (rest_.empty()) return InvalidArgument("line {}: a tag that does not end", line);
      const int end_line = line_;
      if (brackets.empty() && TagEnds(variable)) {
        tokens_.push_back(
            {variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, end_line, ""});
        return OkStatus();
      }
      TQ_RETURN_IF_ERROR(TagToken(brackets));
    }
  }

  Status TagToken(std::string& brackets) {
    const char c = rest_[0];
    if (IsDigit(c)) return Number();
    if (IsNameStart(c)) {
      size_t size = 1;
      while (size < rest_.size() && (IsNameStart(rest_[size]) || IsDigit(rest_[size]))) ++size;
      Add(TokenKind::kName, rest_.substr(0, size));
      Skip(size);
      return OkStatus();
    }
    if (c == '"' || c == '\'') {
      auto literal = ReadStringLiteral(rest_);
      if (!literal.ok()) return literal.status().WithContext(fmt::format("line {}", line_));
      Add(TokenKind::kString, literal->value);
      Skip(literal->size);
      return OkStatus();
    }
    const auto op = std::find_if(kOperators.begin(), kOperators.end(),
                                 [&](std::string_view o) { return rest_.starts_with(o); });
    if (op == kOperators.end()) {
      return InvalidArgument("line {}: unexpected {}", line_, Quote(rest_.substr(0, 4)));
    }
    if (c == '(' || c == '[' || c == '{') brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty() || brackets.back() != c) {
        return InvalidArgument("line {}: {} without its opening bracket", line_, Quote(*op));
      }
      brackets.pop_back();
    }
    Add(TokenKind::kOperator, *op);
    Skip(op->size());
    return OkStatus();
  }

  size_t Digits(size_t at) const {
    while (at < rest_.size() && IsDigit(rest_[at])) ++at;
    return at;
  }

  Status Number() {
    size_t end = Digits(0);
    const size_t integer = end;
    // Not the point of `x.0.y`: an attribute that is a number.
    const bool attribute = !tokens_.empty() && tokens_.back().kind == TokenKind::kOperator &&
                           tokens_.back().text == ".";
    if (!attribute && end + 1 < rest_.size() && rest_[end] == '.' && IsDigit(rest_[end + 1])) {
      end = Digits(end + 1);
    }
    if (!attribute && end < rest_.size() && (rest_[end] == 'e' || rest_[end] == 'E')) {
      size_t digits = end + 1;
      if (digits < rest_.size() && (rest_[digits] == '+' || rest_[digits] == '-')) ++digits;
      if (Digits(digits) > digits) end = Digits(digits);
    }
    const bool odd = end < rest_.size() && IsNameStart(rest_[end]);  // 0x1F, 1_000
    if (odd || (end == integer && integer > 1 && rest_[0] == '0')) {
      return Unimplemented("line {}: the number {}", line_, Quote(rest_.substr(0, end + 1)));
    }
    Add(end == integer ? TokenKind::kInteger : TokenKind::kFloat, rest_.substr(0, end));
    Skip(end);
    return OkStatus();
  }

  std::string source_;
  std::string_view rest_;  // of source_
  int line_ = 1;
  bool line_starts_ = true;  // the text that comes begins a line
  std::vector<Token> tokens_;
};

}  // namespace

StatusOr<std::vector<Token>> Lex(std::string_view source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace tq::jinja
