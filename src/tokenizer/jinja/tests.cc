#include <algorithm>
#include <array>

#include "checkpoint/quote.h"
#include "tokenizer/jinja/builtins.h"

namespace tq::jinja {
namespace {

// Tests of the type of a value.
using Predicate = bool (*)(const Value&);

bool IsTrue(const Value& v) { return v.boolean() != nullptr && *v.boolean(); }
bool IsFalse(const Value& v) { return v.boolean() != nullptr && !*v.boolean(); }
bool IsDefined(const Value& v) { return !v.is_undefined(); }
bool IsUndefined(const Value& v) { return v.is_undefined(); }
bool IsNone(const Value& v) { return v.is_none(); }
bool IsBoolean(const Value& v) { return v.boolean() != nullptr; }
bool IsInteger(const Value& v) { return v.plain_integer() != nullptr; }
bool IsFloat(const Value& v) { return v.real() != nullptr; }
bool IsNumber(const Value& v) { return v.is_number(); }
bool IsString(const Value& v) { return v.text() != nullptr; }
bool IsMapping(const Value& v) { return v.dict() != nullptr; }
// Calling what is undefined is an error, but Python's callable() says yes.
bool IsCallable(const Value& v) { return v.is_callable() || v.is_undefined(); }
// What is undefined has no elements, and no length but 0.
bool IsSequence(const Value& v) {
  return v.is_undefined() || v.text() != nullptr || v.list() != nullptr || v.dict() != nullptr;
}
bool IsIterable(const Value& v) { return IsSequence(v) || v.loop() != nullptr; }

template <Predicate kPredicate>
StatusOr<bool> TypeTest(Runtime&, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  return kPredicate(input);
}

StatusOr<Value> Other(const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(auto bound, arguments.Bind({"other"}, 1));
  return std::move(bound[0]);
}

template <bool kWant>
StatusOr<bool> EqualTest(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const Value other, Other(arguments));
  TQ_ASSIGN_OR_RETURN(const bool equal, Equal(input, other, runtime.budget));
  return equal == kWant;
}

// input < other, or with kSwap other < input; kWant false for the opposite.
template <bool kSwap, bool kWant>
StatusOr<bool> OrderTest(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const Value other, Other(arguments));
  TQ_ASSIGN_OR_RETURN(const bool less, kSwap ? Less(other, input, runtime.budget)
                                             : Less(input, other, runtime.budget));
  return less == kWant;
}

StatusOr<bool> In(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const Value other, Other(arguments));
  return Contains(other, input, runtime.budget);
}

StatusOr<bool> HasRest(Runtime& runtime, const Value& input, const Value& divisor, int64_t rest) {
  TQ_ASSIGN_OR_RETURN(const Value value, Arithmetic("%", input, divisor, runtime.budget));
  return value.is_number() && value.number() == static_cast<double>(rest);
}

template <int64_t kRest>
StatusOr<bool> Parity(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  return HasRest(runtime, input, Value(int64_t{2}), kRest);
}

StatusOr<bool> DivisibleBy(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"num"}, 1));
  return HasRest(runtime, input, bound[0], 0);
}

struct NamedTest {
  std::string_view name;
  Test test;
};

constexpr std::array kTests = {
    NamedTest{"!=", EqualTest<false>},
    NamedTest{"==", EqualTest<true>},
    NamedTest{"boolean", TypeTest<IsBoolean>},
    NamedTest{"callable", TypeTest<IsCallable>},
    NamedTest{"defined", TypeTest<IsDefined>},
    NamedTest{"divisibleby", DivisibleBy},
    NamedTest{"eq", EqualTest<true>},
    NamedTest{"equalto", EqualTest<true>},
    NamedTest{"even", Parity<0>},
    NamedTest{"false", TypeTest<IsFalse>},
    NamedTest{"float", TypeTest<IsFloat>},
    NamedTest{"ge", OrderTest<false, false>},
    NamedTest{"greaterthan", OrderTest<true, true>},
    NamedTest{"gt", OrderTest<true, true>},
    NamedTest{"in", In},
    NamedTest{"integer", TypeTest<IsInteger>},
    NamedTest{"iterable", TypeTest<IsIterable>},
    NamedTest{"le", OrderTest<true, false>},
    NamedTest{"lessthan", OrderTest<false, true>},
    NamedTest{"lt", OrderTest<false, true>},
    NamedTest{"mapping", TypeTest<IsMapping>},
    NamedTest{"ne", EqualTest<false>},
    NamedTest{"none", TypeTest<IsNone>},
    NamedTest{"number", TypeTest<IsNumber>},
    NamedTest{"odd", Parity<1>},
    NamedTest{"sequence", TypeTest<IsSequence>},
    NamedTest{"string", TypeTest<IsString>},
    NamedTest{"true", TypeTest<IsTrue>},
    NamedTest{"undefined", TypeTest<IsUndefined>},
};

}  // namespace

Test FindTest(std::string_view name) {
  const auto found = std::find_if(kTests.begin(), kTests.end(),
                                  [&](const NamedTest& t) { return t.name == name; });
  return found == kTests.end() ? nullptr : found->test;
}

}  // namespace tq::jinja
