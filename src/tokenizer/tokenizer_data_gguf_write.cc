// A tokenizer as GGUF metadata ("tokenizer.ggml.*", the GGUF specification).
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/gguf.h"
#include "checkpoint/gguf_writer.h"
#include "tokenizer/gguf_scores.h"
#include "tokenizer/gguf_tokenizer_keys.h"
#include "tokenizer/sentencepiece_vocabulary.h"
#include "tokenizer/token_index.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

PieceType PieceTypeOf(TokenType type) {
  switch (type) {
    case TokenType::kNormal:
      return kNormalPiece;
    case TokenType::kControl:
      return kControlPiece;
    case TokenType::kUserDefined:
      return kUserDefinedPiece;
    case TokenType::kByte:
      return kBytePiece;
  }
  internal::CheckFailed(__FILE__, __LINE__, "a known type of tokens");
}

// `data` with a token for each row of the embedding: readers take the number of tokens for that of
// rows.
StatusOr<TokenizerData> WithAllRows(const TokenizerData& data, uint64_t vocabulary) {
  if (data.tokens.size() > vocabulary) {
    return InvalidArgument("the tokenizer has {} tokens, the embedding {} rows", data.tokens.size(),
                           vocabulary);
  }
  TQ_ASSIGN_OR_RETURN(const TokenIndex index, TokenIndex::Create(data.tokens));
  TokenizerData all = data;
  for (uint64_t id = all.tokens.size(); id < vocabulary; ++id) {
    std::string name = fmt::format("[PAD{}]", id);
    if (index.Find(name) >= 0) {
      return InvalidArgument("token {} is {}, the name for the row {} without a token",
                             index.Find(name), name, id);
    }
    all.tokens.push_back(std::move(name));
    all.types.push_back(TokenType::kNormal);
  }
  return all;
}

// By id; those from `used` on are rows without a token.
std::vector<int32_t> TypesOf(const TokenizerData& all, size_t used) {
  std::vector<int32_t> types;
  for (size_t id = 0; id < all.types.size(); ++id) {
    types.push_back(id < used ? PieceTypeOf(all.types[id]) : kUnusedPiece);
  }
  return types;
}

Status AppendByteLevel(const TokenizerData& all, size_t used, GgufKeys& keys) {
  const auto named =
      std::ranges::find(kGgufPreTokenizers, all.pre_tokenizer, &GgufPreTokenizer::kind);
  if (named == kGgufPreTokenizers.end()) {
    return Unimplemented("a byte-level pre-tokeniser for which GGUF has no name");
  }
  if (all.normalization != GgufNormalization(named->kind) ||
      all.ignore_merges != GgufIgnoresMerges(named->kind)) {
    return Unimplemented(
        "the tokenizer has the words of GGUF's {}, but another normalization or ignore_merges",
        named->name);
  }
  keys.String("tokenizer.ggml.model", "gpt2");
  keys.String("tokenizer.ggml.pre", named->name);
  keys.Strings("tokenizer.ggml.tokens", all.tokens);
  keys.Ints("tokenizer.ggml.token_type", TypesOf(all, used));
  const auto token = [&](int32_t id) -> const std::string& {
    return all.tokens[static_cast<size_t>(id)];
  };
  std::vector<std::string> merges;
  merges.reserve(all.merges.size());
  for (const TokenMerge& merge : all.merges) {
    merges.push_back(token(merge.left) + " " + token(merge.right));
  }
  keys.Strings("tokenizer.ggml.merges", merges);
  if (all.add_prefix_space) keys.Bool("tokenizer.ggml.add_space_prefix", true);
  return OkStatus();
}

// SentencePiece's BPE. Where its keys are not the whole of it, tokenizer.json stands beside them.
Status AppendSentencePiece(const TokenizerData& all, size_t used, GgufKeys& keys,
                           std::vector<std::string>& unsaid) {
  std::vector<int32_t> types = TypesOf(all, used);
  if (all.unk >= 0 && all.types[static_cast<size_t>(all.unk)] == TokenType::kControl) {
    types[static_cast<size_t>(all.unk)] = kUnknownPiece;
  }
  TQ_ASSIGN_OR_RETURN(const SentencePieceScores scored, ScoreTokens(all, types, unsaid));
  keys.String("tokenizer.ggml.model", "llama");
  keys.String("tokenizer.ggml.pre", "default");
  keys.Strings("tokenizer.ggml.tokens", all.tokens);
  keys.Ints("tokenizer.ggml.token_type", types);
  keys.Floats("tokenizer.ggml.scores", scored.scores);
  keys.Bool("tokenizer.ggml.add_space_prefix", scored.space_prefix);
  keys.Bool("tokenizer.ggml.add_eos_token", false);
  if (scored.say_all) return OkStatus();
  if (all.merges_tie) {
    return Unimplemented("merges ranked by token, with other steps than SentencePiece's");
  }
  // Rows without a token are in the list of tokens alone.
  TokenizerData with_token = all;
  with_token.tokens.resize(used);
  with_token.types.resize(used);
  const std::string json = TokenizerDataToJson(with_token);
  if (json.size() > kMaxGgufStringBytes) {
    return Unimplemented("a tokenizer.json of {} bytes, the limit in GGUF is {}", json.size(),
                         kMaxGgufStringBytes);
  }
  keys.String(kGgufTokenizerJson, json);
  return OkStatus();
}

}  // namespace

StatusOr<std::vector<std::string>> AppendTokenizerKeys(const TokenizerData& data,
                                                       uint64_t vocabulary, GgufKeys& keys) {
  if (data.model == TokenModel::kUnigram) {
    return Unimplemented("SentencePiece's unigram models are not written to GGUF");
  }
  TQ_ASSIGN_OR_RETURN(const TokenizerData all, WithAllRows(data, vocabulary));
  std::vector<std::string> unsaid;
  if (data.model == TokenModel::kByteBpe) {
    TQ_RETURN_IF_ERROR(AppendByteLevel(all, data.tokens.size(), keys));
    if (data.missing_to_unk) unsaid.push_back("bytes without a token become the unknown one");
  } else {
    TQ_RETURN_IF_ERROR(AppendSentencePiece(all, data.tokens.size(), keys, unsaid));
  }
  if (!data.matched_late.empty()) {
    unsaid.push_back(
        fmt::format("{} added tokens are matched after the others", data.matched_late.size()));
  }
  for (const auto& [key, id] : {std::pair{"tokenizer.ggml.bos_token_id", data.bos},
                                {"tokenizer.ggml.eos_token_id", data.eos},
                                {"tokenizer.ggml.unknown_token_id", data.unk},
                                {"tokenizer.ggml.padding_token_id", data.pad}}) {
    if (id >= 0) keys.Uint(key, static_cast<uint32_t>(id));
  }
  keys.Bool("tokenizer.ggml.add_bos_token", data.add_bos);
  if (!data.chat_template.empty()) keys.String("tokenizer.chat_template", data.chat_template);
  return unsaid;
}

}  // namespace tq
