// A tokenizer from Hugging Face's tokenizer.json (the format of the library `tokenizers`).
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/file_io.h"
#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_data.h"

namespace tq {
namespace {

using nlohmann::json;

constexpr std::string_view kFile = "tokenizer.json";
// The largest in use (Gemma 3: 262,144 tokens) has 33 MB.
constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;

// An object with a "type": a pre-tokeniser, post-processor or decoder.
StatusOr<std::pair<JsonFields, std::string>> Typed(const json& value, std::string where) {
  TQ_ASSIGN_OR_RETURN(JsonFields fields, JsonFields::Of(value, std::move(where)));
  TQ_ASSIGN_OR_RETURN(std::string type, fields.String("type"));
  return std::pair(std::move(fields), std::move(type));
}

// The parts of a "Sequence" (its list is called `list`), or the object itself.
StatusOr<std::vector<std::pair<JsonFields, std::string>>> Flatten(const json& value,
                                                                  std::string where,
                                                                  std::string_view list) {
  std::vector<std::pair<JsonFields, std::string>> parts;
  TQ_ASSIGN_OR_RETURN(auto part, Typed(value, where));
  if (part.second != "Sequence") {
    parts.push_back(std::move(part));
    return parts;
  }
  TQ_RETURN_IF_ERROR(part.first.RefuseOthers({"type", list}));
  TQ_ASSIGN_OR_RETURN(const auto* items, JsonListOrEmpty(part.first, list));
  for (size_t i = 0; i < items->size(); ++i) {
    TQ_ASSIGN_OR_RETURN(auto inner, Typed((*items)[i], fmt::format("{}.{}[{}]", where, list, i)));
    parts.push_back(std::move(inner));
  }
  return parts;
}

Status ReadByteLevelPreTokenizer(const JsonFields& fields, TokenizerData& data) {
  TQ_RETURN_IF_ERROR(
      fields.RefuseOthers({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  TQ_ASSIGN_OR_RETURN(const bool use_regex, fields.BoolOr("use_regex", true));
  if (!use_regex) return Unimplemented("{} is false", fields.Name("use_regex"));
  if (fields.Find("add_prefix_space") == nullptr) {
    return InvalidArgument("{} is missing", fields.Name("add_prefix_space"));
  }
  TQ_ASSIGN_OR_RETURN(data.add_prefix_space, fields.BoolOr("add_prefix_space", false));
  return OkStatus();
}

// [ByteLevel] is GPT-2's; [Digits(individual), ByteLevel] SmolLM's.
Status ReadPreTokenizer(const json* value, TokenizerData& data) {
  const std::string where = fmt::format("{}: pre_tokenizer", kFile);
  if (value == nullptr) return Unimplemented("{} is null: only byte-level BPE is supported", where);
  TQ_ASSIGN_OR_RETURN(const auto parts, Flatten(*value, where, "pretokenizers"));
  for (const auto& [fields, type] : parts) {
    if (type != "Digits" && type != "ByteLevel") {
      return Unimplemented("{} has type {}, only ByteLevel and Digits before it are supported",
                           fields.where(), Quote(type));
    }
  }
  if (parts.size() == 1 && parts[0].second == "ByteLevel") {
    data.pre_tokenizer = PreTokenizerKind::kGpt2;
    return ReadByteLevelPreTokenizer(parts[0].first, data);
  }
  if (parts.size() == 2 && parts[0].second == "Digits" && parts[1].second == "ByteLevel") {
    const JsonFields& digits = parts[0].first;
    TQ_RETURN_IF_ERROR(digits.RefuseOthers({"type", "individual_digits"}));
    TQ_ASSIGN_OR_RETURN(const bool individual, digits.BoolOr("individual_digits", false));
    if (!individual) return Unimplemented("{} is false", digits.Name("individual_digits"));
    data.pre_tokenizer = PreTokenizerKind::kSmolLm;
    return ReadByteLevelPreTokenizer(parts[1].first, data);
  }
  return Unimplemented("{} is neither ByteLevel nor Digits, ByteLevel", where);
}

// The token that a template puts before a single text: [BOS, A] or [A].
Status ReadTemplate(const JsonFields& fields, TokenizerData& data) {
  TQ_RETURN_IF_ERROR(fields.RefuseOthers({"type", "single", "pair", "special_tokens"}));
  TQ_ASSIGN_OR_RETURN(const auto* single, JsonListOrEmpty(fields, "single"));
  std::string shape, special;
  for (const json& piece : *single) {
    TQ_ASSIGN_OR_RETURN(const JsonFields outer, JsonFields::Of(piece, fields.Name("single")));
    TQ_RETURN_IF_ERROR(outer.RefuseOthers({"SpecialToken", "Sequence"}));
    if (const json* token = outer.Find("SpecialToken")) {
      TQ_ASSIGN_OR_RETURN(const JsonFields inner, JsonFields::Of(*token, fields.Name("single")));
      TQ_ASSIGN_OR_RETURN(special, inner.String("id"));
      shape += 'S';
    } else {
      shape += 'A';
    }
  }
  if (shape == "A") return OkStatus();
  if (shape != "SA") {
    return Unimplemented("{}: only a token before the text is supported", fields.Name("single"));
  }
  const std::string where = fields.Name("special_tokens");
  const json* specials = fields.Find("special_tokens");
  if (specials == nullptr) return InvalidArgument("{} is missing", where);
  TQ_ASSIGN_OR_RETURN(const JsonFields by_name, JsonFields::Of(*specials, where));
  const json* entry = by_name.Find(special);
  if (entry == nullptr) return InvalidArgument("{} lacks {}", where, Quote(special));
  TQ_ASSIGN_OR_RETURN(const JsonFields token, JsonFields::Of(*entry, where));
  TQ_ASSIGN_OR_RETURN(const auto* ids, JsonListOrEmpty(token, "ids"));
  if (ids->size() != 1) {
    return Unimplemented("{} has {} ids, only one is supported", where, ids->size());
  }
  TQ_ASSIGN_OR_RETURN(data.bos, JsonTokenId((*ids)[0], where));
  data.add_bos = true;
  return OkStatus();
}

Status ReadPostProcessor(const json* value, TokenizerData& data) {
  if (value == nullptr) return OkStatus();
  TQ_ASSIGN_OR_RETURN(const auto parts,
                      Flatten(*value, fmt::format("{}: post_processor", kFile), "processors"));
  for (const auto& [fields, type] : parts) {
    if (type == "ByteLevel") continue;  // changes offsets only
    if (type != "TemplateProcessing") {
      return Unimplemented("{} has type {}, only ByteLevel and TemplateProcessing are supported",
                           fields.where(), Quote(type));
    }
    if (data.add_bos) return Unimplemented("{}: a second template", fields.where());
    TQ_RETURN_IF_ERROR(ReadTemplate(fields, data));
  }
  return OkStatus();
}

Status ReadDecoder(const json* value) {
  const std::string where = fmt::format("{}: decoder", kFile);
  if (value == nullptr) return Unimplemented("{} is null, only ByteLevel is supported", where);
  TQ_ASSIGN_OR_RETURN(const auto part, Typed(*value, where));
  if (part.second == "ByteLevel") return OkStatus();
  return Unimplemented("{} has type {}, only ByteLevel is supported", where, Quote(part.second));
}

// Everything of the model but vocabulary and merges.
Status CheckModel(const JsonFields& model, std::string& unknown_token) {
  TQ_ASSIGN_OR_RETURN(const std::string type, model.String("type"));
  if (type != "BPE") {
    return Unimplemented("{} is {}, only BPE is supported", model.Name("type"), Quote(type));
  }
  TQ_RETURN_IF_ERROR(model.RefuseOthers(
      {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
       "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  TQ_RETURN_IF_ERROR(model.RefuseTrue("byte_fallback"));
  TQ_RETURN_IF_ERROR(model.RefuseTrue("ignore_merges"));
  if (const json* dropout = model.Find("dropout"); dropout != nullptr && *dropout != 0) {
    return Unimplemented("{} is neither null nor 0", model.Name("dropout"));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    TQ_ASSIGN_OR_RETURN(const std::string affix, model.StringOr(key, ""));
    if (!affix.empty()) return Unimplemented("{} is {}", model.Name(key), Quote(affix));
  }
  TQ_ASSIGN_OR_RETURN(unknown_token, model.StringOr("unk_token", ""));
  if (!unknown_token.empty()) TQ_RETURN_IF_ERROR(model.RefuseTrue("fuse_unk"));
  return OkStatus();
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
  std::string unknown_token;
  TQ_RETURN_IF_ERROR(CheckModel(model, unknown_token));
  if (const json* normalizer = root.Find("normalizer")) {
    TQ_ASSIGN_OR_RETURN(const auto part, Typed(*normalizer, fmt::format("{}: normalizer", kFile)));
    return Unimplemented("{}: normalizer has type {}, none is supported", kFile,
                         Quote(part.second));
  }
  TokenizerData data;
  TQ_RETURN_IF_ERROR(ReadPreTokenizer(root.Find("pre_tokenizer"), data));
  TQ_RETURN_IF_ERROR(ReadPostProcessor(root.Find("post_processor"), data));
  TQ_RETURN_IF_ERROR(ReadDecoder(root.Find("decoder")));
  TQ_ASSIGN_OR_RETURN(std::vector<AddedToken> added, ReadAddedTokens(root));
  TQ_RETURN_IF_ERROR(PlaceTokens(document.vocab, added, data));
  auto index = TokenIndex::Create(data.tokens);
  if (!index.ok()) return index.status().WithContext(kFile);
  auto merges = ResolveMerges(document.merges, *index, fmt::format("{}: model.merges", kFile));
  if (!merges.ok()) return merges.status();
  data.merges = *std::move(merges);
  if (!unknown_token.empty()) {
    data.missing_to_unk = true;
    data.unk = index->Find(unknown_token);
    if (data.unk < 0) {
      return InvalidArgument("{}: model.unk_token {} is not in the vocabulary", kFile,
                             Quote(unknown_token));
    }
  }
  return data;
}

StatusOr<std::string> ReadIfPresent(const std::filesystem::path& path, uint64_t max_bytes) {
  auto text = ReadFile(path, max_bytes);
  if (!text.ok() && text.status().code() == StatusCode::kNotFound) return std::string();
  return text;
}

}  // namespace

StatusOr<TokenizerData> TokenizerDataFromJson(std::string_view tokenizer_json,
                                              std::string_view tokenizer_config_json) {
  TQ_ASSIGN_OR_RETURN(TokenizerData data, FromTokenizerJson(tokenizer_json));
  if (!tokenizer_config_json.empty()) {
    TQ_RETURN_IF_ERROR(ApplyTokenizerConfig(tokenizer_config_json, data));
  }
  if (Status status = CheckTokenizerData(data); !status.ok()) return status.WithContext(kFile);
  return data;
}

StatusOr<TokenizerData> TokenizerDataFromFolder(const std::filesystem::path& folder) {
  const std::string where = folder.string();
  TokenizerData data;
  {
    TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(folder / kFile, kMaxFileBytes));
    TQ_ASSIGN_OR_RETURN(const std::string config,
                        ReadIfPresent(folder / "tokenizer_config.json", kMaxFileBytes));
    auto read = TokenizerDataFromJson(text, config);
    if (!read.ok()) return read.status().WithContext(where);
    data = *std::move(read);
  }
  TQ_ASSIGN_OR_RETURN(std::string chat_template,
                      ReadIfPresent(folder / "chat_template.jinja", kMaxChatTemplateBytes));
  if (!chat_template.empty()) data.chat_template = std::move(chat_template);
  if (Status status = CheckTokenizerData(data); !status.ok()) return status.WithContext(where);
  return data;
}

}  // namespace tq
