// A tokenizer from Hugging Face's tokenizer.json (the format of the library `tokenizers`).
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/file_io.h"
#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "tokenizer/character_tokens.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_data.h"
#include "tokenizer/tokenizer_json_steps.h"

namespace tq {
namespace {

using nlohmann::json;

constexpr std::string_view kFile = "tokenizer.json";
// The largest in use (Gemma 3: 262,144 tokens) has 33 MB.
constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;

// What the model says besides vocabulary and merges.
struct ModelFields {
  bool unigram = false, byte_fallback = false;
  std::string unknown_token;  // empty: none
  int32_t unknown_id = -1;    // Unigram's
};

Status ReadBpe(const JsonFields& model, TokenizerData& data, ModelFields& read) {
  TQ_RETURN_IF_ERROR(model.RefuseOthers(
      {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
       "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  TQ_ASSIGN_OR_RETURN(data.ignore_merges, model.BoolOr("ignore_merges", false));
  if (const json* dropout = model.Find("dropout"); dropout != nullptr && *dropout != 0) {
    return Unimplemented("{} is neither null nor 0", model.Name("dropout"));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    TQ_ASSIGN_OR_RETURN(const std::string affix, model.StringOr(key, ""));
    if (!affix.empty()) return Unimplemented("{} is {}", model.Name(key), Quote(affix));
  }
  TQ_ASSIGN_OR_RETURN(read.unknown_token, model.StringOr("unk_token", ""));
  TQ_ASSIGN_OR_RETURN(const bool fuse, model.BoolOr("fuse_unk", false));
  data.fuse_unk = fuse && !read.unknown_token.empty();
  return OkStatus();
}

Status ReadUnigram(const JsonFields& model, TokenizerData& data, ModelFields& read) {
  data.model = TokenModel::kUnigram;
  data.fuse_unk = true;
  read.unigram = true;
  TQ_RETURN_IF_ERROR(model.RefuseOthers({"type", "unk_id", "vocab", "byte_fallback", "merges"}));
  if (model.Find("unk_id") != nullptr) {
    TQ_ASSIGN_OR_RETURN(read.unknown_id, model.Id("unk_id"));
  }
  return OkStatus();
}

StatusOr<ModelFields> ReadModel(const JsonFields& model, TokenizerData& data) {
  ModelFields read;
  TQ_ASSIGN_OR_RETURN(const std::string type, model.String("type"));
  if (type == "BPE") {
    TQ_RETURN_IF_ERROR(ReadBpe(model, data, read));
  } else if (type == "Unigram") {
    TQ_RETURN_IF_ERROR(ReadUnigram(model, data, read));
  } else {
    return Unimplemented("{} is {}, only BPE and Unigram are supported", model.Name("type"),
                         Quote(type));
  }
  TQ_ASSIGN_OR_RETURN(read.byte_fallback, model.BoolOr("byte_fallback", false));
  return read;
}

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false, late = false;
};

StatusOr<std::vector<AddedToken>> ReadAddedTokens(const JsonFields& root) {
  std::vector<AddedToken> tokens;
  TQ_ASSIGN_OR_RETURN(const auto* list, JsonListOrEmpty(root, "added_tokens"));
  for (size_t i = 0; i < list->size(); ++i) {
    TQ_ASSIGN_OR_RETURN(const JsonFields fields,
                        JsonFields::Of((*list)[i], fmt::format("{}: added_tokens[{}]", kFile, i)));
    TQ_RETURN_IF_ERROR(fields.RefuseOthers(
        {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      TQ_RETURN_IF_ERROR(fields.RefuseTrue(key));
    }
    AddedToken token;
    TQ_ASSIGN_OR_RETURN(token.id, fields.Id("id"));
    TQ_ASSIGN_OR_RETURN(token.content, fields.String("content"));
    TQ_ASSIGN_OR_RETURN(token.special, fields.BoolOr("special", false));
    TQ_ASSIGN_OR_RETURN(token.late, fields.BoolOr("normalized", !token.special));
    if (token.content.empty()) return InvalidArgument("{} is empty", fields.Name("content"));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// Tokens by id. Every id below their number must be there: `bound` is the most there can
// be, so that a wild id cannot ask for memory.
Status PlaceTokens(std::vector<std::pair<std::string, int32_t>>& vocab,
                   std::vector<AddedToken>& added, TokenizerData& data) {
  const size_t bound = vocab.size() + added.size();
  data.tokens.resize(bound);
  data.types.assign(bound, TokenType::kNormal);
  size_t count = 0;
  const auto check = [&](const std::string& token, int32_t id, std::string_view list) {
    if (static_cast<size_t>(id) < bound) return OkStatus();
    return InvalidArgument("{}: {} gives {} the id {}, but there are {} tokens: ids are missing",
                           kFile, list, Quote(token), id, bound);
  };
  for (auto& [token, id] : vocab) {
    TQ_RETURN_IF_ERROR(check(token, id, "model.vocab"));
    if (token.empty()) return InvalidArgument("{}: model.vocab: token {} is empty", kFile, id);
    std::string& slot = data.tokens[static_cast<size_t>(id)];
    if (!slot.empty()) {
      return InvalidArgument("{}: model.vocab: {} and {} both have the id {}", kFile, Quote(slot),
                             Quote(token), id);
    }
    slot = std::move(token);
    ++count;
  }
  for (AddedToken& token : added) {
    TQ_RETURN_IF_ERROR(check(token.content, token.id, "added_tokens"));
    const auto id = static_cast<size_t>(token.id);
    std::string& slot = data.tokens[id];
    if (slot.empty()) {
      slot = token.content;
      ++count;
    } else if (slot != token.content || data.types[id] != TokenType::kNormal) {
      return InvalidArgument("{}: added_tokens: {} has the id {} of {}", kFile,
                             Quote(token.content), id, Quote(slot));
    }
    data.types[id] = token.special ? TokenType::kControl : TokenType::kUserDefined;
    if (token.late) data.matched_late.push_back(token.id);
  }
  std::sort(data.matched_late.begin(), data.matched_late.end());
  for (size_t id = 0; id < count; ++id) {
    if (data.tokens[id].empty()) {
      return InvalidArgument("{}: no token has the id {}, though {} tokens are listed", kFile, id,
                             count);
    }
  }
  data.tokens.resize(count);
  data.types.resize(count);
  return OkStatus();
}

// Unigram's vocabulary as pairs with ids; the scores of other tokens are 0.
void TakePieces(std::vector<std::pair<std::string, double>>& pieces, size_t tokens,
                std::vector<std::pair<std::string, int32_t>>& vocab, TokenizerData& data) {
  data.scores.assign(pieces.size() + tokens, 0);
  vocab.reserve(pieces.size());
  for (size_t id = 0; id < pieces.size(); ++id) {
    data.scores[id] = pieces[id].second;
    vocab.emplace_back(std::move(pieces[id].first), static_cast<int32_t>(id));
  }
}

// The token that stands for what has none.
Status FindUnknown(const ModelFields& model, const TokenIndex& index, TokenizerData& data) {
  data.unk = model.unknown_id;
  if (!model.unknown_token.empty()) {
    data.unk = index.Find(model.unknown_token);
    if (data.unk < 0) {
      return InvalidArgument("{}: model.unk_token {} is not in the vocabulary", kFile,
                             Quote(model.unknown_token));
    }
  }
  data.missing_to_unk = data.unk >= 0;
  return OkStatus();
}

// The vocabulary, the added tokens and the merges.
Status ReadVocabulary(TokenizerDocument& document, const JsonFields& root, const ModelFields& model,
                      TokenizerData& data) {
  TQ_ASSIGN_OR_RETURN(std::vector<AddedToken> added, ReadAddedTokens(root));
  if (model.unigram != document.vocab.empty() || model.unigram == document.pieces.empty()) {
    return InvalidArgument("{}: model.vocab: want {}, and not empty", kFile,
                           model.unigram ? "a list of tokens and scores" : "tokens and their ids");
  }
  if (model.unigram) TakePieces(document.pieces, added.size(), document.vocab, data);
  TQ_RETURN_IF_ERROR(PlaceTokens(document.vocab, added, data));
  if (model.unigram) data.scores.resize(data.tokens.size());
  for (size_t id = 0; model.byte_fallback && id < data.tokens.size(); ++id) {
    if (data.types[id] == TokenType::kNormal && ByteOfToken(data.tokens[id]) >= 0) {
      data.types[id] = TokenType::kByte;
    }
  }
  auto index = TokenIndex::Create(data.tokens);
  if (!index.ok()) return index.status().WithContext(kFile);
  TQ_ASSIGN_OR_RETURN(
      data.merges, ResolveMerges(document.merges, *index, fmt::format("{}: model.merges", kFile)));
  return FindUnknown(model, *index, data);
}

StatusOr<TokenizerData> FromTokenizerJson(std::string_view text) {
  TQ_ASSIGN_OR_RETURN(TokenizerDocument document, ParseTokenizerDocument(text, kFile));
  TQ_ASSIGN_OR_RETURN(const JsonFields root, JsonFields::Of(document.rest, std::string(kFile)));
  TQ_RETURN_IF_ERROR(
      root.RefuseOthers({"version", "truncation", "padding", "added_tokens", "normalizer",
                         "pre_tokenizer", "post_processor", "decoder", "model"}));
  const json* model_value = root.Find("model");
  if (model_value == nullptr) return InvalidArgument("{}: model is missing", kFile);
  TQ_ASSIGN_OR_RETURN(const JsonFields model,
                      JsonFields::Of(*model_value, fmt::format("{}: model", kFile)));
  TokenizerData data;
  TQ_ASSIGN_OR_RETURN(const ModelFields read, ReadModel(model, data));
  TQ_RETURN_IF_ERROR(ReadNormalizer(root.Find("normalizer"), kFile, data));
  TQ_RETURN_IF_ERROR(ReadPreTokenizer(root.Find("pre_tokenizer"), kFile, data));
  if (data.model == TokenModel::kByteBpe) {
    TQ_RETURN_IF_ERROR(model.RefuseTrue("byte_fallback"));
    if (data.fuse_unk) TQ_RETURN_IF_ERROR(model.RefuseTrue("fuse_unk"));
  }
  TQ_RETURN_IF_ERROR(ReadPostProcessor(root.Find("post_processor"), kFile, data));
  TQ_RETURN_IF_ERROR(ReadVocabulary(document, root, read, data));
  TQ_RETURN_IF_ERROR(ReadDecoder(root.Find("decoder"), kFile, data));
  return data;
}

StatusOr<std::string> ReadIfPresent(const std::filesystem::path& path, uint64_t max_bytes) {
  auto text = ReadFile(path, max_bytes);
  if (!text.ok() && text.status().code() == StatusCode::kNotFound) return std::string();
  return text;
}

// The error with its folder named; errors of reading a file name it already.
Status InFolder(const Status& status, const std::string& folder) {
  return status.message().starts_with(folder) ? status : status.WithContext(folder);
}

// tokenizer.json, or SentencePiece's file where there is only that.
StatusOr<TokenizerData> ReadEitherFile(const std::filesystem::path& folder,
                                       const std::string& config) {
  const auto text = ReadFile(folder / kFile, kMaxFileBytes);
  if (text.ok()) return TokenizerDataFromJson(*text, config);
  if (text.status().code() != StatusCode::kNotFound) return text.status();
  const auto model = ReadFile(folder / "tokenizer.model", kMaxFileBytes);
  if (model.ok()) return TokenizerDataFromSentencePiece(*model, config);
  // Where there is neither, the usual one is missing.
  return model.status().code() == StatusCode::kNotFound ? text.status() : model.status();
}

}  // namespace

StatusOr<TokenizerData> TokenizerDataFromJson(std::string_view tokenizer_json,
                                              std::string_view tokenizer_config_json) {
  TQ_ASSIGN_OR_RETURN(TokenizerData data, FromTokenizerJson(tokenizer_json));
  if (!tokenizer_config_json.empty()) {
    TQ_RETURN_IF_ERROR(ApplyTokenizerConfig(tokenizer_config_json, /*decides_bos=*/false, data));
  }
  if (Status status = CheckTokenizerData(data); !status.ok()) return status.WithContext(kFile);
  return data;
}

StatusOr<TokenizerData> TokenizerDataFromFolder(const std::filesystem::path& folder) {
  const std::string where = folder.string();
  TokenizerData data;
  {
    TQ_ASSIGN_OR_RETURN(const std::string config,
                        ReadIfPresent(folder / "tokenizer_config.json", kMaxFileBytes));
    auto read = ReadEitherFile(folder, config);
    if (!read.ok()) return InFolder(read.status(), where);
    data = *std::move(read);
  }
  TQ_ASSIGN_OR_RETURN(std::string chat_template,
                      ReadIfPresent(folder / "chat_template.jinja", kMaxChatTemplateBytes));
  if (!chat_template.empty()) data.chat_template = std::move(chat_template);
  if (Status status = CheckTokenizerData(data); !status.ok()) return status.WithContext(where);
  return data;
}

}  // namespace tq
