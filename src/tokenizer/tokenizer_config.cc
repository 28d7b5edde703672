#include "tokenizer/tokenizer_config.h"

#include <charconv>
#include <string>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/tokenizer_data.h"

namespace tq {
namespace {

using nlohmann::json;

constexpr std::string_view kFile = "tokenizer_config.json";

// A token is written as a string or as an object with "content". Empty: none.
StatusOr<std::string> TokenText(const JsonFields& config, std::string_view key) {
  const json* value = config.Find(key);
  if (value == nullptr || value->is_string()) return config.StringOr(key, "");
  TQ_ASSIGN_OR_RETURN(const JsonFields token, JsonFields::Of(*value, config.Name(key)));
  return token.String("content");
}

// Sets `id` when the field names a token; a token that is known already must be the same.
Status ReadSpecial(const JsonFields& config, std::string_view key, const TokenIndex& index,
                   bool required, int32_t& id) {
  TQ_ASSIGN_OR_RETURN(const std::string text, TokenText(config, key));
  if (text.empty()) return OkStatus();
  const int32_t found = index.Find(text);
  if (found < 0 && required) {
    return InvalidArgument("{} is {}, which is not in the vocabulary", config.Name(key),
                           Quote(text));
  }
  if (found < 0) return OkStatus();
  if (id >= 0 && id != found) {
    return InvalidArgument("{} is token {}, but the tokenizer uses {}", config.Name(key), found,
                           id);
  }
  id = found;
  return OkStatus();
}

// Tokens that the file wants added must be in the vocabulary already.
Status CheckAddedTokens(const JsonFields& config, const TokenizerData& data) {
  const json* value = config.Find("added_tokens_decoder");
  if (value == nullptr) return OkStatus();
  const std::string where = config.Name("added_tokens_decoder");
  TQ_RETURN_IF_ERROR(JsonFields::Of(*value, where).status());
  for (const auto& item : value->items()) {
    const std::string& key = item.key();
    size_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    TQ_ASSIGN_OR_RETURN(const JsonFields token, JsonFields::Of(item.value(), where));
    TQ_ASSIGN_OR_RETURN(const std::string content, token.String("content"));
    if (error != std::errc() || end != key.data() + key.size() || id >= data.tokens.size() ||
        data.tokens[id] != content || data.types[id] == TokenType::kNormal) {
      return InvalidArgument("{}: {} with id {} is not among the tokenizer's added tokens", where,
                             Quote(content), Quote(key));
    }
  }
  return OkStatus();
}

// One template, or a list of named ones of which "default" counts.
Status ReadChatTemplate(const JsonFields& config, TokenizerData& data) {
  const json* value = config.Find("chat_template");
  if (value == nullptr) return OkStatus();
  if (!value->is_array()) {
    TQ_ASSIGN_OR_RETURN(data.chat_template, config.String("chat_template"));
    return OkStatus();
  }
  for (const json& entry : *value) {
    TQ_ASSIGN_OR_RETURN(const JsonFields named,
                        JsonFields::Of(entry, config.Name("chat_template")));
    TQ_ASSIGN_OR_RETURN(const std::string name, named.String("name"));
    if (name == "default") {
      TQ_ASSIGN_OR_RETURN(data.chat_template, named.String("template"));
    }
  }
  return OkStatus();
}

// What Hugging Face's format does not say of SentencePiece's models.
Status ReadSentencePieceFields(const JsonFields& config, TokenizerData& data) {
  TQ_ASSIGN_OR_RETURN(data.merges_tie, config.BoolOr(kMergesTie, data.merges_tie));
  TQ_ASSIGN_OR_RETURN(data.float_sums, config.BoolOr(kFloatSums, data.float_sums));
  TQ_ASSIGN_OR_RETURN(const auto* tied, JsonListOrEmpty(config, kTiedTokens));
  for (const json& value : *tied) {
    TQ_ASSIGN_OR_RETURN(const int32_t id, JsonTokenId(value, config.Name(kTiedTokens)));
    data.tied_tokens.push_back(id);
  }
  return OkStatus();
}

}  // namespace

Status ApplyTokenizerConfig(std::string_view text, bool decides_bos, TokenizerData& data) {
  TQ_ASSIGN_OR_RETURN(const json document, ParseJson(text, kFile));
  TQ_ASSIGN_OR_RETURN(const JsonFields config, JsonFields::Of(document, std::string(kFile)));
  for (const char* key : {"add_eos_token", "split_special_tokens", "do_lower_case"}) {
    TQ_RETURN_IF_ERROR(config.RefuseTrue(key));
  }
  const bool has_prefix = data.add_prefix_space || data.normalization.prefix_mark;
  TQ_ASSIGN_OR_RETURN(const bool prefix, config.BoolOr("add_prefix_space", has_prefix));
  if (prefix != has_prefix) {
    return InvalidArgument("{} is {}, but the tokenizer says {}", config.Name("add_prefix_space"),
                           prefix, has_prefix);
  }
  TQ_RETURN_IF_ERROR(ReadSentencePieceFields(config, data));
  auto index = TokenIndex::Create(data.tokens);
  if (!index.ok()) return index.status();
  TQ_RETURN_IF_ERROR(ReadSpecial(config, "bos_token", *index, true, data.bos));
  TQ_RETURN_IF_ERROR(ReadSpecial(config, "eos_token", *index, true, data.eos));
  TQ_RETURN_IF_ERROR(ReadSpecial(config, "unk_token", *index, false, data.unk));
  TQ_RETURN_IF_ERROR(ReadSpecial(config, "pad_token", *index, false, data.pad));
  TQ_RETURN_IF_ERROR(CheckAddedTokens(config, data));
  TQ_ASSIGN_OR_RETURN(const bool add_bos, config.BoolOr("add_bos_token", decides_bos));
  data.add_bos = ((data.add_bos && !decides_bos) || add_bos) && data.bos >= 0;
  return ReadChatTemplate(config, data);
}

}  // namespace tq
