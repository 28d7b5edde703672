// Text to token ids and back: byte-pair encoding of bytes (GPT-2's kind) or of characters
// (SentencePiece's kind), and SentencePiece's unigram model.
//
// The vocabulary decides what can be written. Byte-level: a byte for which it has no token
// (SmolLM2 lacks 0x04, 0x06, 0xF1 and a few others) becomes the unknown token when
// tokenizer.json asks for that, and else is dropped, as Hugging Face's `tokenizers` and
// llama.cpp do. SentencePiece's kinds: a character without a token becomes its bytes'
// tokens ("<0x0A>") when all of them exist, else the unknown token. With all 256 byte
// tokens present, Decode(Encode(text)) == text for any bytes (but see `nfc` and
// `prefix_mark`). Bytes that are not UTF-8 form words of their own: each maximal run of
// them is one word.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/marked_text.h"

namespace tq {

class GgufFile;
class GgufKeys;

// kNormal: part of the code. kControl: never text unless asked for (GGUF's "unknown" too).
// kUserDefined: matched in the text as spelled, before any splitting (but see `merges_tie`,
// `float_sums`). kByte: stands for the byte that it spells as "<0x0A>".
enum class TokenType : uint8_t { kNormal, kControl, kUserDefined, kByte };

// How the tokens of a word are found.
//   kByteBpe: bytes, in GPT-2's spelling, are merged in the order of `merges`.
//   kCharacterBpe: the same of characters; a space is written as U+2581.
//   kUnigram: of all ways to write the word the one with the largest sum of scores (Kudo
//   2018); a space is written as U+2581.
enum class TokenModel : uint8_t { kByteBpe, kCharacterBpe, kUnigram };

// How a text is cut into words. For byte-level models, with the patterns of
//   kGpt2: GPT-2. kSmolLm: every digit alone, then GPT-2's pattern. kLlama3: Llama 3.
//   kQwen2: Qwen 2, 2.5 and 3. kTekken: Mistral NeMo and later.
// For the others, after Hugging Face's Metaspace has written spaces as U+2581,
//   kMetaspace: not at all. kMetaspaceWords: before each U+2581. And
//   kNone: not at all, and spaces stay what the normalization made of them.
enum class PreTokenizerKind : uint8_t {
  kGpt2,
  kSmolLm,
  kLlama3,
  kQwen2,
  kTekken,
  kNone,
  kMetaspace,
  kMetaspaceWords
};

// tokens[left] + tokens[right] == tokens[result].
struct TokenMerge {
  int32_t left = 0, right = 0, result = 0;
  bool operator==(const TokenMerge&) const = default;
};

// What is done to the text between added tokens, in this order.
struct Normalization {
  bool nfc = false;          // Unicode's canonical composition
  bool prefix_mark = false;  // U+2581 before each stretch (SentencePiece's dummy prefix)
  bool mark_spaces = false;  // " " becomes U+2581
  bool operator==(const Normalization&) const = default;
};

// What a tokenizer is made of, whatever file it came from. All ids and merges are checked.
struct TokenizerData {
  TokenModel model = TokenModel::kByteBpe;
  // By id, unique; normal tokens in the model's spelling, others as they are.
  std::vector<std::string> tokens;
  std::vector<TokenType> types;    // same length
  std::vector<TokenMerge> merges;  // by rank; none for kUnigram
  // Merges as SentencePiece does it, which ranks tokens, where Hugging Face's library ranks pairs:
  // neighbours in `merges` that make the same token have the same rank, and where they compete, the
  // leftmost is made. User-defined tokens are found in the normalized text, which they do not cut.
  bool merges_tie = false;
  // With merges_tie: tokens, ascending, whose merges have the rank of those before them too (equal
  // scores: runs of spaces in the files of Llama 2 and Mistral).
  std::vector<int32_t> tied_tokens;
  std::vector<double> scores;  // kUnigram: log probabilities by id; else empty
  // kUnigram: scores are summed as SentencePiece does it, in float32, and user-defined tokens are
  // summed with the others instead of matched before. Hugging Face's library sums doubles.
  bool float_sums = false;
  // A word that is a token is not merged from its bytes; kByteBpe only.
  bool ignore_merges = false;
  // Control and user-defined tokens, ascending, that are looked for only in what the
  // others leave over (tokenizer.json: "normalized": true).
  std::vector<int32_t> matched_late;
  PreTokenizerKind pre_tokenizer = PreTokenizerKind::kGpt2;
  Normalization normalization;
  bool add_prefix_space = false;   // " " before each stretch that does not start with one
  bool prefix_first_only = false;  // the same, only where the text begins
  bool strip_prefix = false;       // Decode drops one space at the start
  bool add_bos = false;            // the model expects BOS at the start of a text
  bool missing_to_unk = false;     // what has no token becomes `unk` instead of nothing
  bool fuse_unk = false;           // a run of it becomes one `unk`
  int32_t bos = -1, eos = -1, unk = -1, pad = -1;  // -1: none
  std::string chat_template;  // Jinja source, empty if none; not interpreted here

  bool operator==(const TokenizerData&) const = default;
};

// Readers. What is not understood, pre-tokenisers with other patterns above all, is refused
// by name. A normal token spelled "<0x0A>" is a byte token in models with byte fallback.
StatusOr<TokenizerData> TokenizerDataFromGguf(const GgufFile& file);
// tokenizer.json, or without it tokenizer.model, and if present tokenizer_config.json and
// chat_template.jinja of `folder`.
StatusOr<TokenizerData> TokenizerDataFromFolder(const std::filesystem::path& folder);
// `tokenizer_config_json` may be empty. BOS is added when tokenizer.json's post-processor or
// tokenizer_config.json's add_bos_token says so. Truncation and padding are ignored: they
// are for batches.
StatusOr<TokenizerData> TokenizerDataFromJson(std::string_view tokenizer_json,
                                              std::string_view tokenizer_config_json);
// SentencePiece's tokenizer.model: `bytes` are a serialised ModelProto. As the library does
// it; control tokens, if they are parsed, cut the text, and U+2581 goes before every part.
StatusOr<TokenizerData> TokenizerDataFromSentencePiece(std::string_view bytes,
                                                       std::string_view tokenizer_config_json);

// The promises made at TokenizerData; the readers have checked them already.
Status CheckTokenizerData(const TokenizerData& data);

// tokenizer.json and tokenizer_config.json that Hugging Face's libraries read, for models
// that come from GGUF. Deterministic text; FromJson of them gives the same data.
std::string TokenizerDataToJson(const TokenizerData& data);
std::string TokenizerConfigToJson(const TokenizerData& data);

// The tokenizer's files of a Hugging Face directory that is made from `folder` (ReadTokenizerFiles)
// or, if `gguf` is not null, from its metadata: name -> contents.
StatusOr<std::map<std::string, std::string>> TokenizerFiles(const std::filesystem::path& folder,
                                                            const GgufFile* gguf);
// GGUF metadata ("tokenizer.ggml.*") for a model of `vocabulary` embedding rows: rows without a
// token get one that is never used. More tokens than rows are an error. SentencePiece's BPE whose
// keys are not the whole of it gets tokenizer.json beside them, so that our reader gives the same
// ids. Returns what other readers cannot know, in some words each.
StatusOr<std::vector<std::string>> AppendTokenizerKeys(const TokenizerData& data,
                                                       uint64_t vocabulary, GgufKeys& keys);

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
  // Ids of what a chat template wrote: control tokens become their ids where no byte of them is
  // untrusted. Without such letters in untrusted spans the ids are those of Encode(text, true).
  std::vector<int32_t> Encode(const MarkedText& text) const;
  // Ids of a text that a sequence starts with: BOS first if the model expects it.
  std::vector<int32_t> EncodePrompt(std::string_view text) const;
  // What replaces the first token of an evaluation window; -1: nothing does.
  int32_t window_bos() const { return add_bos() ? bos() : -1; }
  // The bytes of tokens. Control tokens give nothing unless `show_special`. Ids outside the
  // vocabulary are an error. The result need not be UTF-8: a character may span tokens.
  // The space that Encode put before the text is left out.
  StatusOr<std::string> Decode(std::span<const int32_t> ids, bool show_special = false) const;
  // The bytes of one token in the middle of a text; nothing for control tokens.
  StatusOr<std::string_view> DecodeNext(int32_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tq
