#include <algorithm>
#include <cmath>

#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/python_text.h"
#include "tokenizer/utf8.h"

namespace tq::jinja {
namespace {

class Writer {
 public:
  Writer(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  Status Write(const Value& value, int level) {
    TQ_RETURN_IF_ERROR(budget_.UseSteps(1));
    if (value.is_none()) {
      out_ += "null";
    } else if (const bool* boolean = value.boolean()) {
      out_ += *boolean ? "true" : "false";
    } else if (const int64_t* integer = value.plain_integer()) {
      out_ += fmt::format("{}", *integer);
    } else if (const double* real = value.real()) {
      out_ += std::isnan(*real)   ? "NaN"
              : std::isinf(*real) ? (*real < 0 ? "-Infinity" : "Infinity")
                                  : FloatText(*real);
    } else if (const MarkedText* text = value.text()) {
      return String(*text);
    } else if (value.list() != nullptr) {
      return Array(value.list()->items, level);
    } else if (value.dict() != nullptr) {
      return Object(*value.dict(), level);
    } else {
      return InvalidArgument("{} has no form in JSON", value.TypeName());
    }
    return OkStatus();
  }

  // Quotes and brackets could be told apart from the texts, but no control token has them.
  MarkedText Take() {
    return untrusted_ ? MarkedText::Untrusted(std::move(out_))
                      : MarkedText::Trusted(std::move(out_));
  }

 private:
  Status String(const MarkedText& text) {
    untrusted_ = untrusted_ || !text.untrusted().empty();
    TQ_RETURN_IF_ERROR(budget_.Use(text.size()));
    TQ_RETURN_IF_ERROR(budget_.CheckTextSize(out_.size() + text.size()));
    const std::string_view bytes = text.bytes();
    out_ += '"';
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = std::max<size_t>(1, Utf8CharSize(bytes.substr(at, 4)));
      Character(Utf8CodePoint(bytes.substr(at), size), bytes.substr(at, size));
      at += size;
    }
    out_ += '"';
    return OkStatus();
  }

  void Character(uint32_t c, std::string_view bytes) {
    constexpr std::string_view kLetters = "\"\\\n\r\t\b\f", kEscapes = "\"\\nrtbf";
    const size_t known = bytes.size() == 1 ? kLetters.find(bytes[0]) : std::string_view::npos;
    if (known != std::string_view::npos) {
      out_ += '\\';
      out_ += kEscapes[known];
    } else if (c >= 0x10000 && style_.ascii) {
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((c - 0x10000) >> 10),
                          0xDC00 + ((c - 0x10000) & 0x3FF));
    } else if (c < 0x20 || (c > 0x7E && style_.ascii)) {
      out_ += fmt::format("\\u{:04x}", c);
    } else {
      out_ += bytes;
    }
  }

  // What precedes an element, or with `first` what follows the opening bracket.
  Status Separate(bool first, int level) {
    if (!first) out_ += style_.item_separator;
    return NewLine(level);
  }
  Status NewLine(int level) {
    if (style_.indent) {
      TQ_RETURN_IF_ERROR(budget_.UseText(style_.indent->size() * static_cast<size_t>(level)));
      out_ += '\n';
      for (int i = 0; i < level; ++i) out_ += *style_.indent;
    }
    return budget_.CheckTextSize(out_.size());
  }

  Status Array(const std::vector<Value>& items, int level) {
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      TQ_RETURN_IF_ERROR(Separate(i == 0, level + 1));
      TQ_RETURN_IF_ERROR(Write(items[i], level + 1));
    }
    if (!items.empty()) TQ_RETURN_IF_ERROR(NewLine(level));
    out_ += ']';
    return OkStatus();
  }

  Status Object(const Dict& dict, int level) {
    std::vector<const Dict::Entry*> entries;
    for (const Dict::Entry& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::sort(entries.begin(), entries.end(),
                [](const auto* a, const auto* b) { return a->first.bytes() < b->first.bytes(); });
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      TQ_RETURN_IF_ERROR(Separate(i == 0, level + 1));
      TQ_RETURN_IF_ERROR(String(entries[i]->first));
      out_ += style_.key_separator;
      TQ_RETURN_IF_ERROR(Write(entries[i]->second, level + 1));
    }
    if (!entries.empty()) TQ_RETURN_IF_ERROR(NewLine(level));
    out_ += '}';
    return OkStatus();
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string out_;
  bool untrusted_ = false;
};

}  // namespace

StatusOr<MarkedText> ToJsonText(const Value& value, const JsonStyle& style, Budget& budget) {
  Writer writer(style, budget);
  TQ_RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Take();
}

}  // namespace tq::jinja
