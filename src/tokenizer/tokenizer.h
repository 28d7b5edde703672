// Text to token ids and back: byte-level byte-pair encoding.
//
// The vocabulary decides what can be written: a byte for which it has no token (SmolLM2
// lacks 0x04, 0x06, 0xF1 and a few others) becomes the unknown token when tokenizer.json
// asks for that, and else is dropped, as Hugging Face's `tokenizers` and llama.cpp do.
// With all 256 byte tokens present, Decode(Encode(text)) == text for any bytes. Bytes that
// are not UTF-8 form words of their own: each maximal run of them is one word.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tq {

class GgufFile;

// kNormal: part of the byte-pair code. kControl: never text unless asked for (GGUF's
// "unknown" too). kUserDefined: matched in the text as spelled, before any splitting.
enum class TokenType : uint8_t { kNormal, kControl, kUserDefined };

// How a text is cut into words before merging.
//   kGpt2: GPT-2's pattern. kSmolLm: every digit alone, then GPT-2's pattern.
enum class PreTokenizerKind : uint8_t { kGpt2, kSmolLm };

// tokens[left] + tokens[right] == tokens[result].
struct TokenMerge {
  int32_t left = 0, right = 0, result = 0;
  bool operator==(const TokenMerge&) const = default;
};

// What a tokenizer is made of, whatever file it came from. All ids and merges are checked.
struct TokenizerData {
  // By id, unique; normal tokens in GPT-2's byte-to-unicode spelling, others as they are.
  std::vector<std::string> tokens;
  std::vector<TokenType> types;    // same length
  std::vector<TokenMerge> merges;  // by rank
  // Control and user-defined tokens, ascending, that are looked for only in what the
  // others leave over (tokenizer.json: "normalized": true).
  std::vector<int32_t> matched_late;
  PreTokenizerKind pre_tokenizer = PreTokenizerKind::kGpt2;
  bool add_prefix_space = false;  // " " before each text that does not start with one
  bool add_bos = false;           // the model expects BOS at the start of a text
  bool missing_to_unk = false;    // bytes without a token become `unk` instead of nothing
  int32_t bos = -1, eos = -1, unk = -1, pad = -1;  // -1: none
  std::string chat_template;  // Jinja source, empty if none; not interpreted here

  bool operator==(const TokenizerData&) const = default;
};

// Readers. Anything but byte-level BPE with a known pre-tokeniser is refused by name.
StatusOr<TokenizerData> TokenizerDataFromGguf(const GgufFile& file);
// tokenizer.json and, if present, tokenizer_config.json and chat_template.jinja of `folder`.
StatusOr<TokenizerData> TokenizerDataFromFolder(const std::filesystem::path& folder);
// `tokenizer_config_json` may be empty. BOS is added when tokenizer.json's post-processor or
// tokenizer_config.json's add_bos_token says so. Truncation and padding are ignored: they
// are for batches.
StatusOr<TokenizerData> TokenizerDataFromJson(std::string_view tokenizer_json,
                                              std::string_view tokenizer_config_json);

// The promises made at TokenizerData; the readers have checked them already.
Status CheckTokenizerData(const TokenizerData& data);

// tokenizer.json and tokenizer_config.json that Hugging Face's libraries read, for models
// that come from GGUF. Deterministic text; FromJson of them gives the same data.
std::string TokenizerDataToJson(const TokenizerData& data);
std::string TokenizerConfigToJson(const TokenizerData& data);

// Safe to use from several threads at once.
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
  // the text become their ids (prompts that we build ourselves, and what Hugging Face's
  // library does by default); otherwise they are text like any other, so that a user's text
  // cannot forge a turn. User-defined tokens always match. Where several match, the
  // leftmost and there the longest is taken.
  // n log n in the text's length at most, also for "a" x 1 MB.
  std::vector<int32_t> Encode(std::string_view text, bool parse_special = false) const;
  // Ids of a text that a sequence starts with: BOS first if the model expects it.
  std::vector<int32_t> EncodePrompt(std::string_view text) const;
  // What replaces the first token of an evaluation window; -1: nothing does.
  int32_t window_bos() const { return add_bos() ? bos() : -1; }
  // The bytes of tokens. Control tokens give nothing unless `show_special`. Ids outside the
  // vocabulary are an error. The result need not be UTF-8: a character may span tokens.
  StatusOr<std::string> Decode(std::span<const int32_t> ids, bool show_special = false) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tq
