// The unigram model (Kudo 2018, "Subword Regularization"): tokens have log probabilities, and
// a word is written in the most probable way.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/character_tokens.h"
#include "tokenizer/token_trie.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/word_encoder.h"

namespace tq {

class Unigram final : public WordEncoder {
 public:
  // Longer tokens are refused: this bounds the work per byte of text. SentencePiece makes
  // tokens of at most 16 characters unless told otherwise.
  static constexpr size_t kMaxBytes = 256;

  explicit Unigram(const TokenizerData& data);

  // The Viterbi algorithm, O(n kMaxBytes) for n bytes; of equally probable ways the one that
  // comes first when ends are reached from the left.
  void Encode(std::span<const std::string_view> words, std::vector<int32_t>& ids) const override;

 private:
  struct Scratch;
  void EncodeBounded(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  TokenTrie tokens_;
  std::vector<double> scores_;
  double unknown_score_;
  FallbackTokens fallback_;
};

}  // namespace tq
