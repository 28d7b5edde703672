// Values of templates, as Python has them. All but namespaces cannot be changed once made, so that
// copies share; lists and dictionaries hold data only (no macros, namespaces or loops), so that
// there are no cycles.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"
#include "tokenizer/jinja/budget.h"
#include "tokenizer/marked_text.h"

namespace tq::jinja {

class Value;
class Dict;
struct Closure;
struct List;
struct Loop;
struct Method;
struct Namespace;

// What a name, key or attribute that is not there gives; printed as nothing.
struct Undefined {
  std::string name;  // for messages
};
struct None {};
// What templates can call without defining it.
enum class Function { kRange, kNamespace, kDict, kRaiseException, kStrftimeNow };

class Value {
 public:
  Value() = default;                                           // undefined
  Value(Undefined undefined) : data_(std::move(undefined)) {}  // NOLINT: implicit
  Value(None none) : data_(none) {}                            // NOLINT: implicit
  Value(bool value) : data_(value) {}                          // NOLINT: implicit
  Value(int64_t value) : data_(value) {}                       // NOLINT: implicit
  Value(double value) : data_(value) {}                        // NOLINT: implicit
  Value(const char*) = delete;                                 // would become a boolean
  Value(MarkedText text)                                       // NOLINT: implicit
      : data_(std::make_shared<const MarkedText>(std::move(text))) {}
  Value(Function function) : data_(function) {}                              // NOLINT: implicit
  Value(std::shared_ptr<const List> list) : data_(std::move(list)) {}        // NOLINT: implicit
  Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) {}        // NOLINT: implicit
  Value(std::shared_ptr<Namespace> space) : data_(std::move(space)) {}       // NOLINT: implicit
  Value(std::shared_ptr<const Loop> loop) : data_(std::move(loop)) {}        // NOLINT: implicit
  Value(std::shared_ptr<const Method> method) : data_(std::move(method)) {}  // NOLINT: implicit
  Value(std::shared_ptr<const Closure> macro) : data_(std::move(macro)) {}   // NOLINT: implicit
  static Value Text(std::string trusted) { return MarkedText::Trusted(std::move(trusted)); }

  bool is_undefined() const { return Is<Undefined>(); }
  bool is_none() const { return Is<None>(); }
  // Null when it is of another type.
  const bool* boolean() const { return std::get_if<bool>(&data_); }
  const double* real() const { return std::get_if<double>(&data_); }
  const MarkedText* text() const { return Pointer<const MarkedText>(); }
  const List* list() const { return Pointer<const List>(); }
  const Dict* dict() const { return Pointer<const Dict>(); }
  Namespace* name_space() const { return Pointer<Namespace>(); }
  const Loop* loop() const { return Pointer<const Loop>(); }
  const Method* method() const { return Pointer<const Method>(); }
  const Closure* macro() const { return Pointer<const Closure>(); }
  const Function* function() const { return std::get_if<Function>(&data_); }
  // Integers, and booleans as 0 and 1.
  const int64_t* plain_integer() const { return std::get_if<int64_t>(&data_); }
  bool is_integer() const { return Is<int64_t>() || Is<bool>(); }
  int64_t integer() const;  // of one of them
  bool is_number() const { return is_integer() || Is<double>(); }
  double number() const;  // of a number
  bool is_callable() const { return Is<Function>() || macro() != nullptr || method() != nullptr; }
  // Undefined, none, numbers, texts, lists and dictionaries.
  bool is_data() const;

  // A text that the filter `safe` has marked as free of HTML. Adding another one to it escapes that
  // (Arithmetic), also in templates that are no HTML.
  bool is_safe() const { return safe_; }
  Value Safe() const {
    Value value = *this;
    value.safe_ = true;
    return value;
  }

  // Python's bool(value).
  bool Truth() const;
  // For messages: "a string", "an integer", ...
  std::string_view TypeName() const;
  // The name of what is undefined.
  const std::string& undefined_name() const { return std::get<Undefined>(data_).name; }

 private:
  template <class T>
  bool Is() const {
    return std::holds_alternative<T>(data_);
  }
  template <class T>
  T* Pointer() const {
    const auto* pointer = std::get_if<std::shared_ptr<T>>(&data_);
    return pointer == nullptr ? nullptr : pointer->get();
  }

  std::variant<Undefined, None, bool, int64_t, double, Function, std::shared_ptr<const MarkedText>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
               std::shared_ptr<const Loop>, std::shared_ptr<const Method>,
               std::shared_ptr<const Closure>>
      data_;
  bool safe_ = false;
};

struct List {
  std::vector<Value> items;
  bool tuple = false;     // printed with parentheses
  bool hashable = false;  // a tuple of what can be in Python's sets
  int depth = 1;          // 1 and the deepest element's
};

// A dictionary from texts, in the order of insertion.
class Dict {
 public:
  using Entry = std::pair<MarkedText, Value>;
  const std::vector<Entry>& entries() const { return entries_; }
  // Null when absent.
  const Value* Find(std::string_view key) const;
  int depth() const { return depth_; }
  // Replaces the value of a key that is there, in its place.
  void Set(MarkedText key, Value value);

 private:
  std::vector<Entry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
  int depth_ = 1;
};

// What `namespace()` makes: attributes that `set` can change from inside loops.
struct Namespace {
  std::map<std::string, Value, std::less<>> attributes;
};

// The variable `loop` of a for block.
struct Loop {
  std::shared_ptr<const List> items;
  size_t index = 0;
};

class Scope;
struct Macro;

// A macro with the variables that it sees.
struct Closure {
  std::shared_ptr<const Macro> macro;
  Scope* scope = nullptr;  // lives as long as a variable can hold the closure (evaluator.cc)
};

// A function of a text or dictionary with the value that it belongs to.
struct Method {
  Value self;
  std::string name;
};

// Values as lists and dictionaries hold them; an error names the first that is no data or what is
// nested too deep.
StatusOr<Value> MakeList(std::vector<Value> items, bool tuple = false);
StatusOr<Value> MakeDict(std::vector<Dict::Entry> entries);

// The value of a JSON document; its texts are untrusted.
StatusOr<Value> FromJson(const nlohmann::ordered_json& json, Budget& budget);

// Python's ==; orders of other types than numbers and texts are errors.
StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget);
StatusOr<bool> Less(const Value& a, const Value& b, Budget& budget);

// Whether a value can be in Python's sets: no list or dictionary, nor a tuple with one.
bool IsHashable(const Value& value);

// What a loop goes over: elements, keys, characters; nothing of what is undefined.
StatusOr<std::shared_ptr<const List>> Iterate(const Value& value, Budget& budget);

// Python's str(value), as templates print it.
StatusOr<MarkedText> ToText(const Value& value, Budget& budget);

}  // namespace tq::jinja
