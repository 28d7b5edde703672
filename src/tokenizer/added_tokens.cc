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
                                          size_t control_end) const {
  Match match{at, 0, -1};
  const auto allowed = [&](const Entry& entry) {
    return !entry.control || at + entry.text.size() <= control_end;
  };
  auto low = entries_.begin(), high = entries_.end();
  for (size_t size = 0; low != high; ++size) {
    if (high - low == 1) {
      if (allowed(*low) && text.substr(at).starts_with(low->text)) {
        match = {at, low->text.size(), low->id};
      }
      break;
    }
    if (low->text.size() == size) {
      if (allowed(*low)) match = {at, size, low->id};
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
    const Match match = LongestAt(text, at, with_control ? text.size() : 0);
    if (match.size > 0) return match;
  }
  return {};
}

AddedTokens::Match AddedTokens::FindTrusted(std::string_view text, size_t from,
                                            std::span<const TextSpan> untrusted,
                                            size_t offset) const {
  if (entries_.empty()) return {};
  auto span = std::partition_point(untrusted.begin(), untrusted.end(),
                                   [&](const TextSpan& s) { return s.end <= from + offset; });
  for (size_t at = from; at < text.size(); ++at) {
    if (!first_byte_[static_cast<uint8_t>(text[at])]) continue;
    while (span != untrusted.end() && span->end <= at + offset) ++span;
    size_t control_end = text.size();
    if (span != untrusted.end()) {
      control_end = span->begin <= at + offset ? 0 : span->begin - offset;
    }
    const Match match = LongestAt(text, at, control_end);
    if (match.size > 0) return match;
  }
  return {};
}

}  // namespace tq
