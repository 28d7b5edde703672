// Expressions of templates, with Jinja's precedences.
#pragma once

#include <string>

#include "base/status.h"
#include "tokenizer/jinja/syntax.h"
#include "tokenizer/jinja/token_stream.h"

namespace tq::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}

  // `a if b else c` and everything that binds more tightly.
  StatusOr<ExprPtr> Expression();
  // The same without `if`, as behind `in` of a for block.
  StatusOr<ExprPtr> Or();
  // Expressions separated by commas make a tuple; a single one is itself. `conditional`: as in
  // Expression, else as in Or.
  StatusOr<ExprPtr> TupleOrExpression(bool conditional = true);
  // "| name(arguments) | ..." behind `input`, which may be null.
  StatusOr<ExprPtr> Filters(ExprPtr input);
  // A filter without "|" and those that follow it, of a filter block.
  StatusOr<ExprPtr> FilterOfBlock();

 private:
  StatusOr<ExprPtr> And();
  StatusOr<ExprPtr> Not();
  StatusOr<ExprPtr> Compare();
  StatusOr<ExprPtr> Sum();
  StatusOr<ExprPtr> Concat();
  StatusOr<ExprPtr> Product();
  StatusOr<ExprPtr> Power();
  StatusOr<ExprPtr> Unary(bool with_filters);
  StatusOr<ExprPtr> Primary();
  StatusOr<ExprPtr> NameOrConstant();
  StatusOr<ExprPtr> Number();
  StatusOr<ExprPtr> Parenthesized();
  StatusOr<ExprPtr> ListLiteral();
  StatusOr<ExprPtr> DictLiteral();
  StatusOr<ExprPtr> Postfix(ExprPtr base);
  StatusOr<ExprPtr> Attribute(ExprPtr base);
  StatusOr<ExprPtr> Subscript(ExprPtr base);
  StatusOr<ExprPtr> Filter(ExprPtr input);
  StatusOr<ExprPtr> FiltersAndTests(ExprPtr base);
  StatusOr<ExprPtr> Test(ExprPtr base);
  Status Arguments(Expr& call);
  // Expressions up to the bracket `end`, which is taken.
  Status Elements(std::string_view end, Expr& list);
  // Checks the depth of a node whose parts are there.
  StatusOr<ExprPtr> Finish(ExprPtr node) const;

  TokenStream& tokens_;
};

}  // namespace tq::jinja
