#include "tokenizer/jinja/evaluator.h"

#include <algorithm>
#include <array>
#include <utility>

#include "checkpoint/quote.h"

namespace tq::jinja {

// The variables of the template, a macro, or one round of a loop. Scopes lie on the stack of the
// evaluator, the one of the template below all others. A closure is kept in variables only, never
// in lists or namespaces (value.h): one of a macro has the template's scope, one of a call block is
// seen only by the macro that is called, which ends before the scope does.
class Scope {
 public:
  explicit Scope(Scope* outer) : outer_(outer) {}

  const Value* Find(std::string_view name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->outer_) {
      const auto found = scope->variables_.find(name);
      if (found != scope->variables_.end()) return &found->second;
    }
    return nullptr;
  }
  // `name` must outlive the scope: it is one of the template.
  void Set(std::string_view name, Value value) { variables_[name] = std::move(value); }

 private:
  Scope* outer_;
  std::map<std::string_view, Value> variables_;
};

namespace {

// How a body ended.
enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator(const Variables& variables, Runtime& runtime)
      : variables_(variables), runtime_(runtime), budget_(runtime.budget) {}

  StatusOr<MarkedText> Template(const Body& body) {
    Scope scope(nullptr);
    root_ = &scope;
    const auto flow = Run(body, scope);
    if (!flow.ok()) return flow.status().WithContext(fmt::format("line {}", line_));
    return std::move(out_);
  }

 private:
  StatusOr<Flow> Run(const Body& body, Scope& scope);
  StatusOr<Flow> Run(const Statement& statement, Scope& scope);
  StatusOr<Flow> If(const Statement& statement, Scope& scope);
  StatusOr<Flow> For(const Statement& statement, Scope& scope);
  StatusOr<std::shared_ptr<const List>> LoopItems(const Statement& statement, Scope& scope);
  Status CallBlock(const Statement& statement, Scope& scope);
  // What a body writes, instead of writing it.
  StatusOr<MarkedText> Capture(const Body& body, Scope& scope);
  Status Write(const MarkedText& text);
  Status Assign(const Statement& statement, const Value& value, Scope& scope);
  Status Assign(const Target& target, const Value& value, Scope& scope);

  StatusOr<Value> Eval(const Expr& expr, Scope& scope);
  StatusOr<Value> EvalOrUndefined(const ExprPtr& expr, Scope& scope);
  StatusOr<std::vector<Value>> EvalParts(const Expr& expr, size_t first, Scope& scope);
  StatusOr<Value> Dispatch(const Expr& expr, Scope& scope);
  StatusOr<Value> Name(const Expr& expr, const Scope& scope) const;
  StatusOr<Value> DictOf(const Expr& expr, Scope& scope);
  StatusOr<Value> Sign(const Expr& expr, Scope& scope);
  StatusOr<Value> Concat(const Expr& expr, Scope& scope);
  StatusOr<Value> Compare(const Expr& expr, Scope& scope);
  StatusOr<bool> CompareTwo(std::string_view op, const Value& a, const Value& b);
  StatusOr<Value> Conditional(const Expr& expr, Scope& scope);
  StatusOr<Arguments> EvalArguments(const Expr& expr, Scope& scope);
  StatusOr<Value> ApplyFilters(const Expr& expr, const Value& input, Scope& scope);
  StatusOr<Value> FilterOf(const Expr& expr, const Value& input, Scope& scope);
  StatusOr<Value> Call(const Expr& expr, const Value* caller, Scope& scope);
  StatusOr<Value> CallMacro(const Closure& closure, const Arguments& arguments,
                            const Value* caller);

  const Variables& variables_;
  Runtime& runtime_;
  Budget& budget_;
  Scope* root_ = nullptr;
  MarkedText out_;
  int line_ = 0;  // of what is evaluated
};

// Names of Jinja's that we lack: undefined would be another answer than a template expects.
constexpr std::array<std::string_view, 5> kOtherGlobals = {"cycler", "joiner", "lipsum", "self",
                                                           "super"};

StatusOr<Flow> Evaluator::Run(const Body& body, Scope& scope) {
  for (const Statement& statement : body) {
    TQ_ASSIGN_OR_RETURN(const Flow flow, Run(statement, scope));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

StatusOr<Flow> Evaluator::Run(const Statement& statement, Scope& scope) {
  line_ = statement.line;
  TQ_RETURN_IF_ERROR(budget_.UseSteps(1));
  Budget::Nested nested(budget_);
  TQ_RETURN_IF_ERROR(nested.Check());
  switch (statement.kind) {
    case StatementKind::kText:
      TQ_RETURN_IF_ERROR(Write(*statement.value.text()));
      break;
    case StatementKind::kOutput: {
      TQ_ASSIGN_OR_RETURN(const Value value, Eval(*statement.expr, scope));
      TQ_ASSIGN_OR_RETURN(const MarkedText text, ToText(value, budget_));
      TQ_RETURN_IF_ERROR(Write(text));
      break;
    }
    case StatementKind::kIf:
      return If(statement, scope);
    case StatementKind::kFor:
      return For(statement, scope);
    case StatementKind::kSet: {
      TQ_ASSIGN_OR_RETURN(const Value value, Eval(*statement.expr, scope));
      line_ = statement.line;
      TQ_RETURN_IF_ERROR(Assign(statement, value, scope));
      break;
    }
    case StatementKind::kSetBlock: {
      TQ_ASSIGN_OR_RETURN(MarkedText text, Capture(statement.branches[0].body, scope));
      Value value(std::move(text));
      if (statement.expr != nullptr) {
        TQ_ASSIGN_OR_RETURN(value, ApplyFilters(*statement.expr, value, scope));
      }
      TQ_RETURN_IF_ERROR(Assign(statement.targets[0], value, scope));
      break;
    }
    case StatementKind::kMacro:
      scope.Set(statement.macro->name,
                Value(std::make_shared<const Closure>(Closure{statement.macro, root_})));
      break;
    case StatementKind::kCallBlock:
      TQ_RETURN_IF_ERROR(CallBlock(statement, scope));
      break;
    case StatementKind::kFilterBlock: {
      TQ_ASSIGN_OR_RETURN(MarkedText text, Capture(statement.branches[0].body, scope));
      TQ_ASSIGN_OR_RETURN(const Value value,
                          ApplyFilters(*statement.expr, Value(std::move(text)), scope));
      TQ_ASSIGN_OR_RETURN(const MarkedText filtered, ToText(value, budget_));
      TQ_RETURN_IF_ERROR(Write(filtered));
      break;
    }
    case StatementKind::kScope: {
      Scope inner(&scope);
      TQ_RETURN_IF_ERROR(Run(statement.branches[0].body, inner).status());
      break;
    }
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

StatusOr<Flow> Evaluator::If(const Statement& statement, Scope& scope) {
  for (const Branch& branch : statement.branches) {
    if (branch.condition != nullptr) {
      TQ_ASSIGN_OR_RETURN(const Value condition, Eval(*branch.condition, scope));
      if (!condition.Truth()) continue;
    }
    return Run(branch.body, scope);
  }
  return Flow::kNext;
}

StatusOr<std::shared_ptr<const List>> Evaluator::LoopItems(const Statement& statement,
                                                           Scope& scope) {
  TQ_ASSIGN_OR_RETURN(const Value sequence, Eval(*statement.expr, scope));
  line_ = statement.line;
  TQ_ASSIGN_OR_RETURN(auto items, Iterate(sequence, budget_));
  if (statement.condition == nullptr) return items;
  auto kept = std::make_shared<List>();
  for (const Value& item : items->items) {
    Scope round(&scope);
    TQ_RETURN_IF_ERROR(Assign(statement, item, round));
    TQ_ASSIGN_OR_RETURN(const Value keep, Eval(*statement.condition, round));
    if (keep.Truth()) kept->items.push_back(item);
  }
  return std::shared_ptr<const List>(std::move(kept));
}

StatusOr<Flow> Evaluator::For(const Statement& statement, Scope& scope) {
  auto loop = std::make_shared<Loop>();
  TQ_ASSIGN_OR_RETURN(loop->items, LoopItems(statement, scope));
  for (; loop->index < loop->items->items.size(); ++loop->index) {
    line_ = statement.line;
    Scope round(&scope);
    round.Set("loop", Value(std::shared_ptr<const Loop>(loop)));
    TQ_RETURN_IF_ERROR(Assign(statement, loop->items->items[loop->index], round));
    TQ_ASSIGN_OR_RETURN(const Flow flow, Run(statement.branches[0].body, round));
    if (flow == Flow::kBreak) break;
  }
  if (!loop->items->items.empty() || statement.branches.size() == 1) return Flow::kNext;
  Scope otherwise(&scope);
  return Run(statement.branches[1].body, otherwise);
}

Status Evaluator::CallBlock(const Statement& statement, Scope& scope) {
  const Value caller(std::make_shared<const Closure>(Closure{statement.macro, &scope}));
  TQ_ASSIGN_OR_RETURN(const Value value, Call(*statement.expr, &caller, scope));
  TQ_ASSIGN_OR_RETURN(const MarkedText text, ToText(value, budget_));
  return Write(text);
}

StatusOr<MarkedText> Evaluator::Capture(const Body& body, Scope& scope) {
  MarkedText outer = std::exchange(out_, MarkedText());
  Scope inner(&scope);
  TQ_RETURN_IF_ERROR(Run(body, inner).status());
  return std::exchange(out_, std::move(outer));
}

Status Evaluator::Write(const MarkedText& text) {
  TQ_RETURN_IF_ERROR(budget_.Use(text.size()));
  TQ_RETURN_IF_ERROR(budget_.CheckTextSize(out_.size() + text.size()));
  out_.Append(text);
  return OkStatus();
}

Status Evaluator::Assign(const Statement& statement, const Value& value, Scope& scope) {
  if (!statement.unpack) return Assign(statement.targets[0], value, scope);
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(value, budget_));
  if (list->items.size() != statement.targets.size()) {
    return InvalidArgument("{} values for {} names", list->items.size(), statement.targets.size());
  }
  for (size_t i = 0; i < list->items.size(); ++i) {
    TQ_RETURN_IF_ERROR(Assign(statement.targets[i], list->items[i], scope));
  }
  return OkStatus();
}

Status Evaluator::Assign(const Target& target, const Value& value, Scope& scope) {
  if (target.attribute.empty()) {
    scope.Set(target.name, value);
    return OkStatus();
  }
  const Value* object = scope.Find(target.name);
  Namespace* space = object == nullptr ? nullptr : object->name_space();
  if (space == nullptr) {
    return InvalidArgument("{} is no namespace, so {} cannot be set", Quote(target.name),
                           Quote(target.attribute));
  }
  if (!value.is_data()) return Unimplemented("{} inside a namespace", value.TypeName());
  space->attributes[target.attribute] = value;
  return OkStatus();
}

StatusOr<Value> Evaluator::Eval(const Expr& expr, Scope& scope) {
  line_ = expr.line;
  TQ_RETURN_IF_ERROR(budget_.UseSteps(1));
  Budget::Nested nested(budget_);
  TQ_RETURN_IF_ERROR(nested.Check());
  return Dispatch(expr, scope);
}

StatusOr<Value> Evaluator::EvalOrUndefined(const ExprPtr& expr, Scope& scope) {
  if (expr == nullptr) return Value();
  return Eval(*expr, scope);
}

StatusOr<std::vector<Value>> Evaluator::EvalParts(const Expr& expr, size_t first, Scope& scope) {
  std::vector<Value> values;
  values.reserve(expr.parts.size() - first);
  for (size_t i = first; i < expr.parts.size(); ++i) {
    TQ_ASSIGN_OR_RETURN(values.emplace_back(), EvalOrUndefined(expr.parts[i], scope));
  }
  line_ = expr.line;
  return values;
}

StatusOr<Value> Evaluator::Dispatch(const Expr& expr, Scope& scope) {
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.value;
    case ExprKind::kName:
      return Name(expr, scope);
    case ExprKind::kDict:
      return DictOf(expr, scope);
    case ExprKind::kConcat:
      return Concat(expr, scope);
    case ExprKind::kCompare:
      return Compare(expr, scope);
    case ExprKind::kConditional:
      return Conditional(expr, scope);
    case ExprKind::kCall:
      return Call(expr, nullptr, scope);
    case ExprKind::kNegative:
    case ExprKind::kPositive:
      return Sign(expr, scope);
    case ExprKind::kFilter: {
      TQ_ASSIGN_OR_RETURN(const Value input, Eval(*expr.parts[0], scope));
      return FilterOf(expr, input, scope);
    }
    case ExprKind::kTest: {
      TQ_ASSIGN_OR_RETURN(const Value input, Eval(*expr.parts[0], scope));
      TQ_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expr, scope));
      auto holds = FindTest(expr.name)(runtime_, input, arguments);
      if (!holds.ok()) return holds.status().WithContext(fmt::format("is {}", expr.name));
      return Value(*holds);
    }
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      TQ_ASSIGN_OR_RETURN(Value left, Eval(*expr.parts[0], scope));
      if (left.Truth() == (expr.kind == ExprKind::kOr)) return left;
      return Eval(*expr.parts[1], scope);
    }
    default:
      break;
  }
  TQ_ASSIGN_OR_RETURN(std::vector<Value> parts, EvalParts(expr, 0, scope));
  switch (expr.kind) {
    case ExprKind::kList:
    case ExprKind::kTuple:
      return MakeList(std::move(parts), expr.kind == ExprKind::kTuple);
    case ExprKind::kAttribute:
      return GetAttribute(parts[0], expr.name);
    case ExprKind::kSubscript:
      return GetItem(parts[0], parts[1], budget_);
    case ExprKind::kSlice:
      return Slice(parts[0], parts[1], parts[2], parts[3], budget_);
    case ExprKind::kArithmetic:
      return Arithmetic(expr.name, parts[0], parts[1], budget_);
    default:  // kNot: all others are above
      return Value(!parts[0].Truth());
  }
}

StatusOr<Value> Evaluator::Name(const Expr& expr, const Scope& scope) const {
  if (const Value* value = scope.Find(expr.name)) return *value;
  if (const auto given = variables_.find(expr.name); given != variables_.end()) {
    return given->second;
  }
  if (const auto function = FindFunction(expr.name)) return Value(*function);
  if (std::find(kOtherGlobals.begin(), kOtherGlobals.end(), expr.name) != kOtherGlobals.end()) {
    return Unimplemented("Jinja's {}", Quote(expr.name));
  }
  return Value(Undefined{expr.name});
}

StatusOr<Value> Evaluator::DictOf(const Expr& expr, Scope& scope) {
  TQ_ASSIGN_OR_RETURN(const std::vector<Value> parts, EvalParts(expr, 0, scope));
  std::vector<Dict::Entry> entries;
  for (size_t i = 0; i < parts.size(); i += 2) {
    if (parts[i].text() == nullptr) {
      return Unimplemented("{} as a key of a dictionary", parts[i].TypeName());
    }
    TQ_RETURN_IF_ERROR(budget_.Use(parts[i].text()->size()));
    entries.emplace_back(*parts[i].text(), parts[i + 1]);
  }
  return MakeDict(std::move(entries));
}

StatusOr<Value> Evaluator::Sign(const Expr& expr, Scope& scope) {
  TQ_ASSIGN_OR_RETURN(const Value value, Eval(*expr.parts[0], scope));
  line_ = expr.line;
  if (!value.is_number()) return InvalidArgument("the sign of {}", value.TypeName());
  if (expr.kind == ExprKind::kPositive) return value;
  if (value.real() != nullptr) return Value(-*value.real());
  return Arithmetic("-", Value(int64_t{0}), value, budget_);
}

StatusOr<Value> Evaluator::Concat(const Expr& expr, Scope& scope) {
  TQ_ASSIGN_OR_RETURN(const std::vector<Value> parts, EvalParts(expr, 0, scope));
  MarkedText out;
  for (const Value& part : parts) {
    TQ_ASSIGN_OR_RETURN(const MarkedText text, ToText(part, budget_));
    out.Append(text);
    TQ_RETURN_IF_ERROR(budget_.CheckTextSize(out.size()));
  }
  return Value(std::move(out));
}

StatusOr<bool> Evaluator::CompareTwo(std::string_view op, const Value& a, const Value& b) {
  if (op == "in" || op == "not in") {
    TQ_ASSIGN_OR_RETURN(const bool contains, Contains(b, a, budget_));
    return contains == (op == "in");
  }
  if (op == "==" || op == "!=") {
    TQ_ASSIGN_OR_RETURN(const bool equal, Equal(a, b, budget_));
    return equal == (op == "==");
  }
  const bool swap = op == ">" || op == "<=";
  TQ_ASSIGN_OR_RETURN(const bool less, swap ? Less(b, a, budget_) : Less(a, b, budget_));
  return less == (op == "<" || op == ">");
}

// a < b < c holds when a < b and b < c do; the rest is not evaluated once one does not.
StatusOr<Value> Evaluator::Compare(const Expr& expr, Scope& scope) {
  TQ_ASSIGN_OR_RETURN(Value left, Eval(*expr.parts[0], scope));
  for (size_t i = 0; i < expr.names.size(); ++i) {
    TQ_ASSIGN_OR_RETURN(Value right, Eval(*expr.parts[i + 1], scope));
    line_ = expr.line;
    TQ_ASSIGN_OR_RETURN(const bool holds, CompareTwo(expr.names[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

StatusOr<Value> Evaluator::Conditional(const Expr& expr, Scope& scope) {
  TQ_ASSIGN_OR_RETURN(const Value condition, Eval(*expr.parts[0], scope));
  if (condition.Truth()) return Eval(*expr.parts[1], scope);
  if (expr.parts[2] == nullptr) return Value(Undefined{"an if without else"});
  return Eval(*expr.parts[2], scope);
}

StatusOr<Arguments> Evaluator::EvalArguments(const Expr& expr, Scope& scope) {
  TQ_ASSIGN_OR_RETURN(std::vector<Value> values, EvalParts(expr, 1, scope));
  Arguments arguments;
  const size_t positional = values.size() - expr.names.size();
  for (size_t i = 0; i < values.size(); ++i) {
    if (i < positional) {
      arguments.positional.push_back(std::move(values[i]));
    } else {
      arguments.named.emplace_back(expr.names[i - positional], std::move(values[i]));
    }
  }
  return arguments;
}

StatusOr<Value> Evaluator::FilterOf(const Expr& expr, const Value& input, Scope& scope) {
  TQ_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expr, scope));
  if (input.is_safe() && expr.name != "safe" && expr.name != "tojson") {
    return Unimplemented("{} of a text marked as safe",
                         expr.name);  // its result would be safe, too
  }
  auto value = FindFilter(expr.name)(runtime_, input, arguments);
  if (!value.ok()) return value.status().WithContext(expr.name);
  return value;
}

// A chain of filters whose innermost input is null.
StatusOr<Value> Evaluator::ApplyFilters(const Expr& expr, const Value& input, Scope& scope) {
  Budget::Nested nested(budget_);
  TQ_RETURN_IF_ERROR(nested.Check());
  if (expr.parts[0] == nullptr) return FilterOf(expr, input, scope);
  TQ_ASSIGN_OR_RETURN(const Value inner, ApplyFilters(*expr.parts[0], input, scope));
  return FilterOf(expr, inner, scope);
}

StatusOr<Value> Evaluator::Call(const Expr& expr, const Value* caller, Scope& scope) {
  TQ_ASSIGN_OR_RETURN(const Value callee, Eval(*expr.parts[0], scope));
  TQ_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expr, scope));
  if (callee.macro() != nullptr) {
    TQ_ASSIGN_OR_RETURN(Value value, CallMacro(*callee.macro(), arguments, caller));
    line_ = expr.line;
    return value;
  }
  if (caller != nullptr) return Unimplemented("a call block of {}", callee.TypeName());
  if (callee.method() != nullptr) {
    auto value = CallMethod(runtime_, *callee.method(), arguments);
    if (!value.ok()) return value.status().WithContext(callee.method()->name);
    return value;
  }
  if (callee.function() != nullptr) return CallFunction(runtime_, *callee.function(), arguments);
  if (callee.is_undefined()) {
    return InvalidArgument("{} is undefined and cannot be called", Quote(callee.undefined_name()));
  }
  return InvalidArgument("{} cannot be called", callee.TypeName());
}

StatusOr<Value> Evaluator::CallMacro(const Closure& closure, const Arguments& arguments,
                                     const Value* caller) {
  const Macro& macro = *closure.macro;
  if (arguments.positional.size() > macro.parameters.size()) {
    return InvalidArgument("{} arguments for the macro {}, which takes {}",
                           arguments.positional.size(), Quote(macro.name), macro.parameters.size());
  }
  for (const auto& named : arguments.named) {
    const auto parameter =
        std::find_if(macro.parameters.begin(), macro.parameters.end(),
                     [&](const Macro::Parameter& p) { return p.name == named.first; });
    if (parameter == macro.parameters.end()) {
      return InvalidArgument("the macro {} takes no argument {}", Quote(macro.name),
                             Quote(named.first));
    }
    if (parameter - macro.parameters.begin() < static_cast<int64_t>(arguments.positional.size())) {
      return InvalidArgument("the argument {} is there twice", Quote(named.first));
    }
  }
  Scope scope(closure.scope);
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Macro::Parameter& parameter = macro.parameters[i];
    const auto named =
        std::find_if(arguments.named.begin(), arguments.named.end(),
                     [&](const auto& argument) { return argument.first == parameter.name; });
    Value value(Undefined{parameter.name});
    if (i < arguments.positional.size()) {
      value = arguments.positional[i];
    } else if (named != arguments.named.end()) {
      value = named->second;
    } else if (parameter.fallback != nullptr) {
      TQ_ASSIGN_OR_RETURN(value, Eval(*parameter.fallback, scope));
    }
    scope.Set(parameter.name, std::move(value));
  }
  if (caller != nullptr) {
    scope.Set("caller", *caller);
  } else if (macro.name != "caller") {
    scope.Set("caller", Value(Undefined{"caller"}));
  }
  TQ_ASSIGN_OR_RETURN(MarkedText text, Capture(macro.body, scope));
  return Value(std::move(text));
}

}  // namespace

StatusOr<MarkedText> Evaluate(const Body& body, const Variables& variables, Runtime& runtime) {
  return Evaluator(variables, runtime).Template(body);
}

}  // namespace tq::jinja
