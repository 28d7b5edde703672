// A tokenizer as GGUF metadata ("tokenizer.ggml.*", the GGUF specification).
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/gguf_writer.h"
#include "tokenizer/token_index.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

// llama.cpp's name of a pre-tokeniser of byte-level models.
StatusOr<std::string_view> GgufName(PreTokenizerKind kind) {
  switch (kind) {
    case PreTokenizerKind::kGpt2:
      return std::string_view("gpt-2");
    case PreTokenizerKind::kSmolLm:
      return std::string_view("smollm");
    case PreTokenizerKind::kLlama3:
      return std::string_view("llama-bpe");
    case PreTokenizerKind::kQwen2:
      return std::string_view("qwen2");
    case PreTokenizerKind::kTekken:
      return std::string_view("tekken");
    case PreTokenizerKind::kNone:
    case PreTokenizerKind::kMetaspace:
    case PreTokenizerKind::kMetaspaceWords:
      break;
  }
  return Unimplemented("tokenizers of characters (SentencePiece's) are not written to GGUF");
}

// GGUF's token types.
constexpr int32_t kUnused = 5;
int32_t GgufTypeOf(TokenType type) {
  switch (type) {
    case TokenType::kNormal:
      return 1;
    case TokenType::kControl:
      return 3;
    case TokenType::kUserDefined:
      return 4;
    case TokenType::kByte:
      return 6;
  }
  internal::CheckFailed(__FILE__, __LINE__, "a known type of tokens");
}

Status AppendTokens(const TokenizerData& data, uint64_t vocabulary, GgufKeys& keys) {
  if (data.tokens.size() > vocabulary) {
    return InvalidArgument("the tokenizer has {} tokens, the embedding {} rows", data.tokens.size(),
                           vocabulary);
  }
  TQ_ASSIGN_OR_RETURN(const TokenIndex index, TokenIndex::Create(data.tokens));
  std::vector<std::string> tokens = data.tokens;
  std::vector<int32_t> types;
  for (const TokenType type : data.types) types.push_back(GgufTypeOf(type));
  // Readers take the number of tokens for that of rows.
  for (uint64_t id = tokens.size(); id < vocabulary; ++id) {
    std::string name = fmt::format("[PAD{}]", id);
    if (index.Find(name) >= 0) {
      return InvalidArgument("token {} is {}, the name for the row {} without a token",
                             index.Find(name), name, id);
    }
    tokens.push_back(std::move(name));
    types.push_back(kUnused);
  }
  keys.Strings("tokenizer.ggml.tokens", tokens);
  keys.Ints("tokenizer.ggml.token_type", types);
  return OkStatus();
}

}  // namespace

Status AppendTokenizerKeys(const TokenizerData& data, uint64_t vocabulary, GgufKeys& keys) {
  TQ_ASSIGN_OR_RETURN(const std::string_view pre_tokenizer, GgufName(data.pre_tokenizer));
  // The name stands for these besides the pattern: there is no key for them.
  const bool nfc = data.pre_tokenizer == PreTokenizerKind::kQwen2;
  const bool whole_words = data.pre_tokenizer == PreTokenizerKind::kLlama3 ||
                           data.pre_tokenizer == PreTokenizerKind::kTekken;
  if (data.normalization != Normalization{.nfc = nfc} || data.ignore_merges != whole_words) {
    return Unimplemented(
        "the tokenizer has the words of GGUF's {}, but another normalization or ignore_merges",
        pre_tokenizer);
  }
  keys.String("tokenizer.ggml.model", "gpt2");
  keys.String("tokenizer.ggml.pre", pre_tokenizer);
  TQ_RETURN_IF_ERROR(AppendTokens(data, vocabulary, keys));
  const auto token = [&](int32_t id) -> const std::string& {
    return data.tokens[static_cast<size_t>(id)];
  };
  std::vector<std::string> merges;
  merges.reserve(data.merges.size());
  for (const TokenMerge& merge : data.merges) {
    merges.push_back(token(merge.left) + " " + token(merge.right));
  }
  keys.Strings("tokenizer.ggml.merges", merges);
  for (const auto& [key, id] : {std::pair{"tokenizer.ggml.bos_token_id", data.bos},
                                {"tokenizer.ggml.eos_token_id", data.eos},
                                {"tokenizer.ggml.unknown_token_id", data.unk},
                                {"tokenizer.ggml.padding_token_id", data.pad}}) {
    if (id >= 0) keys.Uint(key, static_cast<uint32_t>(id));
  }
  keys.Bool("tokenizer.ggml.add_bos_token", data.add_bos);
  if (data.add_prefix_space) keys.Bool("tokenizer.ggml.add_space_prefix", true);
  if (!data.chat_template.empty()) keys.String("tokenizer.chat_template", data.chat_template);
  return OkStatus();
}

}  // namespace tq
