#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

namespace tq {

void AddedTokens::Add(std::string text, int32_t id, bool control) {
  first_byte_[static_cast<uint8_t>(text[0])] = true;
  entries_.push_back({std::move(text), id, control});
}

void AddedTokens::Finish() {
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const Entry& a, const Entry& b) { return a.text < b.text; });
  const auto same = [](const Entry& a, const Entry& b) { return a.text == b.text; };
  entries_.erase(std::unique(entries_.begin(), entries_.end(), same), entries_.end());
}

// Narrows the sorted entries to those that begin with text[at .. at + size), byte by byte;
// an entry of exactly that length is then the first of them.
AddedTokens::Match AddedTokens::LongestAt(std::string_view text, size_t at,
                                          bool with_control) const {
  Match match{at, 0, -1};
  auto low = entries_.begin(), high = entries_.end();
  for (size_t size = 0; low != high; ++size) {
    if (high - low == 1) {
      if ((with_control || !low->control) && text.substr(at).starts_with(low->text)) {
        match = {at, low->text.size(), low->id};
      }
      break;
    }
    if (low->text.size() == size) {
      if (with_control || !low->control) match = {at, size, low->id};
      if (++low == high) break;
    }
    if (at + size >= text.size()) break;
    const auto byte = static_cast<uint8_t>(text[at + size]);
    const auto byte_of = [size](const Entry& e) { return static_cast<uint8_t>(e.text[size]); };
    if (byte_of(*low) == byte && byte_of(high[-1]) == byte) continue;
    low = std::partition_point(low, high, [&](const Entry& e) { return byte_of(e) < byte; });
    high = std::partition_point(low, high, [&](const Entry& e) { return byte_of(e) == byte; });
  }
  return match;
}

AddedTokens::Match AddedTokens::Find(std::string_view text, size_t from, bool with_control) const {
  if (entries_.empty()) return {};
  for (size_t at = from; at < text.size(); ++at) {
    if (!first_byte_[static_cast<uint8_t>(text[at])]) continue;
    const Match match = LongestAt(text, at, with_control);
    if (match.size > 0) return match;
  }
  return {};
}

}  // namespace tq
