// A tokenizer from GGUF metadata ("tokenizer.ggml.*", the GGUF specification).
#include <string>
#include <utility>

#include "checkpoint/gguf.h"
#include "checkpoint/quote.h"
#include "tokenizer/tokenizer_data.h"

namespace tq {
namespace {

// GGUF's token types. "Unused" tokens have no merges and match nothing, which is what a
// normal token without merges does; "unknown" is a control token by another name.
StatusOr<TokenType> TokenTypeFromGguf(int64_t type, size_t id) {
  switch (type) {
    case 1:
    case 5:
      return TokenType::kNormal;
    case 2:
    case 3:
      return TokenType::kControl;
    case 4:
      return TokenType::kUserDefined;
    case 6:
      return Unimplemented("tokenizer.ggml.token_type[{}] is a byte token (6): byte fallback", id);
    default:
      return InvalidArgument("tokenizer.ggml.token_type[{}] is {}, want 1 to 6", id, type);
  }
}

StatusOr<int32_t> SpecialId(const GgufFile& file, std::string_view key, size_t vocabulary) {
  if (!file.HasKey(key)) return -1;
  TQ_ASSIGN_OR_RETURN(const uint64_t id, file.GetUint(key));
  if (id >= vocabulary) {
    return InvalidArgument("{} is {}: the vocabulary has {} tokens", key, id, vocabulary);
  }
  return static_cast<int32_t>(id);
}

Status ReadTokens(const GgufFile& file, TokenizerData& data) {
  TQ_ASSIGN_OR_RETURN(const auto* tokens, file.GetStrings("tokenizer.ggml.tokens"));
  if (tokens->size() > kMaxVocabulary) {
    return InvalidArgument("tokenizer.ggml.tokens has {} entries, the limit is {}", tokens->size(),
                           kMaxVocabulary);
  }
  TQ_ASSIGN_OR_RETURN(const auto* types, file.GetInts("tokenizer.ggml.token_type"));
  if (types->size() != tokens->size()) {
    return InvalidArgument("tokenizer.ggml.token_type has {} entries for {} tokens", types->size(),
                           tokens->size());
  }
  data.tokens = *tokens;
  data.types.reserve(types->size());
  for (size_t id = 0; id < types->size(); ++id) {
    TQ_ASSIGN_OR_RETURN(const TokenType type, TokenTypeFromGguf((*types)[id], id));
    data.types.push_back(type);
  }
  return OkStatus();
}

Status ReadMerges(const GgufFile& file, TokenizerData& data) {
  constexpr std::string_view kKey = "tokenizer.ggml.merges";
  TQ_ASSIGN_OR_RETURN(const auto* lines, file.GetStrings(kKey));
  MergeText merges;
  for (size_t rank = 0; rank < lines->size(); ++rank) {
    TQ_RETURN_IF_ERROR(AppendMerge((*lines)[rank], fmt::format("{}[{}]", kKey, rank), merges));
  }
  TQ_ASSIGN_OR_RETURN(const TokenIndex index, TokenIndex::Create(data.tokens));
  TQ_ASSIGN_OR_RETURN(data.merges, ResolveMerges(merges, index, kKey));
  return OkStatus();
}

// llama.cpp's name for a pre-tokeniser. Its "default", also used when the key is absent,
// is none of the two.
StatusOr<PreTokenizerKind> PreTokenizerFromGguf(const GgufFile& file) {
  TQ_ASSIGN_OR_RETURN(const std::string name, file.GetString("tokenizer.ggml.pre"));
  if (name == "gpt-2") return PreTokenizerKind::kGpt2;
  if (name == "smollm") return PreTokenizerKind::kSmolLm;
  return Unimplemented("tokenizer.ggml.pre is {}, only 'gpt-2' and 'smollm' are supported",
                       Quote(name));
}

StatusOr<TokenizerData> Read(const GgufFile& file) {
  TQ_ASSIGN_OR_RETURN(const std::string model, file.GetString("tokenizer.ggml.model"));
  if (model != "gpt2") {
    return Unimplemented("tokenizer.ggml.model is {}, only 'gpt2' (byte-level BPE) is supported",
                         Quote(model));
  }
  TokenizerData data;
  TQ_ASSIGN_OR_RETURN(data.pre_tokenizer, PreTokenizerFromGguf(file));
  TQ_RETURN_IF_ERROR(ReadTokens(file, data));
  TQ_RETURN_IF_ERROR(ReadMerges(file, data));
  const size_t vocabulary = data.tokens.size();
  TQ_ASSIGN_OR_RETURN(data.bos, SpecialId(file, "tokenizer.ggml.bos_token_id", vocabulary));
  TQ_ASSIGN_OR_RETURN(data.eos, SpecialId(file, "tokenizer.ggml.eos_token_id", vocabulary));
  TQ_ASSIGN_OR_RETURN(data.unk, SpecialId(file, "tokenizer.ggml.unknown_token_id", vocabulary));
  TQ_ASSIGN_OR_RETURN(data.pad, SpecialId(file, "tokenizer.ggml.padding_token_id", vocabulary));
  TQ_ASSIGN_OR_RETURN(data.add_bos, file.GetBoolOr("tokenizer.ggml.add_bos_token", false));
  TQ_ASSIGN_OR_RETURN(const bool add_eos, file.GetBoolOr("tokenizer.ggml.add_eos_token", false));
  if (add_eos) return Unimplemented("tokenizer.ggml.add_eos_token is true");
  TQ_ASSIGN_OR_RETURN(data.add_prefix_space,
                      file.GetBoolOr("tokenizer.ggml.add_space_prefix", false));
  if (file.HasKey("tokenizer.chat_template")) {
    TQ_ASSIGN_OR_RETURN(data.chat_template, file.GetString("tokenizer.chat_template"));
  }
  TQ_RETURN_IF_ERROR(CheckTokenizerData(data));
  return data;
}

}  // namespace

StatusOr<TokenizerData> TokenizerDataFromGguf(const GgufFile& file) {
  auto data = Read(file);
  if (data.ok()) return data;
  // GgufFile's own errors name the file already.
  const std::string path = file.path().string();
  if (data.status().message().starts_with(path)) return data.status();
  return data.status().WithContext(path);
}

}  // namespace tq
