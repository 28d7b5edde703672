#include "tokenizer/normalizer.h"

#include "tokenizer/nfc.h"

namespace tq {
namespace {

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = text.find(from); at != std::string_view::npos; at = text.find(from)) {
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  out.append(text);
  return out;
}

}  // namespace

std::string MarkSpaces(std::string_view text) { return ReplaceAll(text, " ", kSpaceMark); }
std::string UnmarkSpaces(std::string_view text) { return ReplaceAll(text, kSpaceMark, " "); }

std::string Normalize(const Normalization& normalization, std::string_view text) {
  std::string out = normalization.nfc ? ComposeNfc(text) : std::string(text);
  if (normalization.mark_spaces) out = MarkSpaces(out);
  if (normalization.prefix_mark) out.insert(0, kSpaceMark);
  return out;
}

}  // namespace tq
