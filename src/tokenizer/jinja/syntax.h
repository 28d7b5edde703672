// What a parsed template is made of.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokenizer/jinja/value.h"

namespace tq::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind {
  kConstant,     // value
  kName,         // name
  kList,         // parts
  kTuple,        // parts
  kDict,         // parts: key, value, key, value, ...
  kAttribute,    // parts[0].name
  kSubscript,    // parts[0][parts[1]]
  kSlice,        // parts[0][parts[1]:parts[2]:parts[3]]; absent ones are null
  kCall,         // parts[0](arguments)
  kFilter,       // parts[0] | name(arguments); parts[0] is null in filter blocks
  kTest,         // parts[0] is name(arguments)
  kNegative,     // -parts[0]
  kPositive,     // +parts[0]
  kNot,          // not parts[0]
  kAnd,          // parts[0] and parts[1]
  kOr,           // parts[0] or parts[1]
  kArithmetic,   // parts[0] name parts[1]
  kConcat,       // parts, joined by ~
  kCompare,      // parts[0] names[0] parts[1] names[1] parts[2] ...
  kConditional,  // parts[1] if parts[0] else parts[2] (null: undefined)
};

struct Expr {
  ExprKind kind;
  int line = 0;
  int depth = 1;  // 1 and the deepest part's
  std::string name;
  Value value;
  // The arguments of calls, filters and tests follow parts[0]: positional ones, then one for each
  // of `names`.
  std::vector<ExprPtr> parts;
  std::vector<std::string> names;
};

struct Statement;
using Body = std::vector<Statement>;

enum class StatementKind {
  kText,         // value
  kOutput,       // {{ expr }}
  kIf,           // branches; the last one's condition is null for else
  kFor,          // targets, expr, condition; branches[0] and, for else, branches[1]
  kSet,          // targets = expr
  kSetBlock,     // targets[0] = branches[0], through filters in `expr` if not null
  kMacro,        // macro
  kCallBlock,    // expr is the call, macro what `caller` is
  kFilterBlock,  // expr is the filter, of branches[0]
  kScope,        // branches[0] with variables of its own (Hugging Face's generation blocks)
  kBreak,
  kContinue,
};

// What `for` and `set` assign to: a name, or the attribute of a namespace.
struct Target {
  std::string name, attribute;  // attribute empty: the name itself
};

struct Branch {
  ExprPtr condition;
  Body body;
};

// A macro, or what a call block hands over as `caller`.
struct Macro {
  struct Parameter {
    std::string name;
    ExprPtr fallback;  // null: undefined
  };
  std::string name;
  std::vector<Parameter> parameters;
  Body body;
};

struct Statement {
  StatementKind kind;
  int line = 0;
  Value value;
  ExprPtr expr, condition;
  std::vector<Target> targets;
  bool unpack = false;  // several targets, or one in parentheses with a comma
  std::vector<Branch> branches;
  std::shared_ptr<const Macro> macro;
};

}  // namespace tq::jinja
