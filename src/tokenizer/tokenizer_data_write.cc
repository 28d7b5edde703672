// tokenizer.json and tokenizer_config.json as Hugging Face's libraries read them. Written
// entry by entry: the order of the keys is part of the bytes that we promise.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "tokenizer/tokenizer.h"

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
    if (data.types[id] == TokenType::kNormal) continue;
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

std::string PreTokenizerJson(const TokenizerData& data) {
  const std::string byte_level = fmt::format(
      R"({{"type": "ByteLevel", "add_prefix_space": {}, "trim_offsets": true, "use_regex": true}})",
      Bool(data.add_prefix_space));
  if (data.pre_tokenizer == PreTokenizerKind::kGpt2) return byte_level;
  return fmt::format(
      R"({{"type": "Sequence", "pretokenizers": [{{"type": "Digits", "individual_digits": true}}, {}]}})",
      byte_level);
}

std::string PostProcessorJson(const TokenizerData& data) {
  if (!data.add_bos) {
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

std::string ModelJson(const TokenizerData& data) {
  std::string json = fmt::format(
      "{{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": {},\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
      "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
      "    \"vocab\": {{",
      data.missing_to_unk ? Literal(Token(data, data.unk)) : "null");
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

}  // namespace

std::string TokenizerDataToJson(const TokenizerData& data) {
  return fmt::format(
      "{{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
      "  \"added_tokens\": {},\n  \"normalizer\": null,\n  \"pre_tokenizer\": {},\n"
      "  \"post_processor\": {},\n"
      "  \"decoder\": {{\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
      "\"trim_offsets\": true, \"use_regex\": true}},\n  \"model\": {}\n}}\n",
      AddedTokens(data), PreTokenizerJson(data), PostProcessorJson(data), ModelJson(data));
}

std::string TokenizerConfigToJson(const TokenizerData& data) {
  std::string json = fmt::format(
      "{{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"add_prefix_space\": {},\n"
      "  \"add_bos_token\": {},\n  \"clean_up_tokenization_spaces\": false",
      Bool(data.add_prefix_space), Bool(data.add_bos));
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

}  // namespace tq
