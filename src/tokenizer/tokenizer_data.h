// What the readers of tokenizers share.
#pragma once

#include <string_view>

#include "base/status.h"
#include "tokenizer/token_index.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_json_reader.h"

namespace tq {

// 50 times the largest vocabulary in use (2024: 256,000).
constexpr size_t kMaxVocabulary = size_t{1} << 24;
constexpr size_t kMaxChatTemplateBytes = size_t{1} << 20;

// The merges as ids; an error names the first whose sides or result are no tokens. `field`
// is how the file calls them.
StatusOr<std::vector<TokenMerge>> ResolveMerges(const MergeText& merges, const TokenIndex& index,
                                                std::string_view field);

}  // namespace tq
