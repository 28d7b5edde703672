// What GGUF calls the parts of a tokenizer, for its reader and its writer.
#pragma once

#include <array>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace tq {

// tokenizer.json as a whole (the GGUF specification): what the other keys say in another way, and
// what they have no word for.
inline constexpr std::string_view kGgufTokenizerJson = "tokenizer.huggingface.json";

// llama.cpp's names for pre-tokenisers of byte-level models; the first of a kind is written. Its
// "default", also used when the key is absent, is none of them, nor that of any model.
struct GgufPreTokenizer {
  std::string_view name;
  PreTokenizerKind kind;
};
inline constexpr std::array<GgufPreTokenizer, 8> kGgufPreTokenizers = {{
    {"gpt-2", PreTokenizerKind::kGpt2},
    {"smollm", PreTokenizerKind::kSmolLm},
    {"llama-bpe", PreTokenizerKind::kLlama3},
    {"llama3", PreTokenizerKind::kLlama3},
    {"llama-v3", PreTokenizerKind::kLlama3},
    {"qwen2", PreTokenizerKind::kQwen2},
    {"deepseek-r1-qwen", PreTokenizerKind::kQwen2},
    {"tekken", PreTokenizerKind::kTekken},
}};

// What the names stand for besides the pattern: files have no key for it.
inline Normalization GgufNormalization(PreTokenizerKind kind) {
  return {.nfc = kind == PreTokenizerKind::kQwen2};
}
inline bool GgufIgnoresMerges(PreTokenizerKind kind) {
  return kind == PreTokenizerKind::kLlama3 || kind == PreTokenizerKind::kTekken;
}

}  // namespace tq
