#include "tokenizer/unigram.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "base/random.h"

namespace tq {
namespace {

using ::testing::ElementsAre;

TokenizerData Data(const std::vector<std::pair<std::string, double>>& pieces) {
  TokenizerData data;
  data.model = TokenModel::kUnigram;
  data.pre_tokenizer = PreTokenizerKind::kNone;
  for (const auto& [token, score] : pieces) {
    data.tokens.push_back(token);
    data.types.push_back(TokenType::kNormal);
    data.scores.push_back(score);
  }
  return data;
}

std::vector<int32_t> Encoded(const TokenizerData& data, std::string_view word) {
  std::vector<int32_t> ids;
  Unigram(data).Encode({&word, 1}, ids);
  return ids;
}

// The definition: the largest sum over all ways to cut the word.
double BestScore(std::string_view word, const TokenizerData& data) {
  if (word.empty()) return 0;
  double best = -std::numeric_limits<double>::infinity();
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    const std::string& token = data.tokens[id];
    if (!word.starts_with(token)) continue;
    best = std::max(best, data.scores[id] + BestScore(word.substr(token.size()), data));
  }
  return best;
}

TEST(Unigram, FindsTheMostProbableWay) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed, "unigram_test");
    std::vector<std::pair<std::string, double>> pieces = {{"a", -1.0 * (1 + seed % 7)},
                                                          {"b", -3.5}};
    for (const char* token : {"aa", "ab", "ba", "aba", "bab", "aabb", "bbbb"}) {
      if (random.NextBelow(2)) pieces.emplace_back(token, -0.25 * (1.0 + random.NextBelow(40)));
    }
    const TokenizerData data = Data(pieces);
    std::string word;
    while (word.size() < 12) word += "ab"[random.NextBelow(2)];
    double sum = 0;
    std::string spelled;
    for (const int32_t id : Encoded(data, word)) {
      sum += data.scores[static_cast<size_t>(id)];
      spelled += data.tokens[static_cast<size_t>(id)];
    }
    EXPECT_EQ(spelled, word);
    EXPECT_DOUBLE_EQ(sum, BestScore(word, data));
  }
}

// From 2^16 on float32 has the multiples of 1/128, from 2^17 on those of 1/64. What
// SentencePiece's arithmetic makes of it, worked out by hand.
TEST(Unigram, SumsInFloat32WhereAsked) {
  constexpr double kUnit = 1.0 / 256;
  TokenizerData data = Data({{"A", -65536},
                             {"b", -0.875 * kUnit},
                             {"c", -0.875 * kUnit},
                             {"bc", -1.5 * kUnit},
                             {"d", -1.5 * kUnit},
                             {"bd", -2 * kUnit}});
  EXPECT_THAT(Encoded(data, "Abc"), ElementsAre(0, 3));
  data.float_sums = true;
  // A, b and A, b, c: -65536 after rounding. A, bc: less by 1/128.
  EXPECT_THAT(Encoded(data, "Abc"), ElementsAre(0, 1, 2));
  // A, bd and A, b, d: both less by 1/128. The one that was found first is kept.
  EXPECT_THAT(Encoded(data, "Abd"), ElementsAre(0, 5));
  EXPECT_THAT(Encoded(data, "bc"), ElementsAre(3)) << "no rounding, no difference";
}

TEST(Unigram, LargeFloat32SumsBeginAnew) {
  constexpr double kUnit = 1.0 / 256;
  TokenizerData data = Data({{"A", -131072},
                             {"b", -1.5 * kUnit},
                             {"c", -1.5 * kUnit},
                             {"bc", -2.5 * kUnit},
                             {"d", -1},
                             {"Ad", -131072.5}});
  data.float_sums = true;
  EXPECT_THAT(Encoded(data, "Abc"), ElementsAre(0, 3)) << "b, c lose nothing beside 2^17";
  EXPECT_THAT(Encoded(data, "Ad"), ElementsAre(5)) << "-0.5 and -1 beside that of A";
  data.scores[0] = 131072;
  EXPECT_THAT(Encoded(data, "Abc"), ElementsAre(0, 3));
}

TEST(Unigram, UserDefinedTokensCompeteInFloat32Sums) {
  TokenizerData data = Data({{"a", -3}, {"<", -2}, {"<x>", -9}, {"a<", -0.0625}, {"x>", -0.03125}});
  data.types[2] = TokenType::kUserDefined;
  EXPECT_THAT(Encoded(data, "a<"), ElementsAre(3));
  EXPECT_THAT(Encoded(data, "a<x>"), ElementsAre(3, 4)) << "user-defined tokens are no part of it";
  data.float_sums = true;
  EXPECT_THAT(Encoded(data, "<x><x>"), ElementsAre(2, 2));
  EXPECT_THAT(Encoded(data, "a<x>"), ElementsAre(3, 4)) << "-3 + 0.2 is less than -0.09375";
  data.scores[0] = -0.25;
  EXPECT_THAT(Encoded(data, "a<x>"), ElementsAre(0, 2));
}

TEST(Unigram, SumsBeyondFloat32) {
  TokenizerData data = Data({{"a", -3e38f}, {"aa", 3e38f}});
  data.float_sums = true;
  EXPECT_THAT(Encoded(data, "aaaa"), ElementsAre(1, 1));
  EXPECT_THAT(Encoded(data, "aaa"), ElementsAre(0, 1));
}

TEST(Unigram, UnknownCharacters) {
  TokenizerData data = Data({{"a", -1}, {"<unk>", 0}, {"ab", -2}});
  data.types[1] = TokenType::kControl;
  EXPECT_THAT(Encoded(data, "xa"), ElementsAre(0)) << "nothing stands for them";
  data.unk = 1;
  data.missing_to_unk = true;
  EXPECT_THAT(Encoded(data,
                      "x\xC3\xA9"
                      "ab\xFF<unk>"),
              ElementsAre(1, 1, 2, 1, 1, 1, 1, 1, 1));
  data.fuse_unk = true;
  EXPECT_THAT(Encoded(data,
                      "x\xC3\xA9"
                      "ab\xFF<unk>"),
              ElementsAre(1, 2, 1));
  // Whole characters become bytes, or none of their bytes does.
  for (const char* byte : {"<0xC3>", "<0xA9>", "<0xAB>"}) {
    data.tokens.push_back(byte);
    data.types.push_back(TokenType::kByte);
    data.scores.push_back(0);
  }
  EXPECT_THAT(Encoded(data, "\u00E9\u00EB\u00EA"), ElementsAre(3, 4, 3, 5, 1));
  EXPECT_THAT(Encoded(data, "<0xC3>"), ElementsAre(1)) << "text does not spell bytes";
}

TEST(Unigram, FusesInsideWordsOnly) {
  TokenizerData data = Data({{"<unk>", 0}});
  data.types[0] = TokenType::kControl;
  data.unk = 0;
  data.missing_to_unk = data.fuse_unk = true;
  const std::vector<std::string_view> words = {"xy", "z"};
  std::vector<int32_t> ids;
  Unigram(data).Encode(words, ids);
  EXPECT_THAT(ids, ElementsAre(0, 0));
}

// Robustness case 33, with tokens of all lengths that are allowed.
TEST(Unigram, LongWordsTakeNoQuadraticTime) {
  std::vector<std::pair<std::string, double>> pieces;
  for (size_t size = 1; size <= Unigram::kMaxBytes; ++size) {
    pieces.emplace_back(std::string(size, 'a'), -1.0);
  }
  const std::vector<int32_t> ids = Encoded(Data(pieces), std::string(1 << 18, 'a'));
  EXPECT_EQ(ids, std::vector<int32_t>((1 << 18) / Unigram::kMaxBytes, Unigram::kMaxBytes - 1));
}

}  // namespace
}  // namespace tq
