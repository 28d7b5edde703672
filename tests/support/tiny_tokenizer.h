// A small byte-level BPE vocabulary, as a Hugging Face tokenizer.json and as GGUF metadata:
//   0 <s>, 1 </s>, 2..257 the single bytes in GPT-2's spelling (in byte order), then merges.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "gguf_builder.h"

namespace tq::testing {

struct TinyTokenizer {
  std::vector<std::string> tokens;  // by id
  std::vector<std::pair<std::string, std::string>> merges;
  std::string pre_tokenizer;  // "gpt2" or "smollm"
  bool add_bos = false;
};

// GPT-2's spelling of a byte: printable Latin-1 stands for itself, the others for the code
// points from 256 on, in order; UTF-8.
inline std::string SpellByte(int byte) {
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

// `vocab` tokens: 258 and then up to 702 merges, of a space with a letter and of two letters.
inline TinyTokenizer MakeTinyTokenizer(uint32_t vocab, std::string_view pre_tokenizer = "gpt2",
                                       bool add_bos = false) {
  TinyTokenizer result;
  result.pre_tokenizer = pre_tokenizer;
  result.add_bos = add_bos;
  result.tokens = {"<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) result.tokens.push_back(SpellByte(byte));
  TQ_CHECK(vocab >= result.tokens.size());
  constexpr std::string_view kLetters = "etaoinshrdlcumwfgypbvkjxqz";
  const auto add = [&](const std::string& left, const std::string& right) {
    if (result.tokens.size() == vocab) return;
    result.merges.emplace_back(left, right);
    result.tokens.push_back(left + right);
  };
  for (const char letter : kLetters) add(SpellByte(' '), std::string(1, letter));
  for (const char first : kLetters) {
    for (const char second : kLetters) add(std::string(1, first), std::string(1, second));
  }
  TQ_CHECK(result.tokens.size() == vocab);
  return result;
}

inline std::string TokenizerJson(const TinyTokenizer& tokenizer) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = Json::array();
  for (int id = 0; id < 2; ++id) {
    json["added_tokens"].push_back({{"id", id},
                                    {"content", tokenizer.tokens[id]},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
  }
  json["normalizer"] = nullptr;
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  json["pre_tokenizer"] = byte_level;
  if (tokenizer.pre_tokenizer == "smollm") {
    json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array()}};
    json["pre_tokenizer"]["pretokenizers"].push_back(
        {{"type", "Digits"}, {"individual_digits", true}});
    json["pre_tokenizer"]["pretokenizers"].push_back(byte_level);
  }
  json["post_processor"] = nullptr;
  json["decoder"] = byte_level;
  Json& model = json["model"];
  model = {{"type", "BPE"},
           {"dropout", nullptr},
           {"unk_token", nullptr},
           {"continuing_subword_prefix", nullptr},
           {"end_of_word_suffix", nullptr},
           {"fuse_unk", false},
           {"byte_fallback", false}};
  model["vocab"] = Json::object();
  for (size_t id = 0; id < tokenizer.tokens.size(); ++id) {
    model["vocab"][tokenizer.tokens[id]] = id;
  }
  model["merges"] = Json::array();
  for (const auto& [left, right] : tokenizer.merges) model["merges"].push_back(left + " " + right);
  return json.dump(1) + "\n";
}

inline std::string TokenizerConfigJson(const TinyTokenizer& tokenizer) {
  const nlohmann::ordered_json json = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                       {"bos_token", "<s>"},
                                       {"eos_token", "</s>"},
                                       {"add_bos_token", tokenizer.add_bos},
                                       {"add_prefix_space", false}};
  return json.dump(1) + "\n";
}

inline void AddTokenizerKeys(const TinyTokenizer& tokenizer, GgufBuilder& builder) {
  std::vector<int32_t> types(tokenizer.tokens.size(), 1);  // normal
  types[0] = types[1] = 3;                                 // control
  std::vector<std::string> merges;
  for (const auto& [left, right] : tokenizer.merges) merges.push_back(left + " " + right);
  builder.String("tokenizer.ggml.model", "gpt2")
      .String("tokenizer.ggml.pre", tokenizer.pre_tokenizer == "gpt2" ? "gpt-2" : "smollm")
      .Strings("tokenizer.ggml.tokens", tokenizer.tokens)
      .Ints("tokenizer.ggml.token_type", types)
      .Strings("tokenizer.ggml.merges", merges)
      .Uint("tokenizer.ggml.bos_token_id", 0)
      .Uint("tokenizer.ggml.eos_token_id", 1)
      .Bool("tokenizer.ggml.add_bos_token", tokenizer.add_bos);
}

}  // namespace tq::testing
