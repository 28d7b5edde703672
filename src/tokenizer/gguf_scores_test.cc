// SentencePiece's BPE written as GGUF metadata: our reader must give the same tokenizer again,
// whatever file it came from.
#include "tokenizer/gguf_scores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../../tests/support/rewritten_tokenizer.h"
#include "base/random.h"
#include "checkpoint/status_matcher_for_test.h"
#include "tokenizer/gguf_tokenizer_keys.h"
#include "tokenizer/sentencepiece_model_for_test.h"
#include "tokenizer/test_vocabulary.h"

namespace tq {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace tq::testing;  // NOLINT: the test support

constexpr auto kUnimplemented = StatusCode::kUnimplemented;
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr char kConfig[] =
    R"({"bos_token": "<s>", "add_bos_token": true, "chat_template": "{{ x }}"})";

using Merges = std::vector<std::pair<std::string, std::string>>;
// "_ab" is made in one way.
const Merges kPlain = {{"a", "b"}, {"_", "ab"}, {"b", "c"}};
// And in two.
const Merges kTwoWays = {{"a", "b"}, {"_", "a"}, {"_a", "b"}, {"_", "ab"}, {"b", "c"}};

TokenizerData FromJson(const Json& json, const std::string& config = kConfig) {
  auto data = TokenizerDataFromJson(json.dump(), config);
  EXPECT_TRUE(data.ok()) << data.status().message();
  return *std::move(data);
}

Json Pieces(const Merges& merges) { return TestPieceTokenizerJson({"_", "a", "b", "c"}, merges); }

Json WithMetaspace(const Merges& merges, const char* scheme, bool split) {
  Json json = Pieces(merges);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {{"type", "Metaspace"},
                           {"replacement", WithMarks("_")},
                           {"prepend_scheme", scheme},
                           {"split", split}};
  if (std::string_view(scheme) == "never") json["decoder"]["decoders"].erase(3);
  return json;
}

// An entry of added_tokens; of a token that the vocabulary lacks the id is its size.
void AddEntry(Json& json, const std::string& content, bool special, bool late = false) {
  const Json& vocab = json["model"]["vocab"];
  const int id =
      vocab.contains(content) ? vocab[content].get<int>() : static_cast<int>(vocab.size());
  json["added_tokens"].push_back(
      {{"id", id}, {"content", content}, {"normalized", late}, {"special", special}});
}

struct Source {
  std::string name;
  TokenizerData data;
  bool with_json;  // beside GGUF's own keys
  size_t unsaid;   // lines
};

std::vector<Source> Sources() {
  std::vector<Source> sources = {
      {"tokenizer.json, one way", FromJson(Pieces(kPlain)), false, 0},
      {"tokenizer.json, two ways", FromJson(Pieces(kTwoWays)), true, 1},
      {"Metaspace, first", FromJson(WithMetaspace(kPlain, "first", false)), true, 1},
      {"Metaspace, always", FromJson(WithMetaspace(kTwoWays, "always", false)), true, 2},
      {"Metaspace, never", FromJson(WithMetaspace(kPlain, "never", false)), true, 0},
      {"Metaspace, words", FromJson(WithMetaspace(kPlain, "always", true)), true, 1},
      {"tokenizer.model", *TokenizerDataFromSentencePiece(Model(), kConfig), false, 0}};
  Json gemma = Pieces({{"_", "_"}, {"a", "b"}});
  gemma["normalizer"] = gemma["normalizer"]["normalizers"][1];
  gemma["decoder"]["decoders"].erase(3);
  AddEntry(gemma, WithMarks("__"), false);
  AddEntry(gemma, "<end>", true);
  sources.push_back({"added tokens that merges make", FromJson(gemma), true, 1});
  Json late = Pieces(kPlain);
  AddEntry(late, "<late>", false, true);
  sources.push_back({"tokens matched late", FromJson(late), true, 1});
  const auto spaces = [](const char* text) { return Piece(WithMarks(text), -1e9f, 1); };
  sources.push_back({"equal scores",
                     *TokenizerDataFromSentencePiece(
                         Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + spaces("_") + spaces("__") +
                             spaces("____") + spaces("___") + Piece("a", -2, 1) +
                             Piece(WithMarks("_a"), -1, 1) + Trainer(2) + NormalizerSpec(false),
                         kConfig),
                     false, 0});
  // What a reader makes of GGUF is written as it was.
  const auto file = WriteTokenizer(sources[6].data, 10);
  EXPECT_TRUE(file.ok());
  sources.push_back({"GGUF", *TokenizerDataFromGguf(**file), false, 0});
  return sources;
}

std::string RandomText(Random& random) {
  static const std::vector<std::string> kParts = {
      "a",   "b",        "ab",    "abc",   " ",      "  ",   " ab", "\u2581", "\u2581\u2581", "\n",
      "<s>", "\xC3\xA9", "<end>", "<unk>", "<late>", "\xFF", "\t",  " a",     "[PAD263]"};
  std::string text;
  const uint64_t count = random.NextBelow(10);
  for (uint64_t i = 0; i < count; ++i) text += kParts[random.NextBelow(kParts.size())];
  return text;
}

TEST(GgufScores, OurReaderGivesTheSame) {
  for (const Source& source : Sources()) {
    const size_t tokens = source.data.tokens.size();
    std::vector<std::string> unsaid;
    const auto file = WriteTokenizer(source.data, tokens, &unsaid);
    ASSERT_TRUE(file.ok()) << source.name << ": " << file.status().message();
    EXPECT_EQ((*file)->HasKey(kGgufTokenizerJson), source.with_json) << source.name;
    EXPECT_EQ(unsaid.size(), source.unsaid) << source.name;
    EXPECT_EQ(*(*file)->GetString("tokenizer.ggml.model"), "llama");
    const auto again = TokenizerDataFromGguf(**file);
    ASSERT_TRUE(again.ok()) << source.name << ": " << again.status().message();
    EXPECT_EQ(again->tokens, source.data.tokens) << source.name;
    EXPECT_EQ(again->merges, source.data.merges) << source.name;
    if (source.with_json) {
      EXPECT_EQ(*again, source.data) << source.name;
    }
    // And with rows that have no token.
    const auto padded = Rewritten(source.data, tokens + 5);
    ASSERT_TRUE(padded.ok()) << source.name << ": " << padded.status().message();
    const auto before = Tokenizer::Create(source.data), after = Tokenizer::Create(*again),
               with_rows = Tokenizer::Create(*padded);
    ASSERT_TRUE(before.ok() && after.ok() && with_rows.ok());
    EXPECT_EQ((*with_rows)->vocab_size(), tokens + 5);
    EXPECT_EQ((*after)->chat_template(), "{{ x }}");
    EXPECT_EQ((*after)->window_bos(), (*before)->window_bos());
    Random random(7, source.name);
    for (int i = 0; i < 2000; ++i) {
      const std::string text = RandomText(random);
      const bool special = i % 2 == 0;
      const std::vector<int32_t> ids = (*before)->Encode(text, special);
      ASSERT_EQ((*after)->Encode(text, special), ids) << source.name << ": " << text;
      ASSERT_EQ((*with_rows)->Encode(text, special), ids) << source.name << ": " << text;
      ASSERT_EQ(*(*after)->Decode(ids), *(*before)->Decode(ids)) << source.name << ": " << text;
    }
  }
}

// For readers of these alone.
TEST(GgufScores, KeysAreSentencePieces) {
  const auto file = WriteTokenizer(*TokenizerDataFromSentencePiece(Model(), kConfig), 12);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_THAT(**(*file)->GetInts("tokenizer.ggml.token_type"),
              ElementsAre(2, 3, 3, 6, 1, 1, 1, 1, 1, 4, 5, 5));
  EXPECT_THAT(**(*file)->GetFloats("tokenizer.ggml.scores"),
              ElementsAre(0, 0, 0, 0, -2, -2, -2, -1, 0, 0, 0, 0));
  EXPECT_EQ((**(*file)->GetStrings("tokenizer.ggml.tokens"))[9], "  ");
  EXPECT_EQ(*(*file)->GetString("tokenizer.ggml.pre"), "default");
  EXPECT_TRUE(*(*file)->GetBoolOr("tokenizer.ggml.add_space_prefix", false));
  EXPECT_TRUE(*(*file)->GetBoolOr("tokenizer.ggml.add_bos_token", false));
  EXPECT_FALSE(*(*file)->GetBoolOr("tokenizer.ggml.add_eos_token", true));
  EXPECT_EQ(*(*file)->GetUint("tokenizer.ggml.unknown_token_id"), 0u);
  EXPECT_EQ(*(*file)->GetUint("tokenizer.ggml.bos_token_id"), 1u);
  EXPECT_EQ(*(*file)->GetUint("tokenizer.ggml.eos_token_id"), 2u);
  EXPECT_EQ(*(*file)->GetString("tokenizer.chat_template"), "{{ x }}");
}

TEST(GgufScores, WhatOthersCannotKnowIsSaid) {
  std::vector<std::string> unsaid;
  ASSERT_TRUE(WriteTokenizer(FromJson(Pieces(kTwoWays)), 270, &unsaid).ok());
  EXPECT_THAT(unsaid, ElementsAre(::testing::HasSubstr("order of merges")));
  ASSERT_TRUE(WriteTokenizer(FromJson(WithMetaspace(kPlain, "first", false)), 270, &unsaid).ok());
  EXPECT_THAT(unsaid, ElementsAre(::testing::HasSubstr("a space before the text alone")));
  Json json = Pieces(kPlain);
  json["model"]["fuse_unk"] = false;
  ASSERT_TRUE(WriteTokenizer(FromJson(json), 270, &unsaid).ok());
  EXPECT_THAT(unsaid, IsEmpty()) << "there are tokens for all bytes";
  json["model"]["byte_fallback"] = false;
  ASSERT_TRUE(WriteTokenizer(FromJson(json), 270, &unsaid).ok());
  EXPECT_THAT(unsaid, ElementsAre(::testing::HasSubstr("characters without a token")));
  json = TestPieceTokenizerJson({"<", "c", ">"}, {{"<", "c"}, {"<c", ">"}});
  AddEntry(json, "<c>", true);
  ASSERT_TRUE(WriteTokenizer(FromJson(json), 270, &unsaid).ok());
  EXPECT_THAT(unsaid, ElementsAre(::testing::HasSubstr("1 merges that make control tokens")));
}

TEST(GgufScores, RefusesByName) {
  const auto error = [](const Json& json) { return WriteTokenizer(FromJson(json), 300).status(); };
  // (_a, b) and (_, ab) make the same token, but another is made between them.
  EXPECT_THAT(error(Pieces({{"_", "a"}, {"_a", "b"}, {"a", "b"}, {"_", "ab"}})),
              Fails(kUnimplemented, "'ab' are merged later"));
  // Scores would merge _ and ab.
  EXPECT_THAT(error(Pieces({{"a", "b"}, {"_", "a"}, {"_a", "b"}})),
              Fails(kUnimplemented, "1 pairs", "'ab'"));
  EXPECT_THAT(error(Pieces({{"<0x0A>", "a"}})), Fails(kUnimplemented, "<0x0A>", "a byte"));
  EXPECT_THAT(error(WithMetaspace({{"a", "_"}, {"a_", "b"}}, "always", true)),
              Fails(kUnimplemented, "cut before each U+2581"));
  Json json = Pieces(kPlain);
  json["normalizer"]["normalizers"].push_back({{"type", "NFC"}});
  EXPECT_THAT(error(json), Fails(kUnimplemented, "NFC"));
  json = Pieces(kPlain);
  json["normalizer"] = nullptr;
  EXPECT_THAT(error(json), Fails(kUnimplemented, "not written as U+2581"));
  EXPECT_THAT(WriteTokenizer(*TokenizerDataFromSentencePiece(Model(1), ""), 10),
              Fails(kUnimplemented, "unigram"));
}

// Robustness case 25, case 28: the two descriptions of one tokenizer must agree.
TEST(GgufScores, TokenizerJsonInGgufIsChecked) {
  static const TempFolder folder;
  const TokenizerData data = FromJson(Pieces(kTwoWays));
  const auto read = [&](const std::string& json, std::vector<std::string> tokens,
                        const std::string& model = "llama", uint32_t bos = 1) {
    GgufKeys keys;
    keys.String("tokenizer.ggml.model", model);
    keys.Strings("tokenizer.ggml.tokens", tokens);
    keys.Uint("tokenizer.ggml.bos_token_id", bos);
    keys.String(kGgufTokenizerJson, json);
    auto writer = GgufWriter::Create(folder / "x.gguf", keys, {});
    EXPECT_TRUE(writer.ok() && writer->Commit().ok());
    const auto file = GgufFile::Open(folder / "x.gguf");
    EXPECT_TRUE(file.ok());
    return TokenizerDataFromGguf(**file);
  };
  const std::string json = TokenizerDataToJson(data);
  const auto plain = read(json, data.tokens);
  ASSERT_TRUE(plain.ok()) << plain.status().message();
  EXPECT_EQ(plain->merges, data.merges);
  EXPECT_TRUE(plain->add_bos) << "as tokenizer.json says";
  EXPECT_THAT(read("{", data.tokens), Fails(kInvalid, "x.gguf", "tokenizer.huggingface.json"));
  EXPECT_THAT(read(json, data.tokens, "gpt2"), Fails(kInvalid, "different kinds"));
  EXPECT_THAT(read(json, data.tokens, "t5"), Fails(kUnimplemented, "'t5'"));
  EXPECT_THAT(read(json, data.tokens, "llama", 5),
              Fails(kInvalid, "bos_token_id is 5, but the tokenizer uses 1"));
  std::vector<std::string> tokens = data.tokens;
  tokens[258] = "x";
  EXPECT_THAT(read(json, tokens), Fails(kInvalid, "tokens[258] is 'x'"));
  tokens = data.tokens;
  tokens.pop_back();
  EXPECT_THAT(read(json, tokens), Fails(kInvalid, "entries"));
  tokens = data.tokens;
  tokens.push_back("a");
  EXPECT_THAT(read(json, tokens), Fails(kInvalid, "are both 'a'"));
}

}  // namespace
}  // namespace tq
