// What templates find there: operators, filters, tests, and functions of values. Errors say what
// and why; the evaluator adds the line.
#pragma once

#include <ctime>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "tokenizer/jinja/value.h"

namespace tq::jinja {

// What a run of a template carries along.
struct Runtime {
  Budget budget;
  std::optional<std::tm> now;  // for strftime_now
};

// operators.cc. `op`: + - * / // % **
StatusOr<Value> Arithmetic(std::string_view op, const Value& a, const Value& b, Budget& budget);
StatusOr<bool> Contains(const Value& container, const Value& element, Budget& budget);
// value.name: functions of a value before keys of a dictionary, as in Jinja. Undefined when there
// is none; an error when `value` is undefined itself.
StatusOr<Value> GetAttribute(const Value& value, std::string_view name);
// value[key]: keys before functions.
StatusOr<Value> GetItem(const Value& value, const Value& key, Budget& budget);
// value[begin:end:step]; undefined bounds are absent.
StatusOr<Value> Slice(const Value& value, const Value& begin, const Value& end, const Value& step,
                      Budget& budget);

// arguments.cc
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // One value for each of `names`, given by position or name; undefined when absent. An error when
  // there are others, or fewer than `required`.
  StatusOr<std::vector<Value>> Bind(std::initializer_list<std::string_view> names,
                                    size_t required) const;
};
// What a filter or function wants; none and undefined give the fallback.
StatusOr<int64_t> IntegerOr(const Value& value, int64_t fallback, std::string_view name);
StatusOr<const MarkedText*> WantText(const Value& value, std::string_view name);
// A text that may be absent (null).
StatusOr<const MarkedText*> TextOrNull(const Value& value, std::string_view name);

// filters.cc: input | name(arguments). Null when there is none of the name.
using Filter = StatusOr<Value> (*)(Runtime&, const Value& input, const Arguments&);
Filter FindFilter(std::string_view name);

// tests.cc: input is name(arguments).
using Test = StatusOr<bool> (*)(Runtime&, const Value& input, const Arguments&);
Test FindTest(std::string_view name);

// methods.cc: text.strip(), dictionary.items(), ...
// Whether Python's type has a method of the name; calling one that we lack is an error.
bool HasMethod(const Value& self, std::string_view name);
StatusOr<Value> CallMethod(Runtime& runtime, const Method& method, const Arguments& arguments);

// functions.cc: range(...), namespace(...), raise_exception(...), ...
std::optional<Function> FindFunction(std::string_view name);
StatusOr<Value> CallFunction(Runtime& runtime, Function function, const Arguments& arguments);

// json_text.cc
struct JsonStyle {
  std::string item_separator = ", ", key_separator = ": ";
  std::optional<std::string> indent;  // of one level; absent: all in one line
  bool ascii = false;                 // other characters as \uXXXX
  bool sort_keys = false;
};
// Python's json.dumps.
StatusOr<MarkedText> ToJsonText(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace tq::jinja
