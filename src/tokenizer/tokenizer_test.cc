#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <functional>

#include "base/file_io.h"
#include "base/hash.h"
#include "base/random.h"
#include "tokenizer/test_vocabulary.h"

namespace tq {
namespace {

using testing::AddToken;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Json;
using testing::TestTokenizerJson;

std::unique_ptr<Tokenizer> Make(const Json& root, const std::string& config = "") {
  auto data = TokenizerDataFromJson(root.dump(), config);
  EXPECT_TRUE(data.ok()) << data.status().message();
  auto tokenizer = Tokenizer::Create(*std::move(data));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return *std::move(tokenizer);
}

// " the" is 258.
Json Base() { return TestTokenizerJson({{"t", "h"}, {"th", "e"}, {" ", "the"}}); }

std::string Decoded(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                    bool show_special = false) {
  const auto text = tokenizer.Decode(ids, show_special);
  EXPECT_TRUE(text.ok());
  return *text;
}

TEST(Tokenizer, MergesInsideWords) {
  const auto tokenizer = Make(Base());
  EXPECT_EQ(tokenizer->vocab_size(), 259u);
  EXPECT_THAT(tokenizer->Encode("the the"), ElementsAre(257, 258));
  EXPECT_THAT(tokenizer->Encode("tthx"), ElementsAre('t', 256, 'x'));
  EXPECT_THAT(tokenizer->Encode("t'he"), ElementsAre('t', '\'', 'h', 'e'));
  EXPECT_TRUE(tokenizer->Encode("").empty());
}

TEST(Tokenizer, AnyBytesThereAndBack) {
  Json root = Base();
  AddToken(root, "\u00E9t", false);
  AddToken(root, "<x>", true);
  const auto tokenizer = Make(root);
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed, "tokenizer_test");
    std::string text;
    for (uint64_t n = random.NextBelow(300); n > 0; --n) {
      text += random.NextBelow(2) ? std::string(1, static_cast<char>(random.NextBelow(256)))
                                  : std::vector<std::string>{" the", "\u00E9t", "<x>", "\xC3",
                                                             "  "}[random.NextBelow(5)];
    }
    EXPECT_EQ(Decoded(*tokenizer, tokenizer->Encode(text)), text);
    EXPECT_EQ(Decoded(*tokenizer, tokenizer->Encode(text, true), true), text);
  }
}

TEST(Tokenizer, ControlTokensAreTextUnlessAskedFor) {
  Json root = Base();
  const int end = AddToken(root, "<|im_end|>", true);
  const int user = AddToken(root, "  ", false);
  const auto tokenizer = Make(root);
  const std::string text = "the<|im_end|>the  x";
  EXPECT_THAT(tokenizer->Encode(text, true), ElementsAre(257, end, 257, user, 'x'));
  const std::vector<int32_t> plain = tokenizer->Encode(text);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), end), 0);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), user), 1);
  EXPECT_EQ(Decoded(*tokenizer, plain), text);
  EXPECT_EQ(Decoded(*tokenizer, tokenizer->Encode(text, true)), "thethe  x");
  EXPECT_EQ(Decoded(*tokenizer, tokenizer->Encode(text, true), true), text);
}

// What a message says is text even where a template's own bytes stand beside it; words merge
// across.
TEST(Tokenizer, UntrustedBytesAreNoControlTokens) {
  Json root = Base();
  const int end = AddToken(root, "<|im_end|>", true);
  const int late = AddToken(root, "<late>", true, /*late=*/true);
  const auto tokenizer = Make(root);
  MarkedText text = MarkedText::Trusted("t");
  text.Append(MarkedText::Untrusted("he<|im_end|><late>"));
  text.Append("<|im_end|><late>");
  const std::vector<int32_t> ids = tokenizer->Encode(text);
  EXPECT_EQ(ids.front(), 257);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), late), 1);
  EXPECT_THAT(std::vector<int32_t>(ids.end() - 2, ids.end()), ElementsAre(end, late));
  EXPECT_EQ(Decoded(*tokenizer, ids, true), text.bytes());
  // A token that begins in a message, or ends in one.
  for (const size_t cut : {1, 5, 9}) {
    const std::string token = "<|im_end|>";
    MarkedText first = MarkedText::Untrusted(token.substr(0, cut));
    first.Append(token.substr(cut));
    EXPECT_EQ(tokenizer->Encode(first), tokenizer->Encode(token));
    MarkedText last = MarkedText::Trusted(token.substr(0, cut));
    last.Append(MarkedText::Untrusted(token.substr(cut)));
    EXPECT_EQ(tokenizer->Encode(last), tokenizer->Encode(token));
  }
  EXPECT_EQ(tokenizer->Encode(MarkedText::Trusted(text.bytes())),
            tokenizer->Encode(text.bytes(), true));
}

TEST(Tokenizer, LateTokensGetWhatOthersLeave) {
  Json root = Base();
  const int early = AddToken(root, "bc", false);
  const int late = AddToken(root, "abc", false, /*late=*/true);
  const auto tokenizer = Make(root);
  // As `tokenizers` does: "bc" is cut out first, although "abc" begins further left.
  EXPECT_THAT(tokenizer->Encode("abc"), ElementsAre('a', early));
  root["added_tokens"][0]["content"] = "xbc";
  EXPECT_THAT(Make(root)->Encode("abc"), ElementsAre(late));
}

TEST(Tokenizer, PrefixSpace) {
  Json root = Base();
  const int user = AddToken(root, "<u>", false);
  root["pre_tokenizer"]["add_prefix_space"] = true;
  const auto tokenizer = Make(root);
  EXPECT_THAT(tokenizer->Encode("the"), ElementsAre(258));
  EXPECT_THAT(tokenizer->Encode(" the"), ElementsAre(258));
  EXPECT_THAT(tokenizer->Encode("the<u>the"), ElementsAre(258, user, 258));
  EXPECT_TRUE(tokenizer->Encode("").empty());
}

TEST(Tokenizer, MissingBytes) {
  Json root = Base();
  auto& vocab = root["model"]["vocab"];
  vocab.erase("x");
  vocab["<unk>"] = int{'x'};
  EXPECT_THAT(Make(root)->Encode("txh\x01"), ElementsAre(256, 1));
  root["model"]["unk_token"] = "<unk>";
  EXPECT_THAT(Make(root)->Encode("txh"), ElementsAre('t', 'x', 'h'));
  root["model"]["fuse_unk"] = true;
  EXPECT_THAT(TokenizerDataFromJson(root.dump(), "").status().message(),
              HasSubstr("fuse_unk is true"));
}

// _ 258, t 259, h 260, e 261, th 262, the 263, _the 264.
Json Pieces() {
  return testing::TestPieceTokenizerJson({"_", "t", "h", "e"},
                                         {{"t", "h"}, {"th", "e"}, {"_", "the"}});
}
constexpr int32_t Byte(uint8_t byte) { return 2 + byte; }

TEST(Tokenizer, PiecesWithAMarkBeforeEachStretch) {
  const auto tokenizer = Make(Pieces());
  EXPECT_THAT(tokenizer->Encode("the the"), ElementsAre(264, 264));
  EXPECT_THAT(tokenizer->Encode(" the"), ElementsAre(258, 264));
  EXPECT_THAT(tokenizer->Encode("the\nx"), ElementsAre(264, Byte('\n'), Byte('x')));
  EXPECT_THAT(tokenizer->Encode("<s>the<s>the", true), ElementsAre(1, 264, 1, 264));
  EXPECT_THAT(tokenizer->Encode("\u00E9"), ElementsAre(258, Byte(0xC3), Byte(0xA9)));
  EXPECT_TRUE(tokenizer->Encode("").empty());
  EXPECT_EQ(Decoded(*tokenizer, {264, 264}), "the the");
  EXPECT_EQ(Decoded(*tokenizer, {1, 264}, true), "<s> the") << "stripped at the start alone";
  EXPECT_EQ(*tokenizer->DecodeNext(264), " the");
  EXPECT_EQ(*tokenizer->DecodeNext(Byte('x')), "x");
  EXPECT_EQ(*tokenizer->DecodeNext(1), "");
  EXPECT_FALSE(tokenizer->DecodeNext(265).ok());
}

TEST(Tokenizer, AnyBytesThroughPiecesAndBack) {
  const auto tokenizer = Make(Pieces());
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed, "tokenizer_test pieces");
    std::string text;
    for (uint64_t n = random.NextBelow(200); n > 0; --n) {
      text += random.NextBelow(2) ? std::string(1, static_cast<char>(random.NextBelow(256)))
                                  : std::vector<std::string>{" the", "\u00E9t", "<s>", "\xC3",
                                                             "  "}[random.NextBelow(5)];
    }
    EXPECT_EQ(Decoded(*tokenizer, tokenizer->Encode(text)), text);
  }
}

TEST(Tokenizer, Metaspace) {
  Json root = Pieces();
  AddToken(root, "<u>", false);
  root["added_tokens"].back()["id"] = 265;
  root["normalizer"] = nullptr;
  root["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"split", false}};
  const auto ids = [&](const char* scheme, std::string_view text) {
    root["pre_tokenizer"]["prepend_scheme"] = scheme;
    return Make(root)->Encode(text);
  };
  EXPECT_THAT(ids("always", "the<u>the"), ElementsAre(264, 265, 264));
  EXPECT_THAT(ids("first", "the<u>the"), ElementsAre(264, 265, 263));
  EXPECT_THAT(ids("first", "<u>the"), ElementsAre(265, 263));
  EXPECT_THAT(ids("never", "the<u>the"), ElementsAre(263, 265, 263));
  EXPECT_THAT(ids("always", " the"), ElementsAre(264)) << "no second mark";
  EXPECT_THAT(ids("always", "\u2581the"), ElementsAre(264));
  root["pre_tokenizer"].erase("prepend_scheme");
  root["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_THAT(Make(root)->Encode("the"), ElementsAre(264));
  // Where words begin with marks no merge goes across one.
  auto& merges = root["model"]["merges"];
  merges.insert(merges.begin() + 2, Json::array({"the", "\u2581"}));
  root["model"]["vocab"]["the\u2581"] = 265;
  root["added_tokens"].erase(2);
  EXPECT_THAT(Make(root)->Encode("the the"), ElementsAre(258, 265, 263));
  root["pre_tokenizer"]["split"] = true;
  EXPECT_THAT(Make(root)->Encode("the the"), ElementsAre(264, 264));
}

TEST(Tokenizer, LateTokensAreNormalizedLikeTheText) {
  Json root = Pieces();
  AddToken(root, "e e", false, /*late=*/true);
  root["added_tokens"].back()["id"] = 265;
  // As in `tokenizers`: a mark goes before the token, too, so that only this one matches.
  EXPECT_THAT(Make(root)->Encode("te e e"), ElementsAre(258, 259, 261, 265));
}

TEST(Tokenizer, Unigram) {
  Json root = Pieces();
  root["model"] = Json::parse(R"({"type": "Unigram", "unk_id": 0, "byte_fallback": false,
      "vocab": [["<unk>", 0], ["<s>", 0], ["\u2581", -2], ["t", -3.5], ["he", -4], ["\u2581the", -9],
                ["e", -1e-3]]})");
  const auto tokenizer = Make(root);
  EXPECT_THAT(tokenizer->Encode("the"), ElementsAre(5)) << "-9 is more than -2 -3.5 -4";
  EXPECT_THAT(tokenizer->Encode("txyhe"), ElementsAre(2, 3, 0, 4));
  EXPECT_EQ(Decoded(*tokenizer, {2, 3, 4, 5}), "the the");
  EXPECT_EQ(tokenizer->vocab_size(), 7u);
}

TEST(Tokenizer, ComposesForQwen) {
  Json root = Base();
  root["normalizer"] = {{"type", "NFC"}};
  EXPECT_THAT(Make(root)->Encode("e\u0301"), ElementsAre(0xC3, 0xA9));
}

TEST(Tokenizer, WholeWordsGoBeforeMerges) {
  Json root = TestTokenizerJson({{"t", "h"}, {"th", "e"}, {"h", "e"}, {"t", "he"}});
  root["model"]["vocab"]["they"] = 259;  // nothing makes it
  EXPECT_THAT(Make(root)->Encode("they"), ElementsAre(257, 'y'));
  root["model"]["ignore_merges"] = true;
  EXPECT_THAT(Make(root)->Encode("they"), ElementsAre(259));
  EXPECT_THAT(Make(root)->Encode("theyx"), ElementsAre(257, 'y', 'x'));
}

TEST(Tokenizer, EndOfGeneration) {
  Json root = Base();
  const int im_end = AddToken(root, "<|im_end|>", true);
  const int turn = AddToken(root, "<end_of_turn>", true);
  const int text = AddToken(root, "</s>", false);
  const int other = AddToken(root, "<|im_start|>", true);
  const auto tokenizer = Make(root, R"({"eos_token": "t"})");
  EXPECT_TRUE(tokenizer->IsEndOfGeneration('t'));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(im_end));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(turn));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(text)) << "not a control token";
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(other));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(-1));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(1 << 30));
}

TEST(Tokenizer, DecodeRefusesIdsOutsideTheVocabulary) {
  const auto tokenizer = Make(Base());
  for (const int32_t id : {-1, 259, INT32_MAX, INT32_MIN}) {
    const std::vector<int32_t> ids = {65, id};
    EXPECT_THAT(tokenizer->Decode(ids).status().message(), HasSubstr("has 259 tokens")) << id;
  }
}

TEST(Tokenizer, CreateChecksItsData) {
  const auto good = TokenizerDataFromJson(Base().dump(), "");
  const auto error = [&](const std::function<void(TokenizerData&)>& change) {
    TokenizerData data = *good;
    change(data);
    const auto made = Tokenizer::Create(std::move(data));
    return made.ok() ? std::string("made") : made.status().message();
  };
  using D = TokenizerData;
  static const std::string kNotUtf8 = "a\xFF";
  EXPECT_THAT(error([](D& d) { d.types.pop_back(); }), HasSubstr("258 token types"));
  EXPECT_THAT(error([](D& d) { d.merges[0].result = 300; }), HasSubstr("names token 300"));
  EXPECT_THAT(error([](D& d) { d.merges[0].left = -5; }), HasSubstr("names token -5"));
  EXPECT_THAT(error([](D& d) { d.merges[0].result = 258; }), HasSubstr("gives"));
  EXPECT_THAT(error([](D& d) { d.eos = 259; }), HasSubstr("end-of-text token id 259"));
  EXPECT_THAT(error([](D& d) { d.bos = -2; }), HasSubstr("beginning-of-text token id -2"));
  EXPECT_THAT(error([](D& d) { d.add_bos = true; }), HasSubstr("there is none"));
  EXPECT_THAT(error([](D& d) { d.missing_to_unk = true; }), HasSubstr("there is none"));
  EXPECT_THAT(error([](D& d) { d.matched_late = {7}; }), HasSubstr("no added token"));
  EXPECT_THAT(error([](D& d) { d.tokens[9] = kNotUtf8; }), HasSubstr("token 9 is not UTF-8"));
  EXPECT_THAT(error([](D& d) { d.chat_template = kNotUtf8; }), HasSubstr("not UTF-8"));
  EXPECT_THAT(error([](D& d) {
                d.add_prefix_space = true;
                d.pre_tokenizer = PreTokenizerKind::kSmolLm;
              }),
              HasSubstr("add_prefix_space"));
  EXPECT_THAT(error([](D& d) { d = {}; }), HasSubstr("empty"));
  EXPECT_THAT(error([](D& d) { d.model = TokenModel::kCharacterBpe; }),
              HasSubstr("not one for SentencePiece's"));
  EXPECT_THAT(error([](D& d) { d.pre_tokenizer = PreTokenizerKind::kNone; }),
              HasSubstr("not one for byte-level"));
  EXPECT_THAT(error([](D& d) { d.normalization.mark_spaces = true; }), HasSubstr("U+2581"));
  EXPECT_THAT(error([](D& d) { d.scores = {1}; }), HasSubstr("1 scores"));
  EXPECT_THAT(error([](D& d) { d.types[3] = TokenType::kByte; }), HasSubstr("byte tokens in a"));
  EXPECT_THAT(error([](D& d) { d.prefix_first_only = true; }), HasSubstr("Metaspace"));
  const auto piece_error = [&](const std::function<void(TokenizerData&)>& change) {
    return error([&](D& d) {
      d = *TokenizerDataFromJson(Pieces().dump(), "");
      change(d);
    });
  };
  EXPECT_EQ(piece_error([](D&) {}), "made");
  EXPECT_THAT(piece_error([](D& d) { d.tokens[2] = "<0xZZ>"; }), HasSubstr("is no name of a byte"));
  EXPECT_THAT(piece_error([](D& d) { d.types[2] = TokenType::kNormal; }),
              HasSubstr("is not marked as a byte"));
  EXPECT_THAT(piece_error([](D& d) { d.ignore_merges = true; }), HasSubstr("ignore_merges"));
  EXPECT_THAT(piece_error([](D& d) { d.model = TokenModel::kUnigram; }), HasSubstr("merges for a"));
  const auto unigram_error = [&](const std::function<void(TokenizerData&)>& change) {
    return piece_error([&](D& d) {
      d.model = TokenModel::kUnigram;
      d.merges.clear();
      d.scores.assign(d.tokens.size(), -1);
      change(d);
    });
  };
  EXPECT_EQ(unigram_error([](D&) {}), "made");
  EXPECT_THAT(unigram_error([](D& d) { d.scores.pop_back(); }), HasSubstr("264 scores for 265"));
  EXPECT_THAT(unigram_error([](D& d) { d.scores[7] = NAN; }), HasSubstr("score of token 7"));
  EXPECT_THAT(unigram_error([](D& d) { d.tokens[258].assign(257, 'x'); }),
              HasSubstr("has 257 bytes"));
  EXPECT_EQ(unigram_error([](D& d) { d.float_sums = true; }), "made");
  for (const double score : {0.1, 1e39, 5e-324}) {
    EXPECT_THAT(unigram_error([&](D& d) {
                  d.float_sums = true;
                  d.scores[7] = score;
                }),
                HasSubstr("the score of token 7, "));
  }
  EXPECT_THAT(piece_error([](D& d) { d.float_sums = true; }), HasSubstr("for a model of merges"));
  EXPECT_THAT(unigram_error([](D& d) { d.tied_tokens = {1}; }), HasSubstr("merges for a unigram"));
  EXPECT_THAT(piece_error([](D& d) { d.tied_tokens = {1}; }), HasSubstr("merges that do not tie"));
  for (const auto& tied : std::initializer_list<std::vector<int32_t>>{{-1}, {1, 1}, {1 << 30}}) {
    EXPECT_THAT(piece_error([&](D& d) {
                  d.merges_tie = true;
                  d.tied_tokens = tied;
                }),
                HasSubstr("no token or out of order"));
  }
}

// Under a second when linear, or a few in a sanitized build; many minutes when quadratic.
constexpr double kAllowedSeconds = 30;

// Processor time: other programs may run beside the tests.
double SecondsToEncode(const Tokenizer& tokenizer, const std::string& text,
                       std::vector<int32_t>& ids) {
  const std::clock_t start = std::clock();
  ids = tokenizer.Encode(text);
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// Robustness case 33. The "a"s merge ten times over.
TEST(Tokenizer, LongPromptsTakeNoQuadraticTime) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (size_t size = 1; size <= 512; size *= 2) {
    merges.emplace_back(std::string(size, 'a'), std::string(size, 'a'));
  }
  const auto tokenizer = Make(TestTokenizerJson(merges));
  constexpr size_t kSize = size_t{1} << 20;
  std::vector<int32_t> ids;
  EXPECT_LT(SecondsToEncode(*tokenizer, std::string(kSize, 'a'), ids), kAllowedSeconds);
  EXPECT_EQ(ids, std::vector<int32_t>(kSize / 1024, 265));
  for (const char* unit : {"ab", "\xFF", " ", "\r\n", "1"}) {
    std::string text;
    while (text.size() < kSize) text += unit;
    EXPECT_LT(SecondsToEncode(*tokenizer, text, ids), kAllowedSeconds) << unit;
    EXPECT_EQ(Decoded(*tokenizer, ids), text);
  }
}

// The same where the whole prompt is one word of characters.
TEST(Tokenizer, LongPromptsOfPiecesTakeNoQuadraticTime) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (size_t size = 1; size <= 64; size *= 2) {
    merges.emplace_back(std::string(size, 'a'), std::string(size, 'a'));
  }
  const auto tokenizer = Make(testing::TestPieceTokenizerJson({"_", "a"}, merges));
  constexpr size_t kSize = size_t{1} << 20;
  std::vector<int32_t> ids;
  for (const char* unit : {"a", "ab", "\xFF", " ", "\u00E9"}) {
    std::string text;
    while (text.size() < kSize) text += unit;
    EXPECT_LT(SecondsToEncode(*tokenizer, text, ids), kAllowedSeconds) << unit;
    EXPECT_EQ(Decoded(*tokenizer, ids), text);
  }
}

TEST(Tokenizer, AddedTokensThatNearlyMatchEverywhere) {
  Json root = Base();
  AddToken(root, std::string(255, 'a') + "!", false);
  AddToken(root, std::string(255, 'a') + "?", false);
  const auto tokenizer = Make(root);
  std::vector<int32_t> ids;
  EXPECT_LT(SecondsToEncode(*tokenizer, std::string(1 << 18, 'a') + "?", ids), kAllowedSeconds);
  EXPECT_EQ(ids.size(), (1u << 18) - 255 + 1);
  EXPECT_EQ(ids.back(), 260);
}

// Equality with Hugging Face's library over all texts is benchmarks/oracles/
// tokenizer_oracle.py's business; this pins one result of it (tokenizers 0.23.3).
TEST(Tokenizer, Llama30m) {
  const char* data_dir = std::getenv("TQ_DATA_DIR");
  if (data_dir == nullptr) GTEST_SKIP() << "TQ_DATA_DIR is not set";
  const std::filesystem::path folder(data_dir);
  const auto tokenizer = Tokenizer::FromModel(folder / "models/llama-30m");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ((*tokenizer)->vocab_size(), 8192u);
  EXPECT_EQ((*tokenizer)->bos(), 0);
  EXPECT_EQ((*tokenizer)->eos(), 1);
  EXPECT_TRUE((*tokenizer)->add_bos());
  EXPECT_TRUE((*tokenizer)->IsEndOfGeneration(1));
  const auto text = ReadFile(folder / "wikitext-2/test.txt", 1 << 24);
  ASSERT_TRUE(text.ok());
  const std::vector<int32_t> ids = (*tokenizer)->Encode(*text, true);
  EXPECT_EQ(ids.size(), 354261u);
  EXPECT_EQ(HashBytes(ids.data(), ids.size() * sizeof(int32_t)).Hex(),
            "fa96c722d87817cf24624fb36d22d5ac");
  EXPECT_EQ(Decoded(**tokenizer, ids, true), *text);
}

}  // namespace
}  // namespace tq
