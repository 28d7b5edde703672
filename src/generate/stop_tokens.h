// Tokens that end an answer, from the files of a model and from its chat template.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/status.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// "eos_token_id" of generation_config.json, one id or a list; none without the file, as for GGUF
// files. An error names an id that is no token.
StatusOr<std::vector<int32_t>> StopTokensOfModel(const std::filesystem::path& model,
                                                 size_t vocab_size);

// The control token that the template writes behind an answer ("<|im_end|>"); -1 when it writes
// none, or refuses the two messages that it is tried with.
int32_t TurnEndOfTemplate(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                          ChatInputs inputs);

}  // namespace tq
