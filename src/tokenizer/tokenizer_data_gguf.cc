// A tokenizer from GGUF metadata ("tokenizer.ggml.*", the GGUF specification).
#include <string>
#include <utility>

#include "checkpoint/gguf.h"
#include "checkpoint/quote.h"
#include "tokenizer/gguf_tokenizer_keys.h"
#include "tokenizer/sentencepiece_vocabulary.h"
#include "tokenizer/tokenizer_data.h"

namespace tq {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kUnknownId = "tokenizer.ggml.unknown_token_id";

// Sets `id` when the key is there; an id that is known already must be the same.
Status ReadSpecialId(const GgufFile& file, std::string_view key, const TokenizerData& data,
                     int32_t& id) {
  if (!file.HasKey(key)) return OkStatus();
  TQ_ASSIGN_OR_RETURN(const uint64_t value, file.GetUint(key));
  if (value >= data.tokens.size()) {
    return InvalidArgument("{} is {}: the vocabulary has {} tokens", key, value,
                           data.tokens.size());
  }
  if (id >= 0 && static_cast<uint64_t>(id) != value) {
    return InvalidArgument("{} is {}, but the tokenizer uses {}", key, value, id);
  }
  id = static_cast<int32_t>(value);
  return OkStatus();
}

// The types of data.tokens, which this sets.
StatusOr<const std::vector<int64_t>*> ReadTokens(const GgufFile& file, TokenizerData& data) {
  TQ_ASSIGN_OR_RETURN(const auto* tokens, file.GetStrings(kTokens));
  if (tokens->size() > kMaxVocabulary) {
    return InvalidArgument("{} has {} entries, the limit is {}", kTokens, tokens->size(),
                           kMaxVocabulary);
  }
  TQ_ASSIGN_OR_RETURN(const auto* types, file.GetInts("tokenizer.ggml.token_type"));
  if (types->size() != tokens->size()) {
    return InvalidArgument("tokenizer.ggml.token_type has {} entries for {} tokens", types->size(),
                           tokens->size());
  }
  data.tokens = *tokens;
  return types;
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

Status ReadPreTokenizer(const GgufFile& file, TokenizerData& data) {
  TQ_ASSIGN_OR_RETURN(const std::string name, file.GetString("tokenizer.ggml.pre"));
  std::string known;
  for (const GgufPreTokenizer& entry : kGgufPreTokenizers) {
    if (entry.name == name) {
      data.pre_tokenizer = entry.kind;
      data.normalization = GgufNormalization(entry.kind);
      data.ignore_merges = GgufIgnoresMerges(entry.kind);
      return OkStatus();
    }
    known += fmt::format("{}'{}'", known.empty() ? "" : ", ", entry.name);
  }
  return Unimplemented("tokenizer.ggml.pre is {}, only {} are supported", Quote(name), known);
}

// Whether files without the key add_bos_token mean that BOS is added (as llama.cpp has it).
bool AddsBosByDefault(const TokenizerData& data) {
  return data.model != TokenModel::kByteBpe || data.pre_tokenizer == PreTokenizerKind::kLlama3 ||
         data.pre_tokenizer == PreTokenizerKind::kTekken;
}

Status ReadByteLevel(const GgufFile& file, TokenizerData& data) {
  TQ_RETURN_IF_ERROR(ReadPreTokenizer(file, data));
  TQ_ASSIGN_OR_RETURN(const auto* types, ReadTokens(file, data));
  data.types.reserve(types->size());
  for (size_t id = 0; id < types->size(); ++id) {
    TQ_ASSIGN_OR_RETURN(const TokenType type, TokenTypeOfPiece((*types)[id], kTokens, id));
    data.types.push_back(type);
  }
  TQ_RETURN_IF_ERROR(ReadMerges(file, data));
  TQ_ASSIGN_OR_RETURN(data.add_prefix_space,
                      file.GetBoolOr("tokenizer.ggml.add_space_prefix", false));
  return OkStatus();
}

// SentencePiece's BPE.
Status ReadLlama(const GgufFile& file, TokenizerData& data) {
  data.model = TokenModel::kCharacterBpe;
  data.pre_tokenizer = PreTokenizerKind::kNone;
  data.normalization.mark_spaces = true;
  TQ_ASSIGN_OR_RETURN(data.normalization.prefix_mark,
                      file.GetBoolOr("tokenizer.ggml.add_space_prefix", true));
  data.strip_prefix = data.normalization.prefix_mark;
  TQ_ASSIGN_OR_RETURN(const bool squeeze,
                      file.GetBoolOr("tokenizer.ggml.remove_extra_whitespaces", false));
  if (squeeze) return Unimplemented("tokenizer.ggml.remove_extra_whitespaces is true");
  if (file.HasKey("tokenizer.ggml.precompiled_charsmap")) {
    return Unimplemented("tokenizer.ggml.precompiled_charsmap: a normalization of its own");
  }
  TQ_ASSIGN_OR_RETURN(const auto* types, ReadTokens(file, data));
  TQ_RETURN_IF_ERROR(ReadSpecialId(file, kUnknownId, data, data.unk));
  TQ_ASSIGN_OR_RETURN(const auto* scores, file.GetFloats("tokenizer.ggml.scores"));
  return SetSentencePieceVocabulary(*types, *scores, kTokens, data);
}

// tokenizer.json as a whole. The list of tokens must be its own, and behind them may be rows of the
// embedding without a token.
Status ReadTokenizerJson(const GgufFile& file, TokenModel model, TokenizerData& data) {
  TQ_ASSIGN_OR_RETURN(const std::string json, file.GetString(kGgufTokenizerJson));
  auto read = TokenizerDataFromJson(json, "");
  if (!read.ok()) return read.status().WithContext(kGgufTokenizerJson);
  data = *std::move(read);
  if (data.model != model) {
    return InvalidArgument("{} and tokenizer.ggml.model say different kinds of model",
                           kGgufTokenizerJson);
  }
  TQ_ASSIGN_OR_RETURN(const auto* tokens, file.GetStrings(kTokens));
  const size_t own = data.tokens.size();
  if (tokens->size() < own || tokens->size() > kMaxVocabulary) {
    return InvalidArgument("{} has {} entries, {} has {} tokens", kTokens, tokens->size(),
                           kGgufTokenizerJson, own);
  }
  for (size_t id = 0; id < own; ++id) {
    if ((*tokens)[id] == data.tokens[id]) continue;
    return InvalidArgument("{}[{}] is {}, {} says {}", kTokens, id, Quote((*tokens)[id]),
                           kGgufTokenizerJson, Quote(data.tokens[id]));
  }
  data.tokens = *tokens;
  data.types.resize(tokens->size(), TokenType::kNormal);
  return OkStatus();
}

StatusOr<TokenizerData> Read(const GgufFile& file) {
  TQ_ASSIGN_OR_RETURN(const std::string model, file.GetString("tokenizer.ggml.model"));
  TokenizerData data;
  const bool whole = file.HasKey(kGgufTokenizerJson);
  if (whole && (model == "gpt2" || model == "llama")) {
    const TokenModel kind = model == "gpt2" ? TokenModel::kByteBpe : TokenModel::kCharacterBpe;
    TQ_RETURN_IF_ERROR(ReadTokenizerJson(file, kind, data));
  } else if (model == "gpt2") {
    TQ_RETURN_IF_ERROR(ReadByteLevel(file, data));
  } else if (model == "llama") {
    TQ_RETURN_IF_ERROR(ReadLlama(file, data));
  } else {
    return Unimplemented(
        "tokenizer.ggml.model is {}, only 'gpt2' (byte-level BPE) and 'llama' (SentencePiece's "
        "BPE) are supported",
        Quote(model));
  }
  TQ_RETURN_IF_ERROR(ReadSpecialId(file, "tokenizer.ggml.bos_token_id", data, data.bos));
  TQ_RETURN_IF_ERROR(ReadSpecialId(file, "tokenizer.ggml.eos_token_id", data, data.eos));
  TQ_RETURN_IF_ERROR(ReadSpecialId(file, kUnknownId, data, data.unk));
  TQ_RETURN_IF_ERROR(ReadSpecialId(file, "tokenizer.ggml.padding_token_id", data, data.pad));
  const bool bos_by_default = whole ? data.add_bos : AddsBosByDefault(data) && data.bos >= 0;
  TQ_ASSIGN_OR_RETURN(data.add_bos, file.GetBoolOr("tokenizer.ggml.add_bos_token", bos_by_default));
  TQ_ASSIGN_OR_RETURN(const bool add_eos, file.GetBoolOr("tokenizer.ggml.add_eos_token", false));
  if (add_eos) return Unimplemented("tokenizer.ggml.add_eos_token is true");
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
