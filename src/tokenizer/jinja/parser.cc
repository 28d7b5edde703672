#include "tokenizer/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "tokenizer/jinja/expression_parser.h"

namespace tq::jinja {
namespace {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)), expressions_(tokens_) {}

  StatusOr<Body> Template() {
    TQ_ASSIGN_OR_RETURN(Body body, Statements({}));
    if (!tokens_.Is(TokenKind::kEnd)) return tokens_.Unexpected("the end of the template");
    return body;
  }

 private:
  // Up to a tag named in `ends`, whose name is then the current token; without ends, up to the end
  // of the template.
  StatusOr<Body> Statements(std::initializer_list<std::string_view> ends);
  // One tag, behind its "{%"; appends what it stands for.
  Status Tag(Body& out);

  StatusOr<Statement> If();
  StatusOr<Statement> For();
  StatusOr<Statement> Set();
  StatusOr<Statement> MacroBlock();
  StatusOr<Statement> CallBlock();
  StatusOr<Statement> FilterBlock();
  StatusOr<Statement> Generation();

  // Statements up to {% end %}, the tag included.
  StatusOr<Body> BlockUntil(std::string_view end);
  // The same for what runs apart from the loops around it.
  StatusOr<Body> ApartUntil(std::string_view end);
  StatusOr<Target> ParseTarget(bool with_attribute);
  // a / a, b / (a, b)
  Status Targets(bool with_attribute, Statement& statement);
  Status Parameters(Macro& macro);
  Statement New(StatementKind kind) const {
    Statement statement;
    statement.kind = kind;
    statement.line = tokens_.line();
    return statement;
  }
  Status EndTag() { return tokens_.Expect(TokenKind::kBlockEnd, "the end of the tag"); }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int loops_ = 0;        // around the current statement, of the same macro
  bool inside_ = false;  // of a loop, macro, or block with variables of its own
};

StatusOr<Body> Parser::Statements(std::initializer_list<std::string_view> ends) {
  TokenStream::Nested nested(tokens_);
  TQ_RETURN_IF_ERROR(nested.Check());
  Body body;
  while (!tokens_.Is(TokenKind::kEnd)) {
    if (tokens_.Is(TokenKind::kText)) {
      Statement text = New(StatementKind::kText);
      text.value = Value::Text(tokens_.Take().text);
      body.push_back(std::move(text));
    } else if (tokens_.Is(TokenKind::kVariableBegin)) {
      tokens_.Take();
      Statement output = New(StatementKind::kOutput);
      TQ_ASSIGN_OR_RETURN(output.expr, expressions_.TupleOrExpression());
      TQ_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kVariableEnd, "the end of the tag"));
      body.push_back(std::move(output));
    } else {
      TQ_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kBlockBegin, "a tag"));
      for (const std::string_view end : ends) {
        if (tokens_.IsName(end)) return body;
      }
      TQ_RETURN_IF_ERROR(Tag(body));
    }
  }
  if (ends.size() == 0) return body;
  return InvalidArgument("line {}: the template ends without {{% {} %}}", tokens_.line(),
                         *(ends.end() - 1));
}

Status Parser::Tag(Body& out) {
  Statement statement;
  if (tokens_.IsName("if")) {
    TQ_ASSIGN_OR_RETURN(statement, If());
  } else if (tokens_.IsName("for")) {
    TQ_ASSIGN_OR_RETURN(statement, For());
  } else if (tokens_.IsName("set")) {
    TQ_ASSIGN_OR_RETURN(statement, Set());
  } else if (tokens_.IsName("macro")) {
    TQ_ASSIGN_OR_RETURN(statement, MacroBlock());
  } else if (tokens_.IsName("call")) {
    TQ_ASSIGN_OR_RETURN(statement, CallBlock());
  } else if (tokens_.IsName("filter")) {
    TQ_ASSIGN_OR_RETURN(statement, FilterBlock());
  } else if (tokens_.IsName("generation")) {
    TQ_ASSIGN_OR_RETURN(statement, Generation());
  } else if (tokens_.IsName("break") || tokens_.IsName("continue")) {
    statement = New(tokens_.IsName("break") ? StatementKind::kBreak : StatementKind::kContinue);
    if (loops_ == 0) {
      return InvalidArgument("line {}: {} outside a loop", tokens_.line(), tokens_.current().text);
    }
    tokens_.Take();
    TQ_RETURN_IF_ERROR(EndTag());
  } else if (tokens_.Is(TokenKind::kName)) {
    return Unimplemented("line {}: the tag {}", tokens_.line(), Quote(tokens_.current().text));
  } else {
    return tokens_.Unexpected("the name of a tag");
  }
  out.push_back(std::move(statement));
  return OkStatus();
}

StatusOr<Body> Parser::BlockUntil(std::string_view end) {
  TQ_ASSIGN_OR_RETURN(Body body, Statements({end}));
  tokens_.Take();
  TQ_RETURN_IF_ERROR(EndTag());
  return body;
}

StatusOr<Body> Parser::ApartUntil(std::string_view end) {
  const int loops = std::exchange(loops_, 0);
  const bool inside = std::exchange(inside_, true);
  auto body = BlockUntil(end);
  loops_ = loops;
  inside_ = inside;
  return body;
}

StatusOr<Statement> Parser::If() {
  Statement statement = New(StatementKind::kIf);
  while (true) {
    const bool otherwise = tokens_.Take().text == "else";
    Branch branch;
    if (!otherwise) {
      TQ_ASSIGN_OR_RETURN(branch.condition, expressions_.TupleOrExpression());
    }
    TQ_RETURN_IF_ERROR(EndTag());
    if (otherwise) {
      TQ_ASSIGN_OR_RETURN(branch.body, Statements({"endif"}));
    } else {
      TQ_ASSIGN_OR_RETURN(branch.body, Statements({"elif", "else", "endif"}));
    }
    statement.branches.push_back(std::move(branch));
    if (tokens_.IsName("endif")) break;
  }
  tokens_.Take();
  TQ_RETURN_IF_ERROR(EndTag());
  return statement;
}

StatusOr<Target> Parser::ParseTarget(bool with_attribute) {
  Target target;
  const int line = tokens_.line();
  TQ_ASSIGN_OR_RETURN(target.name, tokens_.ExpectName("a name to assign to"));
  if (with_attribute && tokens_.TakeOperator(".")) {
    TQ_ASSIGN_OR_RETURN(target.attribute, tokens_.ExpectName("the name of an attribute"));
    if (target.attribute.starts_with("_")) {
      return Unimplemented("line {}: the attribute {}: names with underscores are Python's own",
                           line, Quote(target.attribute));
    }
  }
  if (tokens_.IsOperator(".") || tokens_.IsOperator("[")) {
    return Unimplemented("line {}: assigning to a part of {}", line, Quote(target.name));
  }
  for (const std::string_view fixed : {"true", "false", "none", "True", "False", "None"}) {
    if (target.name == fixed) return InvalidArgument("line {}: assigning to {}", line, fixed);
  }
  return target;
}

Status Parser::Targets(bool with_attribute, Statement& statement) {
  const bool parentheses = tokens_.TakeOperator("(");
  do {
    if (statement.unpack &&
        (tokens_.IsName("in") || tokens_.IsOperator("=") || tokens_.IsOperator(")"))) {
      break;  // a comma at the end
    }
    TQ_ASSIGN_OR_RETURN(statement.targets.emplace_back(), ParseTarget(with_attribute));
    statement.unpack = statement.unpack || tokens_.IsOperator(",");
  } while (tokens_.TakeOperator(","));
  return parentheses ? tokens_.ExpectOperator(")") : OkStatus();
}

StatusOr<Statement> Parser::For() {
  Statement statement = New(StatementKind::kFor);
  tokens_.Take();
  TQ_RETURN_IF_ERROR(Targets(/*with_attribute=*/false, statement));
  for (const Target& target : statement.targets) {
    if (target.name == "loop") {
      return InvalidArgument("line {}: a loop over the variable 'loop'", statement.line);
    }
  }
  if (!tokens_.TakeName("in")) return tokens_.Unexpected("'in'");
  TQ_ASSIGN_OR_RETURN(statement.expr, expressions_.TupleOrExpression(/*conditional=*/false));
  if (tokens_.TakeName("if")) {
    TQ_ASSIGN_OR_RETURN(statement.condition, expressions_.Expression());
  }
  if (tokens_.IsName("recursive")) {
    return Unimplemented("line {}: recursive loops", tokens_.line());
  }
  TQ_RETURN_IF_ERROR(EndTag());
  ++loops_;
  const bool inside = std::exchange(inside_, true);
  TQ_ASSIGN_OR_RETURN(statement.branches.emplace_back().body, Statements({"else", "endfor"}));
  --loops_;
  if (tokens_.TakeName("else")) {
    TQ_RETURN_IF_ERROR(EndTag());
    TQ_ASSIGN_OR_RETURN(statement.branches.emplace_back().body, Statements({"endfor"}));
  }
  inside_ = inside;
  tokens_.Take();
  TQ_RETURN_IF_ERROR(EndTag());
  return statement;
}

StatusOr<Statement> Parser::Set() {
  Statement statement = New(StatementKind::kSet);
  tokens_.Take();
  TQ_RETURN_IF_ERROR(Targets(/*with_attribute=*/true, statement));
  if (tokens_.TakeOperator("=")) {
    TQ_ASSIGN_OR_RETURN(statement.expr, expressions_.TupleOrExpression());
    TQ_RETURN_IF_ERROR(EndTag());
    return statement;
  }
  statement.kind = StatementKind::kSetBlock;
  if (statement.unpack) return tokens_.Unexpected("'='");
  TQ_ASSIGN_OR_RETURN(statement.expr, expressions_.Filters(nullptr));
  TQ_RETURN_IF_ERROR(EndTag());
  const bool inside = std::exchange(inside_, true);
  TQ_ASSIGN_OR_RETURN(statement.branches.emplace_back().body, BlockUntil("endset"));
  inside_ = inside;
  return statement;
}

Status Parser::Parameters(Macro& macro) {
  TQ_RETURN_IF_ERROR(tokens_.ExpectOperator("("));
  while (!tokens_.TakeOperator(")")) {
    if (tokens_.IsOperator("*") || tokens_.IsOperator("**")) {
      return Unimplemented("line {}: * and ** in parameters", tokens_.line());
    }
    Macro::Parameter parameter;
    TQ_ASSIGN_OR_RETURN(Target target, ParseTarget(/*with_attribute=*/false));
    parameter.name = std::move(target.name);
    if (parameter.name == "caller") {
      return Unimplemented("line {}: a parameter called 'caller'", tokens_.line());
    }
    if (tokens_.TakeOperator("=")) {
      TQ_ASSIGN_OR_RETURN(parameter.fallback, expressions_.Expression());
    } else if (!macro.parameters.empty() && macro.parameters.back().fallback != nullptr) {
      return InvalidArgument("line {}: the parameter {} without a default behind one with",
                             tokens_.line(), Quote(parameter.name));
    }
    macro.parameters.push_back(std::move(parameter));
    if (tokens_.TakeOperator(",")) continue;
    TQ_RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
    break;
  }
  return OkStatus();
}

// Macros see the variables of the place that defines them. Only at the top do those outlive every
// call, and no template in use defines them elsewhere.
StatusOr<Statement> Parser::MacroBlock() {
  Statement statement = New(StatementKind::kMacro);
  if (inside_) return Unimplemented("line {}: a macro inside a loop or block", statement.line);
  tokens_.Take();
  auto macro = std::make_shared<Macro>();
  TQ_ASSIGN_OR_RETURN(macro->name, tokens_.ExpectName("the name of a macro"));
  TQ_RETURN_IF_ERROR(Parameters(*macro));
  TQ_RETURN_IF_ERROR(EndTag());
  TQ_ASSIGN_OR_RETURN(macro->body, ApartUntil("endmacro"));
  statement.macro = std::move(macro);
  return statement;
}

StatusOr<Statement> Parser::CallBlock() {
  Statement statement = New(StatementKind::kCallBlock);
  tokens_.Take();
  auto macro = std::make_shared<Macro>();
  macro->name = "caller";
  if (tokens_.IsOperator("(")) TQ_RETURN_IF_ERROR(Parameters(*macro));
  TQ_ASSIGN_OR_RETURN(statement.expr, expressions_.Expression());
  if (statement.expr->kind != ExprKind::kCall) return tokens_.Unexpected("a call");
  TQ_RETURN_IF_ERROR(EndTag());
  TQ_ASSIGN_OR_RETURN(macro->body, ApartUntil("endcall"));
  statement.macro = std::move(macro);
  return statement;
}

StatusOr<Statement> Parser::FilterBlock() {
  Statement statement = New(StatementKind::kFilterBlock);
  tokens_.Take();
  TQ_ASSIGN_OR_RETURN(statement.expr, expressions_.FilterOfBlock());
  TQ_RETURN_IF_ERROR(EndTag());
  const bool inside = std::exchange(inside_, true);
  TQ_ASSIGN_OR_RETURN(statement.branches.emplace_back().body, BlockUntil("endfilter"));
  inside_ = inside;
  return statement;
}

StatusOr<Statement> Parser::Generation() {
  Statement statement = New(StatementKind::kScope);
  tokens_.Take();
  TQ_RETURN_IF_ERROR(EndTag());
  TQ_ASSIGN_OR_RETURN(statement.branches.emplace_back().body, ApartUntil("endgeneration"));
  return statement;
}

}  // namespace

StatusOr<Body> ParseTemplate(std::string_view source) {
  TQ_ASSIGN_OR_RETURN(std::vector<Token> tokens, Lex(source));
  return Parser(std::move(tokens)).Template();
}

}  // namespace tq::jinja
