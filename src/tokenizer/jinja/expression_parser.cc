#include "tokenizer/jinja/expression_parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "tokenizer/jinja/builtins.h"

namespace tq::jinja {
namespace {

ExprPtr MakeExpr(ExprKind kind, int line, std::string name = {}) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  expr->name = std::move(name);
  return expr;
}

template <class... Parts>
ExprPtr MakeExpr(ExprKind kind, int line, std::string name, ExprPtr first, Parts... rest) {
  ExprPtr expr = MakeExpr(kind, line, std::move(name));
  expr->parts.push_back(std::move(first));
  (expr->parts.push_back(std::move(rest)), ...);
  return expr;
}

ExprPtr Constant(int line, Value value) {
  ExprPtr expr = MakeExpr(ExprKind::kConstant, line);
  expr->value = std::move(value);
  return expr;
}

constexpr std::array<std::string_view, 10> kKeywords = {"and", "or", "not",  "if",    "else",
                                                        "in",  "is", "elif", "endif", "endfor"};

bool IsKeyword(std::string_view name) {
  return std::find(kKeywords.begin(), kKeywords.end(), name) != kKeywords.end();
}

}  // namespace

StatusOr<ExprPtr> ExpressionParser::Finish(ExprPtr node) const {
  for (const ExprPtr& part : node->parts) {
    if (part != nullptr) node->depth = std::max(node->depth, 1 + part->depth);
  }
  TQ_RETURN_IF_ERROR(tokens_.CheckDepth(node->depth));
  return node;
}

StatusOr<ExprPtr> ExpressionParser::Expression() {
  TokenStream::Nested nested(tokens_);
  TQ_RETURN_IF_ERROR(nested.Check());
  TQ_ASSIGN_OR_RETURN(ExprPtr expr, Or());
  while (tokens_.IsName("if")) {
    const int line = tokens_.Take().line;
    TQ_ASSIGN_OR_RETURN(ExprPtr condition, Or());
    ExprPtr otherwise;
    if (tokens_.TakeName("else")) {
      TQ_ASSIGN_OR_RETURN(otherwise, Expression());
    }
    TQ_ASSIGN_OR_RETURN(expr,
                        Finish(MakeExpr(ExprKind::kConditional, line, "", std::move(condition),
                                        std::move(expr), std::move(otherwise))));
  }
  return expr;
}

StatusOr<ExprPtr> ExpressionParser::TupleOrExpression(bool conditional) {
  const int line = tokens_.line();
  const auto element = [&] { return conditional ? Expression() : Or(); };
  TQ_ASSIGN_OR_RETURN(ExprPtr first, element());
  if (!tokens_.IsOperator(",")) return first;
  ExprPtr tuple = MakeExpr(ExprKind::kTuple, line, "", std::move(first));
  while (tokens_.TakeOperator(",")) {
    if (tokens_.Is(TokenKind::kVariableEnd) || tokens_.Is(TokenKind::kBlockEnd)) break;
    TQ_ASSIGN_OR_RETURN(tuple->parts.emplace_back(), element());
  }
  return Finish(std::move(tuple));
}

StatusOr<ExprPtr> ExpressionParser::Or() {
  TQ_ASSIGN_OR_RETURN(ExprPtr left, And());
  while (tokens_.IsName("or")) {
    const int line = tokens_.Take().line;
    TQ_ASSIGN_OR_RETURN(ExprPtr right, And());
    TQ_ASSIGN_OR_RETURN(
        left, Finish(MakeExpr(ExprKind::kOr, line, "", std::move(left), std::move(right))));
  }
  return left;
}

StatusOr<ExprPtr> ExpressionParser::And() {
  TQ_ASSIGN_OR_RETURN(ExprPtr left, Not());
  while (tokens_.IsName("and")) {
    const int line = tokens_.Take().line;
    TQ_ASSIGN_OR_RETURN(ExprPtr right, Not());
    TQ_ASSIGN_OR_RETURN(
        left, Finish(MakeExpr(ExprKind::kAnd, line, "", std::move(left), std::move(right))));
  }
  return left;
}

StatusOr<ExprPtr> ExpressionParser::Not() {
  if (!tokens_.IsName("not")) return Compare();
  TokenStream::Nested nested(tokens_);
  TQ_RETURN_IF_ERROR(nested.Check());
  const int line = tokens_.Take().line;
  TQ_ASSIGN_OR_RETURN(ExprPtr operand, Not());
  return Finish(MakeExpr(ExprKind::kNot, line, "", std::move(operand)));
}

StatusOr<ExprPtr> ExpressionParser::Compare() {
  constexpr std::array<std::string_view, 6> kOrders = {"==", "!=", "<", "<=", ">", ">="};
  const int line = tokens_.line();
  TQ_ASSIGN_OR_RETURN(ExprPtr first, Sum());
  ExprPtr compare = MakeExpr(ExprKind::kCompare, line, "", std::move(first));
  while (true) {
    if (tokens_.Is(TokenKind::kOperator) &&
        std::find(kOrders.begin(), kOrders.end(), tokens_.current().text) != kOrders.end()) {
      compare->names.push_back(tokens_.Take().text);
    } else if (tokens_.TakeName("in")) {
      compare->names.emplace_back("in");
    } else if (tokens_.IsName("not") && tokens_.NextIsName("in")) {
      tokens_.Take();
      tokens_.Take();
      compare->names.emplace_back("not in");
    } else {
      break;
    }
    TQ_ASSIGN_OR_RETURN(compare->parts.emplace_back(), Sum());
  }
  if (compare->names.empty()) return std::move(compare->parts[0]);
  return Finish(std::move(compare));
}

StatusOr<ExprPtr> ExpressionParser::Sum() {
  TQ_ASSIGN_OR_RETURN(ExprPtr left, Concat());
  while (tokens_.IsOperator("+") || tokens_.IsOperator("-")) {
    Token op = tokens_.Take();
    TQ_ASSIGN_OR_RETURN(ExprPtr right, Concat());
    TQ_ASSIGN_OR_RETURN(left, Finish(MakeExpr(ExprKind::kArithmetic, op.line, std::move(op.text),
                                              std::move(left), std::move(right))));
  }
  return left;
}

StatusOr<ExprPtr> ExpressionParser::Concat() {
  const int line = tokens_.line();
  TQ_ASSIGN_OR_RETURN(ExprPtr first, Product());
  if (!tokens_.IsOperator("~")) return first;
  ExprPtr concat = MakeExpr(ExprKind::kConcat, line, "", std::move(first));
  while (tokens_.TakeOperator("~")) {
    TQ_ASSIGN_OR_RETURN(concat->parts.emplace_back(), Product());
  }
  return Finish(std::move(concat));
}

StatusOr<ExprPtr> ExpressionParser::Product() {
  TQ_ASSIGN_OR_RETURN(ExprPtr left, Power());
  while (tokens_.IsOperator("*") || tokens_.IsOperator("/") || tokens_.IsOperator("//") ||
         tokens_.IsOperator("%")) {
    Token op = tokens_.Take();
    TQ_ASSIGN_OR_RETURN(ExprPtr right, Power());
    TQ_ASSIGN_OR_RETURN(left, Finish(MakeExpr(ExprKind::kArithmetic, op.line, std::move(op.text),
                                              std::move(left), std::move(right))));
  }
  return left;
}

StatusOr<ExprPtr> ExpressionParser::Power() {
  TQ_ASSIGN_OR_RETURN(ExprPtr left, Unary(/*with_filters=*/true));
  while (tokens_.IsOperator("**")) {
    Token op = tokens_.Take();
    TQ_ASSIGN_OR_RETURN(ExprPtr right, Unary(/*with_filters=*/true));
    TQ_ASSIGN_OR_RETURN(left, Finish(MakeExpr(ExprKind::kArithmetic, op.line, std::move(op.text),
                                              std::move(left), std::move(right))));
  }
  return left;
}

StatusOr<ExprPtr> ExpressionParser::Unary(bool with_filters) {
  const int line = tokens_.line();
  ExprPtr expr;
  if (tokens_.IsOperator("-") || tokens_.IsOperator("+")) {
    TokenStream::Nested nested(tokens_);
    TQ_RETURN_IF_ERROR(nested.Check());
    const auto kind = tokens_.Take().text == "-" ? ExprKind::kNegative : ExprKind::kPositive;
    TQ_ASSIGN_OR_RETURN(ExprPtr operand, Unary(/*with_filters=*/false));
    TQ_ASSIGN_OR_RETURN(expr, Finish(MakeExpr(kind, line, "", std::move(operand))));
  } else {
    TQ_ASSIGN_OR_RETURN(ExprPtr primary, Primary());
    TQ_ASSIGN_OR_RETURN(expr, Postfix(std::move(primary)));
  }
  return with_filters ? FiltersAndTests(std::move(expr)) : std::move(expr);
}

StatusOr<ExprPtr> ExpressionParser::Primary() {
  const int line = tokens_.line();
  switch (tokens_.current().kind) {
    case TokenKind::kName:
      return NameOrConstant();
    case TokenKind::kString: {
      std::string text;  // strings side by side are one
      while (tokens_.Is(TokenKind::kString)) text += tokens_.Take().text;
      return Constant(line, Value::Text(std::move(text)));
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return Number();
    default:
      break;
  }
  TokenStream::Nested nested(tokens_);
  TQ_RETURN_IF_ERROR(nested.Check());
  if (tokens_.TakeOperator("(")) return Parenthesized();
  if (tokens_.TakeOperator("[")) return ListLiteral();
  if (tokens_.TakeOperator("{")) return DictLiteral();
  return tokens_.Unexpected("an expression");
}

StatusOr<ExprPtr> ExpressionParser::NameOrConstant() {
  const int line = tokens_.line();
  const std::string& name = tokens_.current().text;
  if (IsKeyword(name)) return tokens_.Unexpected("an expression");
  Token token = tokens_.Take();
  if (token.text == "true" || token.text == "True") return Constant(line, Value(true));
  if (token.text == "false" || token.text == "False") return Constant(line, Value(false));
  if (token.text == "none" || token.text == "None") return Constant(line, Value(None{}));
  return MakeExpr(ExprKind::kName, line, std::move(token.text));
}

StatusOr<ExprPtr> ExpressionParser::Number() {
  const Token token = tokens_.Take();
  const char *begin = token.text.data(), *end = begin + token.text.size();
  if (token.kind == TokenKind::kInteger) {
    int64_t value = 0;
    if (std::from_chars(begin, end, value).ec != std::errc()) {
      return Unimplemented("line {}: the integer {} is beyond 64 bits", token.line,
                           Quote(token.text));
    }
    return Constant(token.line, Value(value));
  }
  double value = 0;
  if (std::from_chars(begin, end, value).ec != std::errc()) {
    return InvalidArgument("line {}: the number {} is beyond a float", token.line,
                           Quote(token.text));
  }
  return Constant(token.line, Value(value));
}

Status ExpressionParser::Elements(std::string_view end, Expr& list) {
  while (!tokens_.TakeOperator(end)) {
    TQ_ASSIGN_OR_RETURN(list.parts.emplace_back(), Expression());
    if (tokens_.TakeOperator(",")) continue;
    return tokens_.ExpectOperator(end);
  }
  return OkStatus();
}

StatusOr<ExprPtr> ExpressionParser::Parenthesized() {
  const int line = tokens_.line();
  if (tokens_.TakeOperator(")")) return MakeExpr(ExprKind::kTuple, line);
  TQ_ASSIGN_OR_RETURN(ExprPtr first, Expression());
  if (tokens_.TakeOperator(")")) return first;
  TQ_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
  ExprPtr tuple = MakeExpr(ExprKind::kTuple, line, "", std::move(first));
  TQ_RETURN_IF_ERROR(Elements(")", *tuple));
  return Finish(std::move(tuple));
}

StatusOr<ExprPtr> ExpressionParser::ListLiteral() {
  ExprPtr list = MakeExpr(ExprKind::kList, tokens_.line());
  TQ_RETURN_IF_ERROR(Elements("]", *list));
  return Finish(std::move(list));
}

StatusOr<ExprPtr> ExpressionParser::DictLiteral() {
  ExprPtr dict = MakeExpr(ExprKind::kDict, tokens_.line());
  while (!tokens_.TakeOperator("}")) {
    TQ_ASSIGN_OR_RETURN(dict->parts.emplace_back(), Expression());
    TQ_RETURN_IF_ERROR(tokens_.ExpectOperator(":"));
    TQ_ASSIGN_OR_RETURN(dict->parts.emplace_back(), Expression());
    if (tokens_.TakeOperator(",")) continue;
    TQ_RETURN_IF_ERROR(tokens_.ExpectOperator("}"));
    break;
  }
  return Finish(std::move(dict));
}

StatusOr<ExprPtr> ExpressionParser::Postfix(ExprPtr base) {
  while (true) {
    const int line = tokens_.line();
    if (tokens_.TakeOperator(".")) {
      TQ_ASSIGN_OR_RETURN(base, Attribute(std::move(base)));
    } else if (tokens_.TakeOperator("[")) {
      TQ_ASSIGN_OR_RETURN(base, Subscript(std::move(base)));
    } else if (tokens_.IsOperator("(")) {
      ExprPtr call = MakeExpr(ExprKind::kCall, line, "", std::move(base));
      TQ_RETURN_IF_ERROR(Arguments(*call));
      TQ_ASSIGN_OR_RETURN(base, Finish(std::move(call)));
    } else {
      return base;
    }
  }
}

StatusOr<ExprPtr> ExpressionParser::Attribute(ExprPtr base) {
  const int line = tokens_.line();
  if (tokens_.Is(TokenKind::kInteger)) {
    TQ_ASSIGN_OR_RETURN(ExprPtr index, Number());
    return Finish(MakeExpr(ExprKind::kSubscript, line, "", std::move(base), std::move(index)));
  }
  TQ_ASSIGN_OR_RETURN(std::string name, tokens_.ExpectName("the name of an attribute"));
  if (name.starts_with("_")) {
    return Unimplemented("line {}: the attribute {}: names with underscores are Python's own", line,
                         Quote(name));
  }
  return Finish(MakeExpr(ExprKind::kAttribute, line, std::move(name), std::move(base)));
}

StatusOr<ExprPtr> ExpressionParser::Subscript(ExprPtr base) {
  const int line = tokens_.line();
  std::array<ExprPtr, 3> bounds;
  size_t colons = 0;
  while (!tokens_.IsOperator("]")) {
    if (tokens_.TakeOperator(":")) {
      if (++colons > 2) return tokens_.Unexpected("']'");
    } else {
      if (bounds[colons] != nullptr) return tokens_.Unexpected("']'");
      TQ_ASSIGN_OR_RETURN(bounds[colons], Expression());
    }
  }
  tokens_.Take();
  if (colons > 0) {
    return Finish(MakeExpr(ExprKind::kSlice, line, "", std::move(base), std::move(bounds[0]),
                           std::move(bounds[1]), std::move(bounds[2])));
  }
  if (bounds[0] == nullptr) return InvalidArgument("line {}: an empty subscript", line);
  return Finish(MakeExpr(ExprKind::kSubscript, line, "", std::move(base), std::move(bounds[0])));
}

Status ExpressionParser::Arguments(Expr& call) {
  TQ_RETURN_IF_ERROR(tokens_.ExpectOperator("("));
  std::vector<ExprPtr> named;
  while (!tokens_.TakeOperator(")")) {
    if (tokens_.IsOperator("*") || tokens_.IsOperator("**")) {
      return Unimplemented("line {}: * and ** in arguments", tokens_.line());
    }
    TQ_ASSIGN_OR_RETURN(ExprPtr argument, Expression());
    if (argument->kind == ExprKind::kName && tokens_.TakeOperator("=")) {
      call.names.push_back(argument->name);
      TQ_ASSIGN_OR_RETURN(named.emplace_back(), Expression());
    } else if (!named.empty()) {
      return InvalidArgument("line {}: a positional argument behind a named one", tokens_.line());
    } else {
      call.parts.push_back(std::move(argument));
    }
    if (tokens_.TakeOperator(",")) continue;
    TQ_RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
    break;
  }
  for (ExprPtr& argument : named) call.parts.push_back(std::move(argument));
  return OkStatus();
}

StatusOr<ExprPtr> ExpressionParser::FiltersAndTests(ExprPtr base) {
  while (true) {
    if (tokens_.IsOperator("|")) {
      TQ_ASSIGN_OR_RETURN(base, Filters(std::move(base)));
    } else if (tokens_.TakeName("is")) {
      TQ_ASSIGN_OR_RETURN(base, Test(std::move(base)));
    } else if (tokens_.IsOperator("(")) {
      // Behind a filter or test; else Postfix has taken it.
      return tokens_.Unexpected("an operator");
    } else {
      return base;
    }
  }
}

StatusOr<ExprPtr> ExpressionParser::Filter(ExprPtr input) {
  const int line = tokens_.line();
  TQ_ASSIGN_OR_RETURN(std::string name, tokens_.ExpectName("the name of a filter"));
  if (FindFilter(name) == nullptr) {
    return Unimplemented("line {}: the filter {}", line, Quote(name));
  }
  ExprPtr filter = MakeExpr(ExprKind::kFilter, line, std::move(name), std::move(input));
  if (tokens_.IsOperator("(")) TQ_RETURN_IF_ERROR(Arguments(*filter));
  return Finish(std::move(filter));
}

StatusOr<ExprPtr> ExpressionParser::Filters(ExprPtr input) {
  while (tokens_.TakeOperator("|")) {
    TQ_ASSIGN_OR_RETURN(input, Filter(std::move(input)));
  }
  return input;
}

StatusOr<ExprPtr> ExpressionParser::FilterOfBlock() {
  TQ_ASSIGN_OR_RETURN(ExprPtr first, Filter(nullptr));
  return Filters(std::move(first));
}

StatusOr<ExprPtr> ExpressionParser::Test(ExprPtr base) {
  const int line = tokens_.line();
  const bool negated = tokens_.TakeName("not");
  TQ_ASSIGN_OR_RETURN(std::string name, tokens_.ExpectName("the name of a test"));
  if (FindTest(name) == nullptr) return Unimplemented("line {}: the test {}", line, Quote(name));
  ExprPtr test = MakeExpr(ExprKind::kTest, line, std::move(name), std::move(base));
  if (tokens_.IsOperator("(")) {
    TQ_RETURN_IF_ERROR(Arguments(*test));
  } else if (tokens_.Is(TokenKind::kString) || tokens_.Is(TokenKind::kInteger) ||
             tokens_.Is(TokenKind::kFloat) || tokens_.IsOperator("[") || tokens_.IsOperator("{") ||
             (tokens_.Is(TokenKind::kName) && !IsKeyword(tokens_.current().text))) {
    // An argument without parentheses: `x is divisibleby 3`.
    TQ_ASSIGN_OR_RETURN(ExprPtr primary, Primary());
    TQ_ASSIGN_OR_RETURN(test->parts.emplace_back(), Postfix(std::move(primary)));
  }
  TQ_ASSIGN_OR_RETURN(test, Finish(std::move(test)));
  if (!negated) return test;
  return Finish(MakeExpr(ExprKind::kNot, line, "", std::move(test)));
}

}  // namespace tq::jinja
