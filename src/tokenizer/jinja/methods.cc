#include <algorithm>
#include <array>
#include <charconv>

#include "checkpoint/quote.h"
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/python_text.h"

namespace tq::jinja {
namespace {

using TextMethod = StatusOr<Value> (*)(Runtime&, const MarkedText& self, const Arguments&);
using DictMethod = StatusOr<Value> (*)(Runtime&, const Dict& self, const Arguments&);

template <Side kSide>
StatusOr<Value> StripMethod(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"chars"}, 0));
  TQ_ASSIGN_OR_RETURN(const MarkedText* characters, TextOrNull(bound[0], "chars"));
  TQ_RETURN_IF_ERROR(runtime.budget.Use(self.size()));
  if (characters == nullptr) return Value(Strip(self, std::nullopt, kSide));
  return Value(Strip(self, characters->bytes(), kSide));
}

template <LetterCase kTo>
StatusOr<Value> CaseMethod(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  TQ_RETURN_IF_ERROR(runtime.budget.Use(self.size()));
  TQ_ASSIGN_OR_RETURN(std::string changed, ChangeCase(self.bytes(), kTo));
  return Value(self.WithBytes(std::move(changed)));
}

StatusOr<Value> ListOfTexts(std::vector<MarkedText> texts) {
  std::vector<Value> items;
  items.reserve(texts.size());
  for (MarkedText& text : texts) items.emplace_back(std::move(text));
  return MakeList(std::move(items));
}

StatusOr<Value> SplitMethod(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"sep", "maxsplit"}, 0));
  TQ_ASSIGN_OR_RETURN(const MarkedText* separator, TextOrNull(bound[0], "sep"));
  TQ_ASSIGN_OR_RETURN(const int64_t most, IntegerOr(bound[1], -1, "maxsplit"));
  std::optional<std::string_view> at;
  if (separator != nullptr) at = separator->bytes();
  TQ_ASSIGN_OR_RETURN(std::vector<MarkedText> parts, Split(self, at, most, runtime.budget));
  return ListOfTexts(std::move(parts));
}

// Whether occurrences of a text can overlap: then cutting from the left and from the right differ.
bool OverlapsItself(std::string_view text) {
  for (size_t size = 1; size < text.size(); ++size) {
    if (text.substr(0, size) == text.substr(text.size() - size)) return true;
  }
  return false;
}

// Cuts at the last `maxsplit` separators.
StatusOr<Value> RightSplit(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"sep", "maxsplit"}, 1));
  TQ_ASSIGN_OR_RETURN(const MarkedText* separator, WantText(bound[0], "sep"));
  TQ_ASSIGN_OR_RETURN(const int64_t most, IntegerOr(bound[1], -1, "maxsplit"));
  const std::string& at = separator->bytes();
  if (at.size() > 256 || OverlapsItself(at)) return Unimplemented("rsplit at {}", Quote(at));
  TQ_ASSIGN_OR_RETURN(auto parts, Split(self, at, -1, runtime.budget));
  const auto cuts = static_cast<int64_t>(parts.size()) - 1;
  if (most < 0 || cuts <= most) return ListOfTexts(std::move(parts));
  std::vector<MarkedText> joined(parts.end() - most, parts.end());
  size_t rest = self.size();
  for (const MarkedText& part : joined) rest -= part.size() + at.size();
  joined.insert(joined.begin(), self.Substr(0, rest));
  return ListOfTexts(std::move(joined));
}

StatusOr<Value> Lines(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  TQ_ASSIGN_OR_RETURN(auto lines, SplitLines(self, runtime.budget));
  return ListOfTexts(std::move(lines));
}

StatusOr<Value> ReplaceMethod(Runtime& runtime, const MarkedText& self,
                              const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"old", "new", "count"}, 2));
  TQ_ASSIGN_OR_RETURN(const MarkedText* old, WantText(bound[0], "old"));
  TQ_ASSIGN_OR_RETURN(const MarkedText* with, WantText(bound[1], "new"));
  TQ_ASSIGN_OR_RETURN(const int64_t count, IntegerOr(bound[2], -1, "count"));
  TQ_RETURN_IF_ERROR(runtime.budget.Use(self.size()));
  TQ_ASSIGN_OR_RETURN(MarkedText out, Replace(self, old->bytes(), *with, count, runtime.budget));
  return Value(std::move(out));
}

bool HasEnd(const MarkedText& self, const MarkedText& end, bool front) {
  return front ? self.bytes().starts_with(end.bytes()) : self.bytes().ends_with(end.bytes());
}

// startswith and endswith: a text, or a tuple of texts of which one is enough.
template <bool kFront>
StatusOr<Value> EndMethod(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({kFront ? "prefix" : "suffix"}, 1));
  TQ_RETURN_IF_ERROR(runtime.budget.UseSteps(1));
  const List* list = bound[0].list();
  if (list == nullptr || !list->tuple) {
    TQ_ASSIGN_OR_RETURN(const MarkedText* end, WantText(bound[0], "the argument"));
    return Value(HasEnd(self, *end, kFront));
  }
  for (const Value& item : list->items) {
    TQ_RETURN_IF_ERROR(runtime.budget.UseSteps(1));
    TQ_ASSIGN_OR_RETURN(const MarkedText* end, WantText(item, "an element"));
    if (HasEnd(self, *end, kFront)) return Value(true);
  }
  return Value(false);
}

template <bool kFront>
StatusOr<Value> RemoveEnd(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({kFront ? "prefix" : "suffix"}, 1));
  TQ_ASSIGN_OR_RETURN(const MarkedText* end, WantText(bound[0], "the argument"));
  TQ_RETURN_IF_ERROR(runtime.budget.Use(self.size()));
  if (!HasEnd(self, *end, kFront)) return Value(self);
  return Value(self.Substr(kFront ? end->size() : 0, self.size() - end->size()));
}

// The character at which a text begins, or -1.
template <bool kFirst>
StatusOr<Value> FindMethod(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"sub"}, 1));
  TQ_ASSIGN_OR_RETURN(const MarkedText* needle, WantText(bound[0], "sub"));
  TQ_RETURN_IF_ERROR(runtime.budget.Use(2 * self.size()));
  const std::string& bytes = self.bytes();
  size_t at = Find(bytes, needle->bytes());
  for (size_t next = at; !kFirst && next != std::string_view::npos;) {
    at = next;
    TQ_RETURN_IF_ERROR(runtime.budget.Use(kStepCost + needle->size()));
    next = at < bytes.size() ? Find(bytes, needle->bytes(), at + 1) : std::string_view::npos;
  }
  if (at == std::string_view::npos) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(CountCharacters(std::string_view(bytes).substr(0, at))));
}

StatusOr<Value> Count(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"sub"}, 1));
  TQ_ASSIGN_OR_RETURN(const MarkedText* needle, WantText(bound[0], "sub"));
  if (needle->empty()) return Unimplemented("counting empty texts");
  TQ_ASSIGN_OR_RETURN(const auto parts, Split(self, needle->bytes(), -1, runtime.budget));
  return Value(static_cast<int64_t>(parts.size()) - 1);
}

StatusOr<Value> JoinMethod(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"iterable"}, 1));
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(bound[0], runtime.budget));
  MarkedText out;
  for (size_t i = 0; i < list->items.size(); ++i) {
    TQ_ASSIGN_OR_RETURN(const MarkedText* item, WantText(list->items[i], "an element"));
    TQ_RETURN_IF_ERROR(runtime.budget.Use(self.size() + item->size()));
    if (i > 0) out.Append(self);
    out.Append(*item);
    TQ_RETURN_IF_ERROR(runtime.budget.CheckTextSize(out.size()));
  }
  return Value(std::move(out));
}

template <bool kDigits>
StatusOr<Value> AllOf(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  TQ_RETURN_IF_ERROR(runtime.budget.Use(self.size()));
  bool all = !self.empty();
  for (const char c : self.bytes()) {
    if (static_cast<uint8_t>(c) >= 0x80) return Unimplemented("classes of characters beyond ASCII");
    const bool digit = c >= '0' && c <= '9';
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    all = all && (kDigits ? digit : letter);
  }
  return Value(all);
}

// str.format with {}, {0} and {name}; "{{" and "}}" are braces.
StatusOr<Value> Format(Runtime& runtime, const MarkedText& self, const Arguments& arguments) {
  const std::string_view bytes = self.bytes();
  MarkedText out;
  size_t done = 0, next = 0;
  for (size_t at = bytes.find_first_of("{}"); at != std::string_view::npos;
       at = bytes.find_first_of("{}", done)) {
    TQ_RETURN_IF_ERROR(runtime.budget.UseSteps(1));
    out.Append(self.Substr(done, at - done));
    if (at + 1 < bytes.size() && bytes[at + 1] == bytes[at]) {
      out.Append(self.Substr(at, 1));
      done = at + 2;
      continue;
    }
    const size_t end = bytes.find_first_of("{}", at + 1);
    if (bytes[at] == '}' || end == std::string_view::npos || bytes[end] == '{') {
      return InvalidArgument("format: a single brace");
    }
    const std::string_view field = bytes.substr(at + 1, end - at - 1);
    const Value* value = nullptr;
    size_t index = next;
    const auto [stop, error] = std::from_chars(field.data(), field.data() + field.size(), index);
    if (field.empty() || (error == std::errc() && stop == field.data() + field.size())) {
      if (field.empty()) ++next;
      if (index < arguments.positional.size()) value = &arguments.positional[index];
    } else {
      for (const auto& [name, named] : arguments.named) {
        if (name == field) value = &named;
      }
    }
    if (value == nullptr) return Unimplemented("format: the field {}", Quote(field));
    TQ_ASSIGN_OR_RETURN(const MarkedText text, ToText(*value, runtime.budget));
    out.Append(text);
    TQ_RETURN_IF_ERROR(runtime.budget.CheckTextSize(out.size()));
    done = end + 1;
  }
  TQ_RETURN_IF_ERROR(runtime.budget.Use(self.size()));
  out.Append(self.Substr(done, self.size() - done));
  return Value(std::move(out));
}

StatusOr<Value> ItemsOrParts(Runtime& runtime, const Dict& self, const Arguments& arguments,
                             bool keys, bool values) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  TQ_RETURN_IF_ERROR(runtime.budget.UseSteps(2 * self.entries().size()));
  std::vector<Value> items;
  for (const auto& [key, value] : self.entries()) {
    if (keys && values) {
      TQ_ASSIGN_OR_RETURN(items.emplace_back(), MakeList({Value(key), value}, /*tuple=*/true));
    } else {
      items.push_back(keys ? Value(key) : value);
    }
  }
  return MakeList(std::move(items));
}

template <bool kKeys, bool kValues>
StatusOr<Value> ItemsMethod(Runtime& runtime, const Dict& self, const Arguments& arguments) {
  return ItemsOrParts(runtime, self, arguments, kKeys, kValues);
}

StatusOr<Value> Get(Runtime&, const Dict& self, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"key", "default"}, 1));
  const Value* found = bound[0].text() == nullptr ? nullptr : self.Find(bound[0].text()->bytes());
  if (found != nullptr) return *found;
  const bool given = arguments.positional.size() + arguments.named.size() > 1;
  return given ? bound[1] : Value(None{});
}

template <class T>
struct NamedMethod {
  std::string_view name;
  T method;
};

constexpr std::array kTextMethods = {
    NamedMethod<TextMethod>{"capitalize", CaseMethod<LetterCase::kCapitalize>},
    NamedMethod<TextMethod>{"count", Count},
    NamedMethod<TextMethod>{"endswith", EndMethod<false>},
    NamedMethod<TextMethod>{"find", FindMethod<true>},
    NamedMethod<TextMethod>{"format", Format},
    NamedMethod<TextMethod>{"isalpha", AllOf<false>},
    NamedMethod<TextMethod>{"isdigit", AllOf<true>},
    NamedMethod<TextMethod>{"join", JoinMethod},
    NamedMethod<TextMethod>{"lower", CaseMethod<LetterCase::kLower>},
    NamedMethod<TextMethod>{"lstrip", StripMethod<Side::kLeft>},
    NamedMethod<TextMethod>{"removeprefix", RemoveEnd<true>},
    NamedMethod<TextMethod>{"removesuffix", RemoveEnd<false>},
    NamedMethod<TextMethod>{"replace", ReplaceMethod},
    NamedMethod<TextMethod>{"rfind", FindMethod<false>},
    NamedMethod<TextMethod>{"rsplit", RightSplit},
    NamedMethod<TextMethod>{"rstrip", StripMethod<Side::kRight>},
    NamedMethod<TextMethod>{"split", SplitMethod},
    NamedMethod<TextMethod>{"splitlines", Lines},
    NamedMethod<TextMethod>{"startswith", EndMethod<true>},
    NamedMethod<TextMethod>{"strip", StripMethod<Side::kBoth>},
    NamedMethod<TextMethod>{"title", CaseMethod<LetterCase::kTitle>},
    NamedMethod<TextMethod>{"upper", CaseMethod<LetterCase::kUpper>},
};
constexpr std::array kDictMethods = {
    NamedMethod<DictMethod>{"get", Get},
    NamedMethod<DictMethod>{"items", ItemsMethod<true, true>},
    NamedMethod<DictMethod>{"keys", ItemsMethod<true, false>},
    NamedMethod<DictMethod>{"values", ItemsMethod<false, true>},
};

// What Python's types have beside: those that change a value are forbidden in Hugging Face's
// library as well.
constexpr std::array<std::string_view, 23> kOtherTextMethods = {
    "casefold", "center",  "encode",     "expandtabs",   "format_map", "index",
    "isalnum",  "isascii", "isdecimal",  "isidentifier", "islower",    "isnumeric",
    "isspace",  "istitle", "isupper",    "ljust",        "maketrans",  "partition",
    "rindex",   "rjust",   "rpartition", "swapcase",     "zfill"};
constexpr std::array<std::string_view, 7> kOtherDictMethods = {
    "clear", "copy", "fromkeys", "pop", "popitem", "setdefault", "update"};
constexpr std::array<std::string_view, 11> kListMethods = {"append", "clear",   "copy",   "count",
                                                           "extend", "index",   "insert", "pop",
                                                           "remove", "reverse", "sort"};

template <class Methods>
auto FindMethodOf(const Methods& methods, std::string_view name) {
  const auto found =
      std::find_if(methods.begin(), methods.end(), [&](const auto& m) { return m.name == name; });
  return found == methods.end() ? nullptr : found->method;
}

template <class Names>
bool HasName(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

bool HasMethod(const Value& self, std::string_view name) {
  if (self.text() != nullptr) {
    return FindMethodOf(kTextMethods, name) != nullptr || HasName(kOtherTextMethods, name);
  }
  if (self.dict() != nullptr) {
    return FindMethodOf(kDictMethods, name) != nullptr || HasName(kOtherDictMethods, name);
  }
  return self.list() != nullptr && HasName(kListMethods, name);
}

StatusOr<Value> CallMethod(Runtime& runtime, const Method& method, const Arguments& arguments) {
  // Its result would be safe, too.
  if (method.self.is_safe()) return Unimplemented("methods of a text marked as safe");
  if (const MarkedText* text = method.self.text()) {
    const TextMethod call = FindMethodOf(kTextMethods, method.name);
    if (call != nullptr) return call(runtime, *text, arguments);
  }
  if (const Dict* dict = method.self.dict()) {
    const DictMethod call = FindMethodOf(kDictMethods, method.name);
    if (call != nullptr) return call(runtime, *dict, arguments);
  }
  return Unimplemented("the method {} of {}", Quote(method.name), method.self.TypeName());
}

}  // namespace tq::jinja
