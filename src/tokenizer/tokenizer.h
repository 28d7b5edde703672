// Text to token ids and back: byte-level byte-pair encoding.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace tq {

class GgufFile;

enum class TokenType : uint8_t { kNormal, kControl, kUserDefined, kUnused, kByte, kUnknown };

// What a tokenizer is made of, whatever file it came from. All ids and merges are checked.
struct TokenizerData {
  std::vector<std::string> tokens;  // by id; normal tokens in GPT-2's byte-to-unicode spelling
  std::vector<TokenType> types;     // same length
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::string pre_tokenizer;        // "gpt2" or "smollm"
  bool add_prefix_space = false;
  bool add_bos = false;             // the model expects BOS at the start of a text
  int32_t bos = -1, eos = -1, unk = -1, pad = -1;  // -1: none
  std::string chat_template;        // Jinja source, empty if none; not interpreted here
};

// Readers. Anything but byte-level BPE with a known pre-tokeniser is refused by name.
StatusOr<TokenizerData> TokenizerDataFromGguf(const GgufFile& file);
// tokenizer.json and, if present, tokenizer_config.json and chat_template.jinja of `folder`.
StatusOr<TokenizerData> TokenizerDataFromFolder(const std::filesystem::path& folder);
StatusOr<TokenizerData> TokenizerDataFromJson(std::string_view tokenizer_json,
                                              std::string_view tokenizer_config_json);

// tokenizer.json and tokenizer_config.json that Hugging Face's libraries read, for models
// that come from GGUF. Deterministic text; FromJson of them gives the same data.
std::string TokenizerDataToJson(const TokenizerData& data);
std::string TokenizerConfigToJson(const TokenizerData& data);

class Tokenizer {
 public:
  static StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerData data);
  // From a Hugging Face directory, one of ours, or a GGUF file.
  static StatusOr<std::unique_ptr<Tokenizer>> FromModel(const std::filesystem::path& path);
  ~Tokenizer();

  size_t vocab_size() const;
  int32_t bos() const;
  int32_t eos() const;
  bool add_bos() const;
  const std::string& chat_template() const;
  // Whether the token ends a turn or text (eos, "<|im_end|>", "<|endoftext|>", ...).
  bool IsEndOfGeneration(int32_t id) const;

  // Ids of a text of any bytes, without BOS. `parse_special`: control tokens spelled out in
  // the text become their ids (prompts that we build ourselves); otherwise they are text.
  // Linear or n log n in the text's length, also for "a" x 1 MB.
  std::vector<int32_t> Encode(std::string_view text, bool parse_special = false) const;
  // The bytes of tokens. Control tokens give nothing unless `show_special`. Ids outside the
  // vocabulary are an error.
  StatusOr<std::string> Decode(std::span<const int32_t> ids, bool show_special = false) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tq
