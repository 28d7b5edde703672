// Small vocabularies for tests: the 256 bytes (ids 0 to 255, in the order of their values),
// then what merges make, then added tokens.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/byte_spelling.h"

namespace tq::testing {

using Json = nlohmann::ordered_json;

// tokenizer.json with the given merges (of plain text, e.g. {" t", "he"}), ready to be
// changed by a test.
inline Json TestTokenizerJson(const std::vector<std::pair<std::string, std::string>>& merges) {
  Json vocab = Json::object(), list = Json::array();
  int id = 0;
  for (int byte = 0; byte < 256; ++byte) vocab[SpellByte(static_cast<uint8_t>(byte))] = id++;
  for (const auto& [left, right] : merges) {
    const std::string l = SpellBytes(left), r = SpellBytes(right);
    list.push_back(Json::array({l, r}));
    if (!vocab.contains(l + r)) vocab[l + r] = id++;
  }
  Json root;
  root["version"] = "1.0";
  root["truncation"] = nullptr;
  root["padding"] = nullptr;
  root["added_tokens"] = Json::array();
  root["normalizer"] = nullptr;
  root["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  root["post_processor"] = nullptr;
  root["decoder"] = {{"type", "ByteLevel"}};
  root["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", list}};
  return root;
}

// tokenizer.json of SentencePiece's kind: <unk> 0, <s> 1, the bytes 2 to 257, then the pieces,
// of which merges (each of two pieces, in order) make the longer ones. U+2581 is written "_".
inline std::string WithMarks(std::string text) {
  for (size_t at = 0; (at = text.find('_', at)) != std::string::npos; at += 3) {
    text.replace(at, 1, "\xE2\x96\x81");
  }
  return text;
}
inline Json TestPieceTokenizerJson(const std::vector<std::string>& characters,
                                   const std::vector<std::pair<std::string, std::string>>& merges) {
  Json vocab = {{"<unk>", 0}, {"<s>", 1}}, list = Json::array();
  int id = 2;
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = id++;
  for (const std::string& character : characters) vocab[WithMarks(character)] = id++;
  for (const auto& [left, right] : merges) {
    const std::string l = WithMarks(left), r = WithMarks(right);
    list.push_back(Json::array({l, r}));
    if (!vocab.contains(l + r)) vocab[l + r] = id++;
  }
  Json root = Json::parse(R"({"version": "1.0", "truncation": null, "padding": null,
      "added_tokens": [
        {"id": 0, "content": "<unk>", "normalized": false, "special": true},
        {"id": 1, "content": "<s>", "normalized": false, "special": true}],
      "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
      "pre_tokenizer": null, "post_processor": null,
      "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}})");
  root["model"] = {{"type", "BPE"},         {"unk_token", "<unk>"}, {"fuse_unk", true},
                   {"byte_fallback", true}, {"vocab", vocab},       {"merges", list}};
  return root;
}

// Appends an added token with the next free id, which it returns.
inline int AddToken(Json& root, const std::string& content, bool special, bool late = false) {
  const int id = static_cast<int>(root["model"]["vocab"].size() + root["added_tokens"].size());
  root["added_tokens"].push_back({{"id", id},
                                  {"content", content},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", late},
                                  {"special", special}});
  return id;
}

}  // namespace tq::testing
