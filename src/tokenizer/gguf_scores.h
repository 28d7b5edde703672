// A model of merges in the words of GGUF's "llama": scores of tokens, as SentencePiece's BPE has
// them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace tq {

struct SentencePieceScores {
  std::vector<float> scores;  // by id
  bool space_prefix = false;  // add_space_prefix
  // These, the types, the tokens and the special ids are the whole tokenizer.
  bool say_all = false;
};

// `data` is kCharacterBpe and has a token for each row; `types` are GGUF's, by id. Added tokens
// that merges make become normal ones in `types`. A reader of scores merges whatever two tokens are
// a third: a model that merges others, or in an order that scores cannot give, is Unimplemented,
// naming the merge. What such a reader does otherwise in rare texts is appended to `unsaid`.
StatusOr<SentencePieceScores> ScoreTokens(const TokenizerData& data, std::vector<int32_t>& types,
                                          std::vector<std::string>& unsaid);

}  // namespace tq
