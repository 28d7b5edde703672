// Byte-pair merging of one word.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// The merges, found by their two sides: sorted by (left, right), with the first one of
// each left side indexed. 12 bytes per merge, 4 per token; no hash that a file could defeat.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // Ids must lie in [0, vocabulary). An error names two merges of the same pair.
  static StatusOr<MergeTable> Create(std::span<const TokenMerge> merges, size_t vocabulary);

  // The rank of the merge of two tokens, or kNone.
  uint32_t Rank(int32_t left, int32_t right) const;
  // The token that the merge of this rank makes.
  int32_t Result(uint32_t rank) const { return results_[rank]; }

 private:
  std::vector<uint32_t> begin_;   // by left id, and one more: range in the next two
  std::vector<int32_t> rights_;   // ascending within a left id
  std::vector<uint32_t> ranks_;   // beside rights_
  std::vector<int32_t> results_;  // by rank
};

class Bpe {
 public:
  // byte_tokens: the token of each byte, -1 where there is none (the byte is dropped).
  Bpe(MergeTable merges, const std::array<int32_t, 256>& byte_tokens)
      : merges_(std::move(merges)), byte_tokens_(byte_tokens) {}

  // Memory that is used from word to word.
  struct Scratch {
    std::vector<int32_t> tokens;  // by position in the word
    std::vector<uint32_t> next, previous, ranks;
    std::vector<uint64_t> heap;
  };

  // Appends the tokens of a word: of all adjacent pairs the one with the lowest rank, the
  // leftmost if equal, is merged until none is left. O(n log n) for n bytes.
  void Encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  void EncodeBounded(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  MergeTable merges_;
  std::array<int32_t, 256> byte_tokens_;
};

}  // namespace tq
