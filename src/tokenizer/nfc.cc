#include "tokenizer/nfc.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "tokenizer/unicode_tables.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

// Hangul syllables are made of a leading consonant, a vowel and perhaps a trailing consonant
// (The Unicode Standard, section 3.12).
constexpr uint32_t kSyllables = 0xAC00, kLeading = 0x1100, kVowels = 0x1161, kTrailing = 0x11A7;
constexpr uint32_t kLeadingCount = 19, kVowelCount = 21, kTrailingCount = 28;
constexpr uint32_t kSyllableCount = kLeadingCount * kVowelCount * kTrailingCount;

struct Character {
  uint32_t code_point;
  uint8_t combining_class;
};

uint8_t CombiningClass(uint32_t code_point) {
  const auto after = std::upper_bound(
      kCombiningClasses.begin(), kCombiningClasses.end(), code_point,
      [](uint32_t c, const CombiningClassRange& range) { return c < range.first; });
  if (after == kCombiningClasses.begin() || code_point > after[-1].last) return 0;
  return after[-1].combining_class;
}

void Decompose(uint32_t code_point, std::vector<Character>& out) {
  if (code_point - kSyllables < kSyllableCount) {
    const uint32_t index = code_point - kSyllables;
    out.push_back({kLeading + index / (kVowelCount * kTrailingCount), 0});
    out.push_back({kVowels + index / kTrailingCount % kVowelCount, 0});
    if (index % kTrailingCount > 0) out.push_back({kTrailing + index % kTrailingCount, 0});
    return;
  }
  const auto found = std::lower_bound(
      kCanonicalDecompositions.begin(), kCanonicalDecompositions.end(), code_point,
      [](const CanonicalDecomposition& d, uint32_t c) { return d.code_point < c; });
  if (found == kCanonicalDecompositions.end() || found->code_point != code_point) {
    out.push_back({code_point, CombiningClass(code_point)});
    return;
  }
  // Each step of the table leads to characters of fewer marks: four steps at most.
  Decompose(found->first, out);
  if (found->second != 0) Decompose(found->second, out);
}

// The character that two compose to, or 0.
uint32_t Composition(uint32_t first, uint32_t second) {
  if (first - kLeading < kLeadingCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeading) * kVowelCount + (second - kVowels)) * kTrailingCount;
  }
  if (first - kSyllables < kSyllableCount && (first - kSyllables) % kTrailingCount == 0 &&
      second > kTrailing && second - kTrailing < kTrailingCount) {
    return first + (second - kTrailing);
  }
  using Pair = std::pair<uint32_t, uint32_t>;
  static const auto pairs = [] {
    std::vector<std::pair<Pair, uint32_t>> made;
    for (const CanonicalDecomposition& d : kCanonicalDecompositions) {
      if (d.composes) made.push_back({{d.first, d.second}, d.code_point});
    }
    std::sort(made.begin(), made.end());
    return made;
  }();
  const auto found =
      std::lower_bound(pairs.begin(), pairs.end(), Pair(first, second),
                       [](const auto& entry, const Pair& pair) { return entry.first < pair; });
  return found != pairs.end() && found->first == Pair(first, second) ? found->second : 0;
}

// Marks that follow one another, in ascending order of their classes.
void Reorder(std::vector<Character>& text) {
  const auto is_mark = [](const Character& c) { return c.combining_class > 0; };
  for (auto begin = text.begin(); begin != text.end();) {
    begin = std::find_if(begin, text.end(), is_mark);
    const auto end = std::find_if_not(begin, text.end(), is_mark);
    std::stable_sort(begin, end, [](const Character& a, const Character& b) {
      return a.combining_class < b.combining_class;
    });
    begin = end;
  }
}

// Composes each character with the last one of class 0 unless something between them has the
// same class or a higher one.
void Compose(std::vector<Character>& text) {
  size_t size = 0, starter = 0;
  bool has_starter = false;
  for (const Character c : text) {
    if (has_starter) {
      const bool adjacent = starter + 1 == size;
      const uint32_t made = adjacent || text[size - 1].combining_class < c.combining_class
                                ? Composition(text[starter].code_point, c.code_point)
                                : 0;
      if (made != 0) {
        text[starter].code_point = made;
        continue;
      }
    }
    if (c.combining_class == 0) {
      starter = size;
      has_starter = true;
    }
    text[size++] = c;
  }
  text.resize(size);
}

// The bytes up to the next ASCII character or byte that is not UTF-8, at least one: what
// comes behind composes with nothing before it.
size_t StretchSize(std::string_view text) {
  size_t size = 1;
  if (static_cast<uint8_t>(text[0]) >= 0x80) size = Utf8CharSize(text);
  if (size == 0) return 1;
  while (size < text.size() && static_cast<uint8_t>(text[size]) >= 0x80) {
    const size_t character = Utf8CharSize(text.substr(size));
    if (character == 0) break;
    size += character;
  }
  return size;
}

}  // namespace

std::string ComposeNfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  std::vector<Character> stretch;
  while (!text.empty()) {
    const size_t size = StretchSize(text);
    std::string_view part = text.substr(0, size);
    text.remove_prefix(size);
    if (size == 1) {
      out.append(part);
      continue;
    }
    stretch.clear();
    while (!part.empty()) {
      const size_t character = Utf8CharSize(part);
      Decompose(Utf8CodePoint(part, character), stretch);
      part.remove_prefix(character);
    }
    Reorder(stretch);
    Compose(stretch);
    for (const Character& c : stretch) AppendUtf8(c.code_point, out);
  }
  return out;
}

}  // namespace tq
