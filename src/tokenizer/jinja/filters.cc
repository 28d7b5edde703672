#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "checkpoint/quote.h"
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/python_text.h"

namespace tq::jinja {
namespace {

// The input as a text; filters of texts take anything that can be printed.
StatusOr<MarkedText> InputText(Runtime& runtime, const Value& input) {
  return ToText(input, runtime.budget);
}

StatusOr<Value> CaseFilter(Runtime& runtime, const Value& input, const Arguments& arguments,
                           LetterCase to) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  TQ_ASSIGN_OR_RETURN(const MarkedText text, InputText(runtime, input));
  TQ_ASSIGN_OR_RETURN(std::string changed, ChangeCase(text.bytes(), to));
  return Value(text.WithBytes(std::move(changed)));
}

template <LetterCase kTo>
StatusOr<Value> ChangeCaseFilter(Runtime& runtime, const Value& input, const Arguments& arguments) {
  return CaseFilter(runtime, input, arguments, kTo);
}

StatusOr<Value> Trim(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"chars"}, 0));
  TQ_ASSIGN_OR_RETURN(const MarkedText* characters, TextOrNull(bound[0], "chars"));
  TQ_ASSIGN_OR_RETURN(const MarkedText text, InputText(runtime, input));
  if (characters == nullptr) return Value(Strip(text, std::nullopt, Side::kBoth));
  return Value(Strip(text, characters->bytes(), Side::kBoth));
}

StatusOr<Value> ReplaceFilter(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"old", "new", "count"}, 2));
  TQ_ASSIGN_OR_RETURN(const MarkedText text, InputText(runtime, input));
  TQ_ASSIGN_OR_RETURN(const MarkedText old, InputText(runtime, bound[0]));
  TQ_ASSIGN_OR_RETURN(const MarkedText with, InputText(runtime, bound[1]));
  TQ_ASSIGN_OR_RETURN(const int64_t count, IntegerOr(bound[2], -1, "count"));
  TQ_ASSIGN_OR_RETURN(MarkedText out, Replace(text, old.bytes(), with, count, runtime.budget));
  return Value(std::move(out));
}

StatusOr<Value> Indent(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"width", "first", "blank"}, 0));
  std::string indent(4, ' ');
  if (const MarkedText* spelled = bound[0].text()) {
    indent = spelled->bytes();
  } else {
    TQ_ASSIGN_OR_RETURN(const int64_t width, IntegerOr(bound[0], 4, "width"));
    TQ_RETURN_IF_ERROR(runtime.budget.UseText(static_cast<uint64_t>(std::max<int64_t>(width, 0))));
    indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool first = bound[1].Truth(), blank = bound[2].Truth();
  TQ_ASSIGN_OR_RETURN(const MarkedText* given, WantText(input, "the input"));
  MarkedText text = *given;
  // So that an empty text has a line, and one that ends in a newline an empty last one.
  text.Append("\n");
  MarkedText out;
  TQ_ASSIGN_OR_RETURN(const auto lines, SplitLines(text, runtime.budget));
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.Append("\n");
    if (i == 0 ? first : blank || !lines[i].empty()) {
      TQ_RETURN_IF_ERROR(runtime.budget.Use(indent.size()));
      out.Append(indent);
    }
    out.Append(lines[i]);
    TQ_RETURN_IF_ERROR(runtime.budget.CheckTextSize(out.size()));
  }
  return Value(std::move(out));
}

StatusOr<Value> String(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  TQ_ASSIGN_OR_RETURN(MarkedText text, InputText(runtime, input));
  return Value(std::move(text));
}

// Templates for chats are not escaped, so that the text stays as it is.
StatusOr<Value> Safe(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const Value text, String(runtime, input, arguments));
  return text.Safe();
}

StatusOr<Value> Length(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  size_t size = 0;
  if (const MarkedText* text = input.text()) {
    TQ_RETURN_IF_ERROR(runtime.budget.Use(text->size()));
    size = CountCharacters(text->bytes());
  } else if (const List* list = input.list()) {
    size = list->items.size();
  } else if (const Dict* dict = input.dict()) {
    size = dict->entries().size();
  } else if (!input.is_undefined()) {
    return InvalidArgument("{} has no length", input.TypeName());
  }
  return Value(static_cast<int64_t>(size));
}

StatusOr<Value> Default(Runtime&, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"default_value", "boolean"}, 0));
  if (!input.is_undefined() && (!bound[1].Truth() || input.Truth())) return input;
  const bool given = !arguments.positional.empty() || !bound[0].is_undefined();
  return given ? bound[0] : Value::Text("");
}

StatusOr<Value> FirstOrLast(Runtime& runtime, const Value& input, bool first) {
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(input, runtime.budget));
  if (list->items.empty()) return Value(Undefined{first ? "first element" : "last element"});
  return first ? list->items.front() : list->items.back();
}

StatusOr<Value> First(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  return FirstOrLast(runtime, input, true);
}

StatusOr<Value> Last(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  return FirstOrLast(runtime, input, false);
}

StatusOr<Value> ListFilter(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(input, runtime.budget));
  return MakeList(list->items);
}

StatusOr<Value> Reverse(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  if (input.text() != nullptr) {
    return Slice(input, Value(), Value(), Value(int64_t{-1}), runtime.budget);
  }
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(input, runtime.budget));
  return MakeList({list->items.rbegin(), list->items.rend()});
}

StatusOr<Value> Pairs(const std::vector<Dict::Entry>& entries, Budget& budget) {
  TQ_RETURN_IF_ERROR(budget.UseSteps(2 * entries.size()));
  std::vector<Value> pairs;
  for (const auto& [key, value] : entries) {
    TQ_ASSIGN_OR_RETURN(pairs.emplace_back(), MakeList({Value(key), value}, /*tuple=*/true));
  }
  return MakeList(std::move(pairs));
}

StatusOr<Value> Items(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  if (input.is_undefined()) return MakeList({});
  if (input.dict() == nullptr) return InvalidArgument("{} is no dictionary", input.TypeName());
  return Pairs(input.dict()->entries(), runtime.budget);
}

// An attribute that a filter names: "a.b" goes through two, numbers are indices.
StatusOr<Value> ByAttribute(const Value& item, const Value& attribute, Budget& budget) {
  if (attribute.is_integer()) return GetItem(item, attribute, budget);
  TQ_ASSIGN_OR_RETURN(const MarkedText* name, WantText(attribute, "attribute"));
  TQ_ASSIGN_OR_RETURN(const auto parts, Split(*name, ".", -1, budget));
  Value value = item;
  for (const MarkedText& part : parts) {
    const std::string& key = part.bytes();
    int64_t index = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
    const bool number = error == std::errc() && end == key.data() + key.size();
    TQ_ASSIGN_OR_RETURN(value, GetItem(value, number ? Value(index) : Value(part), budget));
  }
  return value;
}

// Keys to sort by: texts as lower-case letters unless `case_sensitive`.
StatusOr<Value> SortKey(const Value& value, bool case_sensitive) {
  if (case_sensitive || value.text() == nullptr) return value;
  TQ_ASSIGN_OR_RETURN(std::string lower, ChangeCase(value.text()->bytes(), LetterCase::kLower));
  return Value::Text(std::move(lower));
}

// The order of `keys`, equal ones in theirs.
StatusOr<std::vector<size_t>> SortedOrder(const std::vector<Value>& keys, bool reverse,
                                          Budget& budget) {
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  Status status;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    auto less = reverse ? Less(keys[b], keys[a], budget) : Less(keys[a], keys[b], budget);
    if (!less.ok()) status = less.status();
    return less.ok() && *less;
  });
  TQ_RETURN_IF_ERROR(status);
  return order;
}

StatusOr<Value> Sort(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound,
                      arguments.Bind({"reverse", "case_sensitive", "attribute"}, 0));
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(input, runtime.budget));
  std::vector<Value> keys;
  for (const Value& item : list->items) {
    Value key = item;
    if (bound[2].Truth()) {
      TQ_ASSIGN_OR_RETURN(key, ByAttribute(item, bound[2], runtime.budget));
    }
    TQ_ASSIGN_OR_RETURN(keys.emplace_back(), SortKey(key, bound[1].Truth()));
  }
  TQ_ASSIGN_OR_RETURN(const auto order, SortedOrder(keys, bound[0].Truth(), runtime.budget));
  std::vector<Value> sorted;
  for (const size_t i : order) sorted.push_back(list->items[i]);
  return MakeList(std::move(sorted));
}

// The least element (or the greatest), the first of equal ones.
template <bool kLeast>
StatusOr<Value> Extreme(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"case_sensitive", "attribute"}, 0));
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(input, runtime.budget));
  Value best(Undefined{"an element"}), best_key;
  for (const Value& item : list->items) {
    Value key = item;
    if (bound[1].Truth()) {
      TQ_ASSIGN_OR_RETURN(key, ByAttribute(item, bound[1], runtime.budget));
    }
    TQ_ASSIGN_OR_RETURN(key, SortKey(key, bound[0].Truth()));
    bool better = &item == &list->items.front();
    if (!better) {
      TQ_ASSIGN_OR_RETURN(better, kLeast ? Less(key, best_key, runtime.budget)
                                         : Less(best_key, key, runtime.budget));
    }
    if (!better) continue;
    best = item;
    best_key = key;
  }
  return best;
}

StatusOr<Value> DictSort(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"case_sensitive", "by", "reverse"}, 0));
  if (input.dict() == nullptr) return InvalidArgument("{} is no dictionary", input.TypeName());
  TQ_ASSIGN_OR_RETURN(const MarkedText* by, TextOrNull(bound[1], "by"));
  if (by != nullptr && by->bytes() != "key" && by->bytes() != "value") {
    return InvalidArgument("by is {}, want 'key' or 'value'", Quote(by->bytes()));
  }
  const bool by_value = by != nullptr && by->bytes() == "value";
  const auto& entries = input.dict()->entries();
  std::vector<Value> keys;
  for (const auto& [key, value] : entries) {
    TQ_ASSIGN_OR_RETURN(keys.emplace_back(),
                        SortKey(by_value ? value : Value(key), bound[0].Truth()));
  }
  TQ_ASSIGN_OR_RETURN(const auto order, SortedOrder(keys, bound[2].Truth(), runtime.budget));
  std::vector<Dict::Entry> sorted;
  for (const size_t i : order) sorted.push_back(entries[i]);
  return Pairs(sorted, runtime.budget);
}

StatusOr<Value> Join(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"d", "attribute"}, 0));
  TQ_ASSIGN_OR_RETURN(const MarkedText between, InputText(runtime, bound[0]));
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(input, runtime.budget));
  MarkedText out;
  for (size_t i = 0; i < list->items.size(); ++i) {
    Value item = list->items[i];
    if (bound[1].Truth()) {
      TQ_ASSIGN_OR_RETURN(item, ByAttribute(item, bound[1], runtime.budget));
    }
    if (i > 0) out.Append(between);
    TQ_RETURN_IF_ERROR(runtime.budget.Use(between.size()));
    TQ_ASSIGN_OR_RETURN(const MarkedText text, InputText(runtime, item));
    out.Append(text);
    TQ_RETURN_IF_ERROR(runtime.budget.CheckTextSize(out.size()));
  }
  return Value(std::move(out));
}

// The arguments behind the first `skip`, for filters that call others by name.
Arguments Behind(const Arguments& arguments, size_t skip) {
  Arguments rest;
  rest.positional.assign(arguments.positional.begin() + static_cast<int64_t>(skip),
                         arguments.positional.end());
  rest.named = arguments.named;
  return rest;
}

// Of what is not true (none, 0) map, select and their like make nothing, as Jinja does.
StatusOr<Value> Map(Runtime& runtime, const Value& input, const Arguments& arguments) {
  if (!input.Truth()) return MakeList({});
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(input, runtime.budget));
  std::vector<Value> items;
  if (arguments.positional.empty()) {
    TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"attribute", "default"}, 1));
    for (const Value& item : list->items) {
      TQ_ASSIGN_OR_RETURN(Value value, ByAttribute(item, bound[0], runtime.budget));
      items.push_back(value.is_undefined() ? bound[1] : std::move(value));
    }
    return MakeList(std::move(items));
  }
  TQ_ASSIGN_OR_RETURN(const MarkedText* name, WantText(arguments.positional[0], "the filter"));
  const Filter filter = FindFilter(name->bytes());
  if (filter == nullptr) return Unimplemented("the filter {}", Quote(name->bytes()));
  const Arguments rest = Behind(arguments, 1);
  Budget::Nested nested(runtime.budget);  // map('map', 'map', ...)
  TQ_RETURN_IF_ERROR(nested.Check());
  for (const Value& item : list->items) {
    TQ_RETURN_IF_ERROR(runtime.budget.UseSteps(1));
    TQ_ASSIGN_OR_RETURN(items.emplace_back(), filter(runtime, item, rest));
  }
  return MakeList(std::move(items));
}

// select, reject (`attributes` 0) and selectattr, rejectattr (1: the first argument names what is
// tested): the elements for which a test, or without one their truth, is `keep`.
StatusOr<Value> SelectIf(Runtime& runtime, const Value& input, const Arguments& arguments,
                         size_t attributes, bool keep) {
  if (!input.Truth()) return MakeList({});
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(input, runtime.budget));
  const auto& given = arguments.positional;
  if (given.size() < attributes) return InvalidArgument("the attribute is missing");
  Test test = nullptr;
  Arguments rest;
  if (given.size() > attributes) {
    TQ_ASSIGN_OR_RETURN(const MarkedText* name, WantText(given[attributes], "the test"));
    test = FindTest(name->bytes());
    if (test == nullptr) return Unimplemented("the test {}", Quote(name->bytes()));
    rest = Behind(arguments, attributes + 1);
  } else if (!arguments.named.empty()) {
    return Unimplemented("the argument {}", Quote(arguments.named[0].first));
  }
  std::vector<Value> items;
  for (const Value& item : list->items) {
    TQ_RETURN_IF_ERROR(runtime.budget.UseSteps(1));
    Value tested = item;
    if (attributes > 0) {
      TQ_ASSIGN_OR_RETURN(tested, ByAttribute(item, given[0], runtime.budget));
    }
    bool holds = tested.Truth();
    if (test != nullptr) {
      TQ_ASSIGN_OR_RETURN(holds, test(runtime, tested, rest));
    }
    if (holds == keep) items.push_back(item);
  }
  return MakeList(std::move(items));
}

template <size_t kAttributes, bool kKeep>
StatusOr<Value> SelectFilter(Runtime& runtime, const Value& input, const Arguments& arguments) {
  return SelectIf(runtime, input, arguments, kAttributes, kKeep);
}

StatusOr<Value> Unique(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  TQ_ASSIGN_OR_RETURN(const auto list, Iterate(input, runtime.budget));
  std::vector<Value> keys, items;
  for (const Value& item : list->items) {
    TQ_ASSIGN_OR_RETURN(const Value key, SortKey(item, /*case_sensitive=*/false));
    if (!IsHashable(key)) return InvalidArgument("unique elements of {}", key.TypeName());
    bool seen = false;
    for (size_t i = 0; i < keys.size() && !seen; ++i) {
      TQ_ASSIGN_OR_RETURN(seen, Equal(keys[i], key, runtime.budget));
    }
    if (seen) continue;
    keys.push_back(key);
    items.push_back(item);
  }
  return MakeList(std::move(items));
}

// A text without white space around it, for numbers.
std::string Stripped(const MarkedText& text) {
  return Strip(text, std::nullopt, Side::kBoth).bytes();
}

Status CheckDefined(const Value& input) {
  if (!input.is_undefined()) return OkStatus();
  return InvalidArgument("{} is undefined", Quote(input.undefined_name()));
}

std::optional<double> ParseFloat(const std::string& text) {
  // Digits only: strtod would take "nan", "0x1p3" and others that Python's float spells otherwise.
  if (text.empty() || text.find_first_not_of("0123456789+-.eE") != std::string::npos) return {};
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (end != text.c_str() + text.size()) return {};
  return value;
}

StatusOr<Value> Float(Runtime&, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"default"}, 0));
  TQ_RETURN_IF_ERROR(CheckDefined(input));
  if (input.is_number()) return Value(input.number());
  if (const MarkedText* text = input.text()) {
    if (const auto value = ParseFloat(Stripped(*text))) return Value(*value);
  }
  return bound[0].is_undefined() ? Value(0.0) : bound[0];
}

StatusOr<Value> Int(Runtime&, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound, arguments.Bind({"default"}, 0));
  TQ_RETURN_IF_ERROR(CheckDefined(input));
  std::optional<double> real;
  if (input.is_integer()) return Value(input.integer());
  if (input.is_number()) real = input.number();
  if (const MarkedText* text = input.text()) {
    std::string digits = Stripped(*text);
    if (digits.starts_with('+')) digits.erase(0, 1);
    int64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error == std::errc() && end == digits.data() + digits.size()) return Value(value);
    real = ParseFloat(digits);
  }
  if (real && std::isfinite(*real)) {
    if (std::fabs(*real) >= 9.2e18) return Unimplemented("an integer beyond 64 bits");
    return Value(static_cast<int64_t>(*real));
  }
  return bound[0].is_undefined() ? Value(int64_t{0}) : bound[0];
}

StatusOr<Value> Abs(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_RETURN_IF_ERROR(arguments.Bind({}, 0).status());
  if (!input.is_number()) return InvalidArgument("abs of {}", input.TypeName());
  if (!input.is_integer()) return Value(std::fabs(input.number()));
  if (input.integer() >= 0) return Value(input.integer());
  return Arithmetic("-", Value(int64_t{0}), input, runtime.budget);
}

StatusOr<Value> ToJson(Runtime& runtime, const Value& input, const Arguments& arguments) {
  TQ_ASSIGN_OR_RETURN(const auto bound,
                      arguments.Bind({"ensure_ascii", "indent", "separators", "sort_keys"}, 0));
  JsonStyle style;
  style.ascii = bound[0].Truth();
  style.sort_keys = bound[3].Truth();
  if (const MarkedText* text = bound[1].text()) {
    style.indent = text->bytes();
  } else if (!bound[1].is_undefined() && !bound[1].is_none()) {
    TQ_ASSIGN_OR_RETURN(const int64_t width, IntegerOr(bound[1], 0, "indent"));
    TQ_RETURN_IF_ERROR(runtime.budget.UseText(static_cast<uint64_t>(std::max<int64_t>(width, 0))));
    style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (style.indent) style.item_separator.assign(1, ',');
  if (bound[2].Truth()) {
    const List* pair = bound[2].list();
    if (pair == nullptr || pair->items.size() != 2) {
      return InvalidArgument("separators: want two strings");
    }
    TQ_ASSIGN_OR_RETURN(const MarkedText* item, WantText(pair->items[0], "a separator"));
    TQ_ASSIGN_OR_RETURN(const MarkedText* key, WantText(pair->items[1], "a separator"));
    style.item_separator = item->bytes();
    style.key_separator = key->bytes();
  }
  TQ_ASSIGN_OR_RETURN(MarkedText text, ToJsonText(input, style, runtime.budget));
  return Value(std::move(text));
}

struct NamedFilter {
  std::string_view name;
  Filter filter;
};

constexpr std::array kFilters = {
    NamedFilter{"abs", Abs},
    NamedFilter{"capitalize", ChangeCaseFilter<LetterCase::kCapitalize>},
    NamedFilter{"count", Length},
    NamedFilter{"d", Default},
    NamedFilter{"default", Default},
    NamedFilter{"dictsort", DictSort},
    NamedFilter{"first", First},
    NamedFilter{"float", Float},
    NamedFilter{"indent", Indent},
    NamedFilter{"int", Int},
    NamedFilter{"items", Items},
    NamedFilter{"join", Join},
    NamedFilter{"last", Last},
    NamedFilter{"length", Length},
    NamedFilter{"list", ListFilter},
    NamedFilter{"lower", ChangeCaseFilter<LetterCase::kLower>},
    NamedFilter{"map", Map},
    NamedFilter{"max", Extreme<false>},
    NamedFilter{"min", Extreme<true>},
    NamedFilter{"reject", SelectFilter<0, false>},
    NamedFilter{"rejectattr", SelectFilter<1, false>},
    NamedFilter{"replace", ReplaceFilter},
    NamedFilter{"reverse", Reverse},
    NamedFilter{"safe", Safe},
    NamedFilter{"select", SelectFilter<0, true>},
    NamedFilter{"selectattr", SelectFilter<1, true>},
    NamedFilter{"sort", Sort},
    NamedFilter{"string", String},
    NamedFilter{"title", ChangeCaseFilter<LetterCase::kWords>},
    NamedFilter{"tojson", ToJson},
    NamedFilter{"trim", Trim},
    NamedFilter{"unique", Unique},
    NamedFilter{"upper", ChangeCaseFilter<LetterCase::kUpper>},
};

}  // namespace

Filter FindFilter(std::string_view name) {
  const auto found = std::find_if(kFilters.begin(), kFilters.end(),
                                  [&](const NamedFilter& f) { return f.name == name; });
  return found == kFilters.end() ? nullptr : found->filter;
}

}  // namespace tq::jinja
