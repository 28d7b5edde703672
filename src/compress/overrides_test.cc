#include "compress/overrides.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace tq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<std::string> kNames = {"model.layers.0.mlp.up_proj",
                                         "model.layers.0.mlp.down_proj",
                                         "model.layers.1.mlp.down_proj", "model.embed_tokens"};

StatusOr<std::vector<double>> Apply(const std::vector<RateOverride>& overrides) {
  return ApplyOverrides(overrides, kNames, 0.5, 4);
}

TEST(Overrides, AreReadAtTheLastEqualsSign) {
  const auto plain = ParseRateOverride("down_proj=3.5");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->pattern, "down_proj");
  EXPECT_EQ(plain->bits, 3.5);
  const auto lookahead = ParseRateOverride("(?=model)embed=2");
  ASSERT_TRUE(lookahead.ok());
  EXPECT_EQ(lookahead->pattern, "(?=model)embed");
  for (const char* wrong :
       {"", "=", "=3", "down_proj", "down_proj=", "down_proj=x", "a=3x", "a=3 "}) {
    EXPECT_FALSE(ParseRateOverride(wrong).ok()) << wrong;
  }
}

TEST(Overrides, MatchAnywhereInTheName) {
  const auto rates = Apply({{"down_proj", 3}, {"embed", 2.5}, {"layers\\.1\\.", 3}});
  ASSERT_TRUE(rates.ok()) << rates.status().message();
  EXPECT_THAT(*rates, ElementsAre(0, 3, 3, 2.5));
  EXPECT_THAT(*Apply({}), ElementsAre(0, 0, 0, 0));
}

TEST(Overrides, RefuseWhatCannotBeMeant) {
  EXPECT_THAT(Apply({{"gate_proj", 3}}).status().message(), HasSubstr("matches no matrix"));
  EXPECT_THAT(Apply({{"down", 3}, {"layers.1", 2}}).status().message(),
              HasSubstr("model.layers.1.mlp.down_proj has 3 bits by another override, 2 by this"));
  EXPECT_THAT(Apply({{"down(", 3}}).status().message(),
              HasSubstr("override 'down(': missing closing parenthesis at byte 5"));
  for (const double bits : {0.0, 0.49, 4.1, -1.0, double{NAN}, double{INFINITY}}) {
    EXPECT_THAT(Apply({{"down", bits}}).status().message(), HasSubstr("is not in [0.5, 4]"));
  }
  EXPECT_THAT(Apply({{std::string(100000, '('), 3}}).status().message(),
              HasSubstr("parentheses are too deeply nested"));
  EXPECT_THAT(Apply({{"(.+)+(?!)", 3}}).status().message(),
              HasSubstr("override '(.+)+(?!)': model.layers.0.mlp.up_proj: match limit exceeded"));
}

}  // namespace
}  // namespace tq
