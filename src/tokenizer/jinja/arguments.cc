#include <algorithm>

#include "checkpoint/quote.h"
#include "tokenizer/jinja/builtins.h"

namespace tq::jinja {

StatusOr<std::vector<Value>> Arguments::Bind(std::initializer_list<std::string_view> names,
                                             size_t required) const {
  if (positional.size() > names.size()) {
    return InvalidArgument("{} arguments, want at most {}", positional.size(), names.size());
  }
  std::vector<Value> values(positional.begin(), positional.end());
  values.resize(names.size());
  std::vector<bool> given(names.size());
  std::fill_n(given.begin(), positional.size(), true);
  for (const auto& [name, value] : named) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) return Unimplemented("the argument {}", Quote(name));
    const auto i = static_cast<size_t>(found - names.begin());
    if (given[i]) return InvalidArgument("the argument {} is there twice", Quote(name));
    values[i] = value;
    given[i] = true;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!given[i]) return InvalidArgument("the argument {} is missing", Quote(names.begin()[i]));
  }
  return values;
}

StatusOr<int64_t> IntegerOr(const Value& value, int64_t fallback, std::string_view name) {
  if (value.is_undefined() || value.is_none()) return fallback;
  if (value.is_integer()) return value.integer();
  return InvalidArgument("{} is {}, want an integer", name, value.TypeName());
}

StatusOr<const MarkedText*> WantText(const Value& value, std::string_view name) {
  if (value.text() != nullptr) return value.text();
  return InvalidArgument("{} is {}, want a string", name, value.TypeName());
}

StatusOr<const MarkedText*> TextOrNull(const Value& value, std::string_view name) {
  if (value.is_undefined() || value.is_none()) return static_cast<const MarkedText*>(nullptr);
  return WantText(value, name);
}

}  // namespace tq::jinja
