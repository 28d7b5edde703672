// The steps of tokenizer.json around its model: what is done to a text before and after.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// "normalizer", "pre_tokenizer", "post_processor" and "decoder"; null when absent. Each sets
// its fields of `data`, the later ones by what the earlier ones set, so in this order. `file`
// is for errors. Steps that are not understood are refused by name.
//
// A pre-tokeniser ByteLevel makes the model a byte-level one; data.model is set to kByteBpe
// then and to kCharacterBpe otherwise, unless it is kUnigram.
Status ReadNormalizer(const nlohmann::json* value, std::string_view file, TokenizerData& data);
Status ReadPreTokenizer(const nlohmann::json* value, std::string_view file, TokenizerData& data);
Status ReadPostProcessor(const nlohmann::json* value, std::string_view file, TokenizerData& data);
Status ReadDecoder(const nlohmann::json* value, std::string_view file, TokenizerData& data);

}  // namespace tq
