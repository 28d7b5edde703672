// Tokenizers and texts from arbitrary bytes. The first byte picks what the rest is:
//   0: tokenizer.json, NUL, tokenizer_config.json, NUL, a text
//   1: a text for a fixed vocabulary
//   2: a vocabulary built from the bytes, with merges and added tokens, and a text
//   3: edits of a tokenizer.json that is fine, and a text: past the parser without seeds
//   4: the same of a tokenizer.json of SentencePiece's kind
//   5: the size of a tokenizer.model in two bytes, that file, and a text
//   6: pieces of letters with scores for a unigram model, built from the bytes, and a text
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/byte_spelling.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

// Takes bytes from the front; zeros when there are none left.
class Input {
 public:
  explicit Input(std::string_view bytes) : bytes_(bytes) {}
  uint8_t Byte() {
    if (bytes_.empty()) return 0;
    const auto byte = static_cast<uint8_t>(bytes_[0]);
    bytes_.remove_prefix(1);
    return byte;
  }
  std::string_view Until(char end) {
    const std::string_view piece = bytes_.substr(0, bytes_.find(end));
    bytes_.remove_prefix(std::min(bytes_.size(), piece.size() + 1));
    return piece;
  }
  std::string_view Rest() const { return bytes_; }

 private:
  std::string_view bytes_;
};

// Merges join earlier tokens; a third byte makes some results added tokens.
TokenizerData DataFromBytes(Input& input) {
  TokenizerData data;
  for (int byte = 0; byte < 256; ++byte) {
    data.tokens.push_back(SpellByte(static_cast<uint8_t>(byte)));
  }
  data.types.resize(256, TokenType::kNormal);
  const uint8_t flags = input.Byte();
  constexpr std::array kKinds = {PreTokenizerKind::kGpt2, PreTokenizerKind::kSmolLm,
                                 PreTokenizerKind::kLlama3, PreTokenizerKind::kQwen2,
                                 PreTokenizerKind::kTekken};
  data.pre_tokenizer = flags & 1 ? PreTokenizerKind::kSmolLm : kKinds[flags / 8 % kKinds.size()];
  data.ignore_merges = flags & 4;
  data.add_prefix_space = flags & 2;
  for (int n = input.Byte(); n > 0; --n) {
    const size_t left = input.Byte() % data.tokens.size();
    const size_t right = (input.Byte() * size_t{7}) % data.tokens.size();
    const uint8_t kind = input.Byte();
    if (data.tokens[left].size() + data.tokens[right].size() > 100) continue;
    const auto id = static_cast<int32_t>(data.tokens.size());
    data.tokens.push_back(data.tokens[left] + data.tokens[right]);
    data.types.push_back(kind < 200   ? TokenType::kNormal
                         : kind < 228 ? TokenType::kControl
                                      : TokenType::kUserDefined);
    if (kind < 200) {
      data.merges.push_back({static_cast<int32_t>(left), static_cast<int32_t>(right), id});
    } else if (kind & 1) {
      data.matched_late.push_back(id);
    }
  }
  return data;
}

constexpr char kJson[] = R"({"version": "1.0", "truncation": null, "padding": null,
"added_tokens": [{"id": 5, "content": "<s>", "single_word": false, "lstrip": false,
  "rstrip": false, "normalized": false, "special": true}],
"normalizer": null,
"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
  {"type": "Digits", "individual_digits": true},
  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
"post_processor": {"type": "TemplateProcessing",
  "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
  "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}},
"decoder": {"type": "ByteLevel"},
"model": {"type": "BPE", "dropout": null, "unk_token": "<s>", "byte_fallback": false,
  "vocab": {"t": 0, "h": 1, "e": 2, "th": 3, "the": 4, "<s>": 5},
  "merges": ["t h", ["th", "e"]]}})";

// The same for a vocabulary of characters.
constexpr char kPieceJson[] = R"({"version": "1.0", "truncation": null, "padding": null,
"added_tokens": [{"id": 0, "content": "<unk>", "normalized": false, "special": true},
  {"id": 6, "content": "a b", "normalized": true, "special": false}],
"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"},
  {"type": "Prepend", "prepend": "\u2581"},
  {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first",
  "split": true},
"post_processor": null,
"decoder": {"type": "Sequence", "decoders": [
  {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
  {"type": "ByteFallback"}, {"type": "Fuse"},
  {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
"model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
  "byte_fallback": true, "ignore_merges": false,
  "vocab": {"<unk>": 0, "<0xC3>": 1, "\u2581": 2, "a": 3, "b": 4, "ab": 5},
  "merges": ["a b"]}})";

// Each edit: its place in two bytes, and what to put there in one; place 65535 ends.
std::string EditedJson(std::string json, Input& input) {
  for (int edits = 0; edits < 8 && !json.empty(); ++edits) {
    const int place = input.Byte() << 8 | input.Byte();
    if (place == 0xFFFF) break;
    const auto at = static_cast<size_t>(place % 4096) % json.size();
    const auto byte = static_cast<char>(input.Byte());
    switch (place / 4096 % 3) {
      case 0:
        json[at] = byte;
        break;
      case 1:
        json.insert(at, 1, byte);
        break;
      default:
        json.erase(at, static_cast<uint8_t>(byte) % 32u);
        break;
    }
  }
  return json;
}

// Each piece: up to seven of the letters "abcdefg" and U+2581, and a score.
TokenizerData UnigramFromBytes(Input& input) {
  TokenizerData data;
  data.model = TokenModel::kUnigram;
  data.pre_tokenizer = PreTokenizerKind::kMetaspaceWords;
  data.tokens = {"<unk>"};
  data.types = {TokenType::kControl};
  data.scores = {0};
  data.unk = 0;
  data.missing_to_unk = data.fuse_unk = true;
  const int first = input.Byte();
  data.float_sums = first >= 128;
  for (int n = first % 64; n > 0; --n) {
    std::string token;
    for (int size = input.Byte() % 8; size >= 0; --size) {
      const uint8_t letter = input.Byte() % 8;
      token += letter == 7 ? "\u2581" : std::string(1, static_cast<char>('a' + letter));
    }
    data.tokens.push_back(token);
    data.types.push_back(TokenType::kNormal);
    data.scores.push_back(input.Byte() / -8.0);
  }
  return data;
}

void Require(bool condition) {
  if (!condition) __builtin_trap();
}

void Exercise(const TokenizerData& data, bool all_bytes, std::string_view text) {
  const auto tokenizer = Tokenizer::Create(data);
  if (!tokenizer.ok()) return;
  for (const bool parse_special : {false, true}) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, parse_special);
    const auto decoded = (*tokenizer)->Decode(ids, /*show_special=*/true);
    Require(decoded.ok());
    if (all_bytes && !data.add_prefix_space) Require(*decoded == text);
  }
  const std::string json = TokenizerDataToJson(data);
  const auto again = TokenizerDataFromJson(json, TokenizerConfigToJson(data));
  Require(again.ok() && *again == data);
}

}  // namespace
}  // namespace tq

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  tq::Input input(std::string_view(reinterpret_cast<const char*>(bytes), size));
  switch (input.Byte()) {
    case 0: {
      const std::string_view json = input.Until('\0'), config = input.Until('\0');
      const auto data = tq::TokenizerDataFromJson(json, config);
      if (data.ok()) tq::Exercise(*data, false, input.Rest());
      break;
    }
    case 1: {
      tq::Input fixed(std::string_view("\0\4th\0\0e\1  \2aa\3", 14));
      tq::Exercise(tq::DataFromBytes(fixed), true, input.Rest());
      break;
    }
    case 2: {
      const tq::TokenizerData data = tq::DataFromBytes(input);
      tq::Exercise(data, true, input.Rest());
      break;
    }
    case 3: {
      const auto data = tq::TokenizerDataFromJson(tq::EditedJson(tq::kJson, input), "");
      if (data.ok()) tq::Exercise(*data, false, input.Rest());
      break;
    }
    case 4: {
      const auto data = tq::TokenizerDataFromJson(tq::EditedJson(tq::kPieceJson, input), "");
      if (data.ok()) tq::Exercise(*data, false, input.Rest());
      break;
    }
    case 5: {
      const size_t bytes = input.Byte() << 8 | input.Byte();
      const std::string_view rest = input.Rest();
      const auto data = tq::TokenizerDataFromSentencePiece(rest.substr(0, bytes), "");
      if (data.ok()) tq::Exercise(*data, false, rest.substr(std::min(bytes, rest.size())));
      break;
    }
    case 6: {
      const tq::TokenizerData data = tq::UnigramFromBytes(input);
      tq::Exercise(data, false, input.Rest());
      break;
    }
    default:
      break;
  }
  return 0;
}
