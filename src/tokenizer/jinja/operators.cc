#include <algorithm>
#include <cmath>
#include <utility>

#include "base/checked.h"
#include "checkpoint/quote.h"
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/python_text.h"

namespace tq::jinja {
namespace {

Status Overflow() { return Unimplemented("an integer beyond 64 bits"); }

StatusOr<Value> FromChecked(const std::optional<int64_t>& value) {
  if (value) return Value(*value);
  return Overflow();
}

StatusOr<Value> IntegerPower(int64_t base, int64_t exponent) {
  if (exponent < 0)
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  int64_t result = 1;
  while (exponent > 0) {
    if (exponent % 2 == 1) {
      const auto product = CheckedMul(result, base);
      if (!product) return Overflow();
      result = *product;
    }
    exponent /= 2;
    if (exponent == 0) break;
    const auto square = CheckedMul(base, base);
    if (!square) return Overflow();
    base = *square;
  }
  return Value(result);
}

// Division rounds down, the remainder has the divisor's sign.
StatusOr<Value> IntegerArithmetic(std::string_view op, int64_t a, int64_t b) {
  if (op == "+") return FromChecked(CheckedAdd(a, b));
  if (op == "*") return FromChecked(CheckedMul(a, b));
  if (op == "**") return IntegerPower(a, b);
  if (op == "-") {
    int64_t result = 0;
    if (__builtin_sub_overflow(a, b, &result)) return Overflow();
    return Value(result);
  }
  if (b == 0) return InvalidArgument("division by zero");
  if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) {  // the smallest integer has no negative
    if (op == "%") return Value(int64_t{0});
    return IntegerArithmetic("-", 0, a);
  }
  const int64_t quotient = a / b, rest = a % b;
  const bool down = rest != 0 && (rest < 0) != (b < 0);
  if (op == "//") return Value(quotient - (down ? 1 : 0));
  return Value(down ? rest + b : rest);
}

StatusOr<Value> FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") {
    if (a < 0 && b != std::floor(b)) return Unimplemented("a root of a negative number");
    return Value(std::pow(a, b));
  }
  if (b == 0) return InvalidArgument("division by zero");
  if (op == "/") return Value(a / b);
  // As Python: the quotient is that of what the remainder leaves, so that both fit together.
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && (rest < 0) != (b < 0)) {
    rest += b;
    quotient -= 1;
  }
  if (op == "%") return Value(rest != 0 ? rest : std::copysign(0.0, b));
  return Value(quotient != 0 ? std::round(quotient) : std::copysign(0.0, a / b));
}

// What adding a text to one that is marked as safe makes of it.
StatusOr<MarkedText> EscapeHtml(const MarkedText& text, Budget& budget) {
  constexpr std::pair<const char*, const char*> kEscapes[] = {
      {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
  MarkedText out = text;
  for (const auto& [character, escape] : kEscapes) {
    TQ_ASSIGN_OR_RETURN(out, Replace(out, character, MarkedText::Trusted(escape), -1, budget));
  }
  return out;
}

StatusOr<Value> AddTexts(const Value& a, const Value& b, Budget& budget) {
  TQ_RETURN_IF_ERROR(budget.UseText(a.text()->size() + b.text()->size()));
  MarkedText sum = *a.text(), end = *b.text();
  if (b.is_safe() && !a.is_safe()) {
    TQ_ASSIGN_OR_RETURN(sum, EscapeHtml(sum, budget));
  }
  if (a.is_safe() && !b.is_safe()) {
    TQ_ASSIGN_OR_RETURN(end, EscapeHtml(end, budget));
  }
  sum.Append(end);
  const Value value(std::move(sum));
  return a.is_safe() || b.is_safe() ? value.Safe() : value;
}

StatusOr<Value> Repeat(const MarkedText& text, int64_t times, Budget& budget) {
  if (times <= 0 || text.empty()) return Value(MarkedText());
  const auto size = CheckedMul<uint64_t>(text.size(), static_cast<uint64_t>(times));
  TQ_RETURN_IF_ERROR(budget.UseText(size.value_or(UINT64_MAX)));
  MarkedText out;
  for (int64_t i = 0; i < times; ++i) out.Append(text);
  return Value(std::move(out));
}

// One value of `loop`.
StatusOr<Value> LoopAttribute(const Loop& loop, std::string_view name) {
  const auto count = static_cast<int64_t>(loop.items->items.size());
  const auto index = static_cast<int64_t>(loop.index);
  const auto item = [&](int64_t at, const char* missing) {
    if (at < 0 || at >= count) return Value(Undefined{missing});
    return loop.items->items[static_cast<size_t>(at)];
  };
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(count - index);
  if (name == "revindex0") return Value(count - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == count);
  if (name == "length") return Value(count);
  if (name == "previtem") return item(index - 1, "loop.previtem");
  if (name == "nextitem") return item(index + 1, "loop.nextitem");
  return Unimplemented("loop.{}", name);
}

Value MethodOf(const Value& self, std::string_view name) {
  auto method = std::make_shared<Method>();
  method->self = self;
  method->name = name;
  return Value(std::shared_ptr<const Method>(std::move(method)));
}

// Python's slice.indices: where to begin, and how many elements `step` apart.
struct SliceRange {
  int64_t begin = 0, count = 0;
};
StatusOr<SliceRange> ResolveSlice(const Value& begin, const Value& end, int64_t step,
                                  int64_t length) {
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
  const auto bound = [&](int64_t at) {
    if (at < 0) at = at < -length ? low : at + length;
    return std::clamp(at, low, high);
  };
  TQ_ASSIGN_OR_RETURN(const int64_t first, IntegerOr(begin, step > 0 ? 0 : INT64_MAX, "a bound"));
  TQ_ASSIGN_OR_RETURN(const int64_t last,
                      IntegerOr(end, step > 0 ? INT64_MAX : INT64_MIN, "a bound"));
  const int64_t from = bound(first);
  // With a negative step an absent end lies before the first element.
  const int64_t to = step < 0 && last == INT64_MIN ? -1 : bound(last);
  const int64_t distance = step > 0 ? to - from : from - to;
  if (distance <= 0) return SliceRange{from, 0};
  const uint64_t size =
      step > 0 ? static_cast<uint64_t>(step) : uint64_t{0} - static_cast<uint64_t>(step);
  return SliceRange{from, static_cast<int64_t>(CeilDiv(static_cast<uint64_t>(distance), size))};
}

StatusOr<Value> SliceText(const MarkedText& text, const SliceRange& range, int64_t step) {
  const std::string_view bytes = text.bytes();
  if (range.count == 0) return Value(MarkedText());
  if (step == 1) {
    const size_t begin = ByteOffset(bytes, static_cast<size_t>(range.begin));
    const size_t size = ByteOffset(bytes.substr(begin), static_cast<size_t>(range.count));
    return Value(text.Substr(begin, size));
  }
  std::vector<size_t> starts;  // of characters
  for (size_t at = 0; at < bytes.size(); at += ByteOffset(bytes.substr(at), 1))
    starts.push_back(at);
  starts.push_back(bytes.size());
  MarkedText out;
  for (int64_t i = 0; i < range.count; ++i) {
    const auto at = static_cast<size_t>(range.begin + i * step);
    out.Append(text.Substr(starts[at], starts[at + 1] - starts[at]));
  }
  return Value(std::move(out));
}

}  // namespace

StatusOr<Value> Arithmetic(std::string_view op, const Value& a, const Value& b, Budget& budget) {
  if (a.is_integer() && b.is_integer()) return IntegerArithmetic(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return FloatArithmetic(op, a.number(), b.number());
  if (op == "+" && a.text() != nullptr && b.text() != nullptr) {
    return AddTexts(a, b, budget);
  }
  if (op == "+" && a.list() != nullptr && b.list() != nullptr &&
      a.list()->tuple == b.list()->tuple) {
    std::vector<Value> items = a.list()->items;
    items.insert(items.end(), b.list()->items.begin(), b.list()->items.end());
    TQ_RETURN_IF_ERROR(budget.UseSteps(items.size()));
    return MakeList(std::move(items), a.list()->tuple);
  }
  if (op == "*" && a.text() != nullptr && b.is_integer()) {
    return Repeat(*a.text(), b.integer(), budget);
  }
  if (op == "*" && b.text() != nullptr && a.is_integer()) {
    return Repeat(*b.text(), a.integer(), budget);
  }
  for (const Value* side : {&a, &b}) {
    if (side->is_undefined()) {
      return InvalidArgument("{} is undefined", Quote(side->undefined_name()));
    }
  }
  return Unimplemented("{} {} {}", a.TypeName(), op, b.TypeName());
}

StatusOr<bool> Contains(const Value& container, const Value& element, Budget& budget) {
  if (container.is_undefined()) return false;
  if (const MarkedText* text = container.text()) {
    TQ_ASSIGN_OR_RETURN(const MarkedText* needle, WantText(element, "what is looked for"));
    TQ_RETURN_IF_ERROR(budget.Use(text->size()));
    return Find(text->bytes(), needle->bytes()) != std::string_view::npos;
  }
  if (const Dict* dict = container.dict()) {
    if (!IsHashable(element)) {
      return InvalidArgument("{} as a key of a dictionary", element.TypeName());
    }
    return element.text() != nullptr && dict->Find(element.text()->bytes()) != nullptr;
  }
  if (const List* list = container.list()) {
    for (const Value& item : list->items) {
      TQ_ASSIGN_OR_RETURN(const bool equal, Equal(item, element, budget));
      if (equal) return true;
    }
    return false;
  }
  return InvalidArgument("looking for something in {}", container.TypeName());
}

StatusOr<Value> GetAttribute(const Value& value, std::string_view name) {
  if (value.is_undefined()) {
    return InvalidArgument("{} is undefined, so it has no {}", Quote(value.undefined_name()),
                           Quote(name));
  }
  if (value.loop() != nullptr) return LoopAttribute(*value.loop(), name);
  if (const Namespace* space = value.name_space()) {
    const auto found = space->attributes.find(name);
    if (found != space->attributes.end()) return found->second;
  }
  if (!value.is_data() && value.name_space() == nullptr) {
    return Unimplemented("the attribute {} of {}", Quote(name), value.TypeName());
  }
  if (HasMethod(value, name)) return MethodOf(value, name);
  if (const Dict* dict = value.dict()) {
    if (const Value* item = dict->Find(name)) return *item;
  }
  return Value(Undefined{std::string(name)});
}

StatusOr<Value> GetItem(const Value& value, const Value& key, Budget& budget) {
  if (const Dict* dict = value.dict(); dict != nullptr && key.text() != nullptr) {
    if (const Value* item = dict->Find(key.text()->bytes())) return *item;
  }
  if (key.text() != nullptr) {
    const std::string& name = key.text()->bytes();
    if (name.starts_with("_") && value.is_data() && !value.is_undefined()) {
      return Value(Undefined{name});
    }
    return GetAttribute(value, name);
  }
  if (value.is_undefined()) {
    return InvalidArgument("{} is undefined, so it has no elements", Quote(value.undefined_name()));
  }
  if (!key.is_integer() || (value.list() == nullptr && value.text() == nullptr)) {
    return Value(Undefined{"an element"});
  }
  int64_t length = 0;
  if (const MarkedText* text = value.text()) {
    TQ_RETURN_IF_ERROR(budget.Use(text->size()));
    length = static_cast<int64_t>(CountCharacters(text->bytes()));
  } else {
    length = static_cast<int64_t>(value.list()->items.size());
  }
  int64_t index = key.integer();
  if (index < 0 && index >= -length) index += length;
  if (index < 0 || index >= length) return Value(Undefined{fmt::format("element {}", index)});
  if (value.list() != nullptr) return value.list()->items[static_cast<size_t>(index)];
  return SliceText(*value.text(), {index, 1}, 1);
}

StatusOr<Value> Slice(const Value& value, const Value& begin, const Value& end, const Value& step,
                      Budget& budget) {
  if (value.is_safe()) return Unimplemented("a slice of a text marked as safe");
  TQ_ASSIGN_OR_RETURN(const int64_t stride, IntegerOr(step, 1, "the step of a slice"));
  if (stride == 0) return InvalidArgument("the step of a slice is 0");
  if (const MarkedText* text = value.text()) {
    TQ_RETURN_IF_ERROR(budget.Use(2 * text->size()));
    if (stride != 1) TQ_RETURN_IF_ERROR(budget.UseSteps(text->size()));
    const auto length = static_cast<int64_t>(CountCharacters(text->bytes()));
    TQ_ASSIGN_OR_RETURN(const SliceRange range, ResolveSlice(begin, end, stride, length));
    return SliceText(*text, range, stride);
  }
  const List* list = value.list();
  if (list == nullptr) return InvalidArgument("a slice of {}", value.TypeName());
  const auto length = static_cast<int64_t>(list->items.size());
  TQ_ASSIGN_OR_RETURN(const SliceRange range, ResolveSlice(begin, end, stride, length));
  TQ_RETURN_IF_ERROR(budget.UseSteps(static_cast<uint64_t>(range.count)));
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(range.count));
  for (int64_t i = 0; i < range.count; ++i) {
    items.push_back(list->items[static_cast<size_t>(range.begin + i * stride)]);
  }
  return MakeList(std::move(items), list->tuple);
}

}  // namespace tq::jinja
