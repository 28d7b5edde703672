// Unicode 14's canonical decompositions and combining classes (unicode_tables.cc is written
// by tools/make_unicode_tables.py).
#pragma once

#include <cstdint>
#include <span>

namespace tq {

// Ascending by code point; without the Hangul syllables, which follow a rule.
struct CanonicalDecomposition {
  uint32_t code_point;
  uint32_t first, second;  // second 0: one character alone
  bool composes;           // whether NFC makes the code point of the two
};
extern const std::span<const CanonicalDecomposition> kCanonicalDecompositions;

// Ascending; code points outside all ranges have class 0.
struct CombiningClassRange {
  uint32_t first, last;
  uint8_t combining_class;
};
extern const std::span<const CombiningClassRange> kCombiningClasses;

}  // namespace tq
