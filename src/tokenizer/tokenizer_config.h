// Hugging Face's tokenizer_config.json: special tokens by name, and the chat template.
#pragma once

#include <string_view>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// Fields of our own, which Hugging Face's libraries pass over: TokenizerData::merges_tie,
// tied_tokens and float_sums, for which their files have no place.
constexpr std::string_view kMergesTie = "merges_of_one_token_rank_equally";
constexpr std::string_view kTiedTokens = "tokens_that_rank_with_the_one_before";
constexpr std::string_view kFloatSums = "scores_are_summed_in_float32";

// Adds what the file says to data that came from another file, and refuses what
// contradicts it. A pad or unk token that the vocabulary lacks counts as none. Whether BOS is
// added: `decides_bos`: the file says so, and true if it does not say; otherwise it can only
// add what tokenizer.json leaves out.
Status ApplyTokenizerConfig(std::string_view json, bool decides_bos, TokenizerData& data);

}  // namespace tq
