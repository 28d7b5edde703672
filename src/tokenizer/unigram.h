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
  // Longer tokens are refused: this bounds the work per byte of text (spaces of user-defined
  // tokens have three bytes there). SentencePiece makes tokens of at most 16 characters unless
  // told otherwise.
  static constexpr size_t kMaxBytes = 256;

  explicit Unigram(const TokenizerData& data);

  // The Viterbi algorithm, O(n kMaxBytes) for n bytes; of equally probable ways the one that
  // comes first when ends are reached from the left. TokenizerData::float_sums asks for the
  // arithmetic of SentencePiece 0.2.3 (its optimized encoder of unigram models), where nearly equal
  // ways of long words tie or change places: every sum is rounded to float32, and begins anew where
  // it has grown large. Earlier versions rounded elsewhere.
  void Encode(std::span<const std::string_view> words, std::vector<int32_t>& ids) const override;

 private:
  struct Scratch;
  // A sum as it is kept and compared.
  double Rounded(double sum) const;
  // Makes the sum of the way to `begin` 0 where it is large in float32.
  void Rebase(size_t begin, Scratch& scratch) const;
  void EncodeBounded(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  bool float_sums_;
  TokenTrie tokens_;
  std::vector<double> scores_;  // by id
  double unknown_score_;
  FallbackTokens fallback_;
};

}  // namespace tq
