// tokenizer.json and tokenizer_config.json as Hugging Face's libraries read them. Written
// entry by entry: the order of the keys is part of the bytes that we promise.
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "checkpoint/model_directory.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_config.h"

namespace tq {
namespace {

// A JSON string literal; tokens are UTF-8 (CheckTokenizerData).
std::string Literal(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

const std::string& Token(const TokenizerData& data, int32_t id) {
  return data.tokens[static_cast<size_t>(id)];
}

std::string_view Bool(bool value) { return value ? "true" : "false"; }

std::string AddedTokens(const TokenizerData& data) {
  std::string json;
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    if (data.types[id] != TokenType::kControl && data.types[id] != TokenType::kUserDefined) {
      continue;
    }
    const bool late = std::binary_search(data.matched_late.begin(), data.matched_late.end(),
                                         static_cast<int32_t>(id));
    json += fmt::format(
        "{}\n    {{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": false, "
        "\"rstrip\": false, \"normalized\": {}, \"special\": {}}}",
        json.empty() ? "" : ",", id, Literal(data.tokens[id]), Bool(late),
        Bool(data.types[id] == TokenType::kControl));
  }
  return json.empty() ? "[]" : "[" + json + "\n  ]";
}

std::string NormalizerJson(const Normalization& normalization) {
  std::string steps;
  const auto add = [&](bool wanted, std::string_view step) {
    if (wanted) steps += fmt::format("{}{}", steps.empty() ? "" : ", ", step);
  };
  add(normalization.nfc, R"({"type": "NFC"})");
  add(normalization.prefix_mark, R"({"type": "Prepend", "prepend": "\u2581"})");
  add(normalization.mark_spaces,
      R"({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})");
  if (steps.empty()) return "null";
  return fmt::format(R"({{"type": "Sequence", "normalizers": [{}]}})", steps);
}

std::string ByteLevelJson(bool prefix, bool regex) {
  return fmt::format(
      R"({{"type": "ByteLevel", "add_prefix_space": {}, "trim_offsets": true, "use_regex": {}}})",
      Bool(prefix), Bool(regex));
}

std::string PreTokenizerJson(const TokenizerData& data) {
  switch (data.pre_tokenizer) {
    case PreTokenizerKind::kGpt2:
      return ByteLevelJson(data.add_prefix_space, true);
    case PreTokenizerKind::kSmolLm:
      return fmt::format(
          R"({{"type": "Sequence", "pretokenizers": [{{"type": "Digits", "individual_digits": true}}, {}]}})",
          ByteLevelJson(false, true));
    case PreTokenizerKind::kLlama3:
    case PreTokenizerKind::kQwen2:
    case PreTokenizerKind::kTekken:
      return fmt::format(
          R"({{"type": "Sequence", "pretokenizers": [{{"type": "Split", "pattern": {{"Regex": {}}}, )"
          R"("behavior": "Isolated", "invert": false}}, {}]}})",
          Literal(std::string(*PatternOf(data.pre_tokenizer))), ByteLevelJson(false, false));
    case PreTokenizerKind::kNone:
      break;
    case PreTokenizerKind::kMetaspace:
    case PreTokenizerKind::kMetaspaceWords:
      return fmt::format(
          R"({{"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "{}", "split": {}}})",
          !data.add_prefix_space   ? "never"
          : data.prefix_first_only ? "first"
                                   : "always",
          Bool(data.pre_tokenizer == PreTokenizerKind::kMetaspaceWords));
  }
  return "null";
}

std::string DecoderJson(const TokenizerData& data) {
  if (data.model == TokenModel::kByteBpe) {
    return R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})";
  }
  return fmt::format(
      R"({{"type": "Sequence", "decoders": [{{"type": "Replace", "pattern": {{"String": "\u2581"}}, )"
      R"("content": " "}}, {{"type": "ByteFallback"}}, {{"type": "Fuse"}}{}]}})",
      data.strip_prefix ? R"(, {"type": "Strip", "content": " ", "start": 1, "stop": 0})" : "");
}

std::string PostProcessorJson(const TokenizerData& data) {
  if (!data.add_bos) {
    if (data.model != TokenModel::kByteBpe) return "null";
    return R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true})";
  }
  const std::string bos = Literal(Token(data, data.bos));
  const std::string first = fmt::format(R"({{"SpecialToken": {{"id": {}, "type_id": 0}}}})", bos);
  const std::string_view a = R"({"Sequence": {"id": "A", "type_id": 0}})";
  const std::string_view b = R"({"Sequence": {"id": "B", "type_id": 0}})";
  return fmt::format(
      R"({{"type": "TemplateProcessing", "single": [{0}, {1}], "pair": [{0}, {1}, {2}], )"
      R"("special_tokens": {{{3}: {{"id": {3}, "ids": [{4}], "tokens": [{3}]}}}}}})",
      first, a, b, bos, data.bos);
}

std::string UnknownToken(const TokenizerData& data) {
  return data.missing_to_unk ? Literal(Token(data, data.unk)) : "null";
}

bool HasByteTokens(const TokenizerData& data) {
  return std::find(data.types.begin(), data.types.end(), TokenType::kByte) != data.types.end();
}

std::string BpeJson(const TokenizerData& data) {
  std::string json = fmt::format(
      "{{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": {},\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
      "    \"fuse_unk\": {},\n    \"byte_fallback\": {},\n    \"ignore_merges\": {},\n"
      "    \"vocab\": {{",
      UnknownToken(data), Bool(data.fuse_unk), Bool(HasByteTokens(data)), Bool(data.ignore_merges));
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    json += fmt::format("{}\n      {}: {}", id == 0 ? "" : ",", Literal(data.tokens[id]), id);
  }
  json += "\n    },\n    \"merges\": [";
  for (size_t rank = 0; rank < data.merges.size(); ++rank) {
    const TokenMerge& merge = data.merges[rank];
    json += fmt::format("{}\n      [{}, {}]", rank == 0 ? "" : ",",
                        Literal(Token(data, merge.left)), Literal(Token(data, merge.right)));
  }
  json += "\n    ]\n  }";
  return json;
}

std::string UnigramJson(const TokenizerData& data) {
  std::string json = fmt::format(
      "{{\n    \"type\": \"Unigram\",\n    \"unk_id\": {},\n    \"byte_fallback\": {},\n"
      "    \"vocab\": [",
      data.missing_to_unk ? std::to_string(data.unk) : "null", Bool(HasByteTokens(data)));
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    // The shortest digits that give the same double.
    json += fmt::format("{}\n      [{}, {}]", id == 0 ? "" : ",", Literal(data.tokens[id]),
                        data.scores[id]);
  }
  json += "\n    ]\n  }";
  return json;
}

}  // namespace

std::string TokenizerDataToJson(const TokenizerData& data) {
  return fmt::format(
      "{{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
      "  \"added_tokens\": {},\n  \"normalizer\": {},\n  \"pre_tokenizer\": {},\n"
      "  \"post_processor\": {},\n  \"decoder\": {},\n  \"model\": {}\n}}\n",
      AddedTokens(data), NormalizerJson(data.normalization), PreTokenizerJson(data),
      PostProcessorJson(data), DecoderJson(data),
      data.model == TokenModel::kUnigram ? UnigramJson(data) : BpeJson(data));
}

std::string TokenizerConfigToJson(const TokenizerData& data) {
  std::string json = fmt::format(
      "{{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"add_prefix_space\": {},\n"
      "  \"add_bos_token\": {},\n  \"clean_up_tokenization_spaces\": false",
      Bool(data.add_prefix_space || data.normalization.prefix_mark), Bool(data.add_bos));
  if (data.merges_tie) json += fmt::format(",\n  \"{}\": true", kMergesTie);
  if (!data.tied_tokens.empty()) {
    json += fmt::format(",\n  \"{}\": [{}]", kTiedTokens, fmt::join(data.tied_tokens, ", "));
  }
  if (data.float_sums) json += fmt::format(",\n  \"{}\": true", kFloatSums);
  const auto add = [&](std::string_view key, int32_t id) {
    if (id >= 0) json += fmt::format(",\n  \"{}\": {}", key, Literal(Token(data, id)));
  };
  add("bos_token", data.bos);
  add("eos_token", data.eos);
  add("unk_token", data.unk);
  add("pad_token", data.pad);
  if (!data.chat_template.empty()) {
    json += fmt::format(",\n  \"chat_template\": {}", Literal(data.chat_template));
  }
  return json + "\n}\n";
}

StatusOr<std::map<std::string, std::string>> TokenizerFiles(const std::filesystem::path& folder,
                                                            const GgufFile* gguf) {
  if (gguf == nullptr) return ReadTokenizerFiles(folder);
  TQ_ASSIGN_OR_RETURN(const TokenizerData data, TokenizerDataFromGguf(*gguf));
  return std::map<std::string, std::string>{{"tokenizer.json", TokenizerDataToJson(data)},
                                            {"tokenizer_config.json", TokenizerConfigToJson(data)}};
}

}  // namespace tq
