// Hugging Face's tokenizer_config.json: special tokens by name, and the chat template.
#pragma once

#include <string_view>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// Adds what the file says to data that came from tokenizer.json, and refuses what
// contradicts it. A pad or unk token that the vocabulary lacks counts as none.
Status ApplyTokenizerConfig(std::string_view json, TokenizerData& data);

}  // namespace tq
