#include <algorithm>
#include <array>

#include "checkpoint/quote.h"
#include "tokenizer/jinja/builtins.h"

namespace tq::jinja {
namespace {

StatusOr<Value> Range(Runtime& runtime, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"start", "stop", "step"}, 1));
  if (!arguments.named.empty()) return InvalidArgument("range takes no named arguments");
  for (const Value& value : arguments.positional) {
    if (!value.is_integer()) return InvalidArgument("range of {}", value.TypeName());
  }
  const bool only_stop = arguments.positional.size() == 1;
  const int64_t start = only_stop ? 0 : bound[0].integer();
  const int64_t stop = only_stop ? bound[0].integer() : bound[1].integer();
  const int64_t step = bound[2].is_undefined() ? 1 : bound[2].integer();
  if (step == 0) return InvalidArgument("the step of a range is 0");
  std::vector<Value> items;
  for (int64_t at = start; step > 0 ? at < stop : at > stop;) {
    TQ_RETURN_IF_ERROR(runtime.budget.UseSteps(2));
    items.emplace_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return MakeList(std::move(items));
}

StatusOr<Value> NewNamespace(const Arguments& arguments) {
  auto space = std::make_shared<Namespace>();
  const Arguments positional{arguments.positional, {}};
  TQ_ASSIGN_OR_RETURN(const auto bound, positional.Bind({"initial"}, 0));
  if (const Dict* initial = bound[0].dict()) {
    for (const auto& [key, value] : initial->entries()) space->attributes[key.bytes()] = value;
  } else if (!bound[0].is_undefined()) {
    return InvalidArgument("a namespace of {}", bound[0].TypeName());
  }
  for (const auto& [name, value] : arguments.named) {
    if (!value.is_data()) return Unimplemented("{} inside a namespace", value.TypeName());
    space->attributes[name] = value;
  }
  return Value(std::move(space));
}

StatusOr<Value> NewDict(const Arguments& arguments) {
  if (!arguments.positional.empty())
    return Unimplemented("dict of {}", arguments.positional[0].TypeName());
  std::vector<Dict::Entry> entries;
  for (const auto& [name, value] : arguments.named) {
    entries.emplace_back(MarkedText::Trusted(name), value);
  }
  return MakeDict(std::move(entries));
}

StatusOr<Value> RaiseException(Runtime& runtime, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"message"}, 1));
  TQ_ASSIGN_OR_RETURN(const MarkedText message, ToText(bound[0], runtime.budget));
  return InvalidArgument("the template refuses the messages: {}", Quote(message.bytes()));
}

StatusOr<Value> StrftimeNow(const Runtime& runtime, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"format"}, 1));
  TQ_ASSIGN_OR_RETURN(const MarkedText* format, WantText(bound[0], "the format"));
  if (!runtime.now) return FailedPrecondition("strftime_now: no time was given");
  // Those that mean the same in C and in Python, in the C locale.
  constexpr std::string_view kKnown = "aAbBdHIjmMpSyY%";
  const std::string& text = format->bytes();
  for (size_t at = text.find('%'); at != std::string::npos; at = text.find('%', at + 2)) {
    if (at + 1 == text.size() || kKnown.find(text[at + 1]) == std::string_view::npos) {
      return Unimplemented("strftime_now: the format {}", Quote(text.substr(at, 2)));
    }
  }
  if (text.size() > 200 || text.find('\0') != std::string::npos) {
    return InvalidArgument("strftime_now: a format of {} bytes", text.size());
  }
  std::array<char, 4096> buffer;  // no field takes more than 9 bytes
  const size_t size = std::strftime(buffer.data(), buffer.size(), text.c_str(), &*runtime.now);
  return Value(format->WithBytes(std::string(buffer.data(), size)));
}

constexpr std::array<std::pair<std::string_view, Function>, 5> kFunctions = {{
    {"dict", Function::kDict},
    {"namespace", Function::kNamespace},
    {"raise_exception", Function::kRaiseException},
    {"range", Function::kRange},
    {"strftime_now", Function::kStrftimeNow},
}};

}  // namespace

std::optional<Function> FindFunction(std::string_view name) {
  const auto found = std::find_if(kFunctions.begin(), kFunctions.end(),
                                  [&](const auto& f) { return f.first == name; });
  if (found == kFunctions.end()) return std::nullopt;
  return found->second;
}

StatusOr<Value> CallFunction(Runtime& runtime, Function function, const Arguments& arguments) {
  switch (function) {
    case Function::kRange:
      return Range(runtime, arguments);
    case Function::kNamespace:
      return NewNamespace(arguments);
    case Function::kDict:
      return NewDict(arguments);
    case Function::kRaiseException:
      return RaiseException(runtime, arguments);
    case Function::kStrftimeNow:
      return StrftimeNow(runtime, arguments);
  }
  return Unimplemented("an unknown function");
}

}  // namespace tq::jinja
