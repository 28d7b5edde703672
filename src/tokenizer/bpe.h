// Byte-pair merging of one word, of bytes or of characters.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/character_tokens.h"
#include "tokenizer/token_trie.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/word_encoder.h"

namespace tq {

// The merges, found by their two sides: sorted by (left, right), with the first one of
// each left side indexed. 16 bytes per merge, 4 per token; no hash that a file could defeat.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // Ids must lie in [0, vocabulary). An error names two merges of the same pair. `tie`:
  // neighbours with the same result have the same rank (TokenizerData::merges_tie), and so have
  // those of a token of `tied`, ascending, and the merges before them (TokenizerData::tied_tokens).
  static StatusOr<MergeTable> Create(std::span<const TokenMerge> merges, size_t vocabulary,
                                     bool tie = false, std::span<const int32_t> tied = {});

  // The place in the list of the merge of two tokens, or kNone.
  uint32_t Find(int32_t left, int32_t right) const;
  // What the merge at a place makes, and its rank: the lowest place of those it ties with.
  int32_t Result(uint32_t place) const { return results_[place]; }
  uint32_t Rank(uint32_t place) const { return ranks_[place]; }

 private:
  std::vector<uint32_t> begin_;   // by left id, and one more: range in the next two
  std::vector<int32_t> rights_;   // ascending within a left id
  std::vector<uint32_t> places_;  // beside rights_
  std::vector<int32_t> results_;  // by place
  std::vector<uint32_t> ranks_;   // by place
};

// Memory that is used from word to word.
struct BpeScratch {
  std::vector<int32_t> tokens;  // by position in the word
  std::vector<uint32_t> next, previous, merges;
  std::vector<uint64_t> heap;
};

// Appends what becomes of scratch.tokens: of all adjacent pairs the one with the lowest
// rank, the leftmost if equal, is merged until none is left. O(n log n) for n tokens.
void MergeTokens(const MergeTable& table, BpeScratch& scratch, std::vector<int32_t>& ids);

// Starts from the bytes of a word.
class Bpe final : public WordEncoder {
 public:
  // byte_tokens: the token of each byte, -1 where there is none (the byte is dropped).
  // `words`: those that are taken whole, without merging, if they are a word.
  Bpe(MergeTable merges, const std::array<int32_t, 256>& byte_tokens,
      std::optional<TokenTrie> words = std::nullopt)
      : merges_(std::move(merges)), byte_tokens_(byte_tokens), words_(std::move(words)) {}

  void Encode(std::span<const std::string_view> words, std::vector<int32_t>& ids) const override;

 private:
  MergeTable merges_;
  std::array<int32_t, 256> byte_tokens_;
  std::optional<TokenTrie> words_;
};

// Starts from the characters of a word.
class CharacterBpe final : public WordEncoder {
 public:
  CharacterBpe(MergeTable merges, CharacterTokens characters)
      : merges_(std::move(merges)), characters_(std::move(characters)) {}

  void Encode(std::span<const std::string_view> words, std::vector<int32_t>& ids) const override;

 private:
  MergeTable merges_;
  CharacterTokens characters_;
};

}  // namespace tq
