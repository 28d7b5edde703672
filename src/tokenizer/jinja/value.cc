#include "tokenizer/jinja/value.h"

#include <algorithm>

#include "checkpoint/quote.h"
#include "tokenizer/jinja/python_text.h"
#include "tokenizer/utf8.h"

namespace tq::jinja {
namespace {

int DepthOf(const Value& value) {
  if (const List* list = value.list()) return list->depth;
  if (const Dict* dict = value.dict()) return dict->depth();
  return 0;
}

Status CheckElement(const Value& value) {
  if (!value.is_data()) {
    return Unimplemented("{} inside a list, dictionary or namespace", value.TypeName());
  }
  if (DepthOf(value) < kMaxValueDepth) return OkStatus();
  return ResourceExhausted("lists nested more than {} deep", kMaxValueDepth);
}

// Python's repr() of values inside lists and dictionaries.
Status AppendRepr(const Value& value, MarkedText& out, Budget& budget) {
  TQ_RETURN_IF_ERROR(budget.UseSteps(1));
  if (const MarkedText* text = value.text()) {
    TQ_RETURN_IF_ERROR(budget.Use(text->size()));
    TQ_RETURN_IF_ERROR(budget.CheckTextSize(out.size() + text->size()));
    out.Append(text->WithBytes(Repr(text->bytes())));
    return OkStatus();
  }
  if (const List* list = value.list()) {
    out.Append(list->tuple ? "(" : "[");
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out.Append(", ");
      TQ_RETURN_IF_ERROR(AppendRepr(list->items[i], out, budget));
    }
    if (list->tuple) {
      out.Append(list->items.size() == 1 ? ",)" : ")");
    } else {
      out.Append("]");
    }
    return OkStatus();
  }
  if (const Dict* dict = value.dict()) {
    out.Append("{");
    std::string_view comma;
    for (const auto& [key, element] : dict->entries()) {
      out.Append(std::exchange(comma, ", "));
      TQ_RETURN_IF_ERROR(AppendRepr(Value(key), out, budget));
      out.Append(": ");
      TQ_RETURN_IF_ERROR(AppendRepr(element, out, budget));
    }
    out.Append("}");
    return OkStatus();
  }
  if (value.is_undefined()) {
    out.Append("Undefined");
    return OkStatus();
  }
  TQ_ASSIGN_OR_RETURN(const MarkedText text, ToText(value, budget));
  out.Append(text);
  return OkStatus();
}

}  // namespace

int64_t Value::integer() const {
  if (const bool* value = boolean()) return *value ? 1 : 0;
  return std::get<int64_t>(data_);
}

double Value::number() const {
  if (const double* value = real()) return *value;
  return static_cast<double>(integer());
}

bool Value::is_data() const {
  return is_undefined() || is_none() || is_number() || text() != nullptr || list() != nullptr ||
         dict() != nullptr;
}

bool Value::Truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return number() != 0;
  if (text() != nullptr) return !text()->empty();
  if (list() != nullptr) return !list()->items.empty();
  if (dict() != nullptr) return !dict()->entries().empty();
  return true;
}

std::string_view Value::TypeName() const {
  if (is_undefined()) return "an undefined value";
  if (is_none()) return "none";
  if (boolean() != nullptr) return "a boolean";
  if (plain_integer() != nullptr) return "an integer";
  if (real() != nullptr) return "a float";
  if (text() != nullptr) return "a string";
  if (list() != nullptr) return list()->tuple ? "a tuple" : "a list";
  if (dict() != nullptr) return "a dictionary";
  if (name_space() != nullptr) return "a namespace";
  if (loop() != nullptr) return "a loop";
  if (macro() != nullptr) return "a macro";
  return "a function";
}

const Value* Dict::Find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

void Dict::Set(MarkedText key, Value value) {
  depth_ = std::max(depth_, 1 + DepthOf(value));
  const auto [at, inserted] = index_.emplace(key.bytes(), entries_.size());
  if (inserted) {
    entries_.emplace_back(std::move(key), std::move(value));
  } else {
    entries_[at->second].second = std::move(value);
  }
}

StatusOr<Value> MakeList(std::vector<Value> items, bool tuple) {
  auto list = std::make_shared<List>();
  for (const Value& item : items) {
    TQ_RETURN_IF_ERROR(CheckElement(item));
    list->depth = std::max(list->depth, 1 + DepthOf(item));
  }
  list->hashable = tuple && std::all_of(items.begin(), items.end(), IsHashable);
  list->items = std::move(items);
  list->tuple = tuple;
  return Value(std::shared_ptr<const List>(std::move(list)));
}

StatusOr<Value> MakeDict(std::vector<Dict::Entry> entries) {
  auto dict = std::make_shared<Dict>();
  for (auto& [key, value] : entries) {
    TQ_RETURN_IF_ERROR(CheckElement(value));
    dict->Set(std::move(key), std::move(value));
  }
  return Value(std::shared_ptr<const Dict>(std::move(dict)));
}

StatusOr<Value> FromJson(const nlohmann::ordered_json& json, Budget& budget) {
  using Type = nlohmann::ordered_json::value_t;
  TQ_RETURN_IF_ERROR(budget.UseSteps(1));
  Budget::Nested nested(budget);
  TQ_RETURN_IF_ERROR(nested.Check());
  switch (json.type()) {
    case Type::null:
      return Value(None{});
    case Type::boolean:
      return Value(json.get<bool>());
    case Type::number_integer:
      return Value(json.get<int64_t>());
    case Type::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
        return Unimplemented("the integer {} is beyond 64 bits", json.get<uint64_t>());
      }
      return Value(json.get<int64_t>());
    case Type::number_float:
      return Value(json.get<double>());
    case Type::string: {
      const auto& text = json.get_ref<const std::string&>();
      TQ_RETURN_IF_ERROR(budget.UseText(text.size()));
      if (Utf8ValidPrefix(text) != text.size()) {
        return InvalidArgument("a text is not UTF-8: {}", Quote(text));
      }
      return Value(MarkedText::Untrusted(text));
    }
    case Type::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) {
        TQ_ASSIGN_OR_RETURN(items.emplace_back(), FromJson(item, budget));
      }
      return MakeList(std::move(items));
    }
    case Type::object: {
      std::vector<Dict::Entry> entries;
      entries.reserve(json.size());
      for (const auto& [key, item] : json.items()) {
        TQ_RETURN_IF_ERROR(budget.UseText(key.size()));
        if (Utf8ValidPrefix(key) != key.size()) {
          return InvalidArgument("a key is not UTF-8: {}", Quote(key));
        }
        TQ_ASSIGN_OR_RETURN(Value value, FromJson(item, budget));
        entries.emplace_back(MarkedText::Untrusted(key), std::move(value));
      }
      return MakeDict(std::move(entries));
    }
    default:
      return InvalidArgument("a JSON value of type {}", json.type_name());
  }
}

StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget) {
  TQ_RETURN_IF_ERROR(budget.UseSteps(1));
  if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
  if (a.is_number() && b.is_number()) return a.number() == b.number();
  if (a.text() != nullptr && b.text() != nullptr) {
    TQ_RETURN_IF_ERROR(budget.Use(std::min(a.text()->size(), b.text()->size())));
    return a.text()->bytes() == b.text()->bytes();
  }
  if (a.list() != nullptr && b.list() != nullptr) {
    const auto &x = a.list()->items, &y = b.list()->items;
    if (x.size() != y.size() || a.list()->tuple != b.list()->tuple) return false;
    for (size_t i = 0; i < x.size(); ++i) {
      TQ_ASSIGN_OR_RETURN(const bool equal, Equal(x[i], y[i], budget));
      if (!equal) return false;
    }
    return true;
  }
  if (a.dict() != nullptr && b.dict() != nullptr) {
    if (a.dict()->entries().size() != b.dict()->entries().size()) return false;
    for (const auto& [key, value] : a.dict()->entries()) {
      const Value* other = b.dict()->Find(key.bytes());
      if (other == nullptr) return false;
      TQ_ASSIGN_OR_RETURN(const bool equal, Equal(value, *other, budget));
      if (!equal) return false;
    }
    return true;
  }
  if (!a.is_data() && !b.is_data()) {
    return Unimplemented("comparing {} with {}", a.TypeName(), b.TypeName());
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

StatusOr<bool> Less(const Value& a, const Value& b, Budget& budget) {
  TQ_RETURN_IF_ERROR(budget.UseSteps(1));
  if (a.is_integer() && b.is_integer()) return a.integer() < b.integer();
  if (a.is_number() && b.is_number()) return a.number() < b.number();
  if (a.text() != nullptr && b.text() != nullptr) {
    // The order of UTF-8's bytes is that of code points.
    TQ_RETURN_IF_ERROR(budget.Use(std::min(a.text()->size(), b.text()->size())));
    return a.text()->bytes() < b.text()->bytes();
  }
  return InvalidArgument("no order between {} and {}", a.TypeName(), b.TypeName());
}

bool IsHashable(const Value& value) {
  return value.dict() == nullptr && (value.list() == nullptr || value.list()->hashable);
}

StatusOr<std::shared_ptr<const List>> Iterate(const Value& value, Budget& budget) {
  auto list = std::make_shared<List>();
  if (const List* items = value.list()) {
    TQ_RETURN_IF_ERROR(budget.UseSteps(items->items.size()));
    *list = *items;
  } else if (const Dict* dict = value.dict()) {
    TQ_RETURN_IF_ERROR(budget.UseSteps(dict->entries().size()));
    for (const auto& entry : dict->entries()) list->items.emplace_back(entry.first);
  } else if (const MarkedText* text = value.text()) {
    TQ_RETURN_IF_ERROR(budget.UseSteps(text->size()));
    for (size_t at = 0; at < text->size();) {
      const size_t size = Utf8CharSize(std::string_view(text->bytes()).substr(at));
      list->items.emplace_back(text->Substr(at, size));
      at += size;
    }
  } else if (!value.is_undefined()) {
    return InvalidArgument("{} is no sequence", value.TypeName());
  }
  return std::shared_ptr<const List>(std::move(list));
}

StatusOr<MarkedText> ToText(const Value& value, Budget& budget) {
  if (const MarkedText* text = value.text()) {
    TQ_RETURN_IF_ERROR(budget.Use(text->size()));
    return *text;
  }
  if (value.is_undefined()) return MarkedText();
  if (value.is_none()) return MarkedText::Trusted("None");
  if (const bool* boolean = value.boolean())
    return MarkedText::Trusted(*boolean ? "True" : "False");
  if (const int64_t* integer = value.plain_integer()) {
    return MarkedText::Trusted(fmt::format("{}", *integer));
  }
  if (const double* real = value.real()) return MarkedText::Trusted(FloatText(*real));
  if (!value.is_data()) return Unimplemented("printing {}", value.TypeName());
  MarkedText out;
  TQ_RETURN_IF_ERROR(AppendRepr(value, out, budget));
  return out;
}

}  // namespace tq::jinja
