#include "compress/plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "../../tests/support/tiny_model.h"

namespace tq {
namespace {

using testing::TempFolder;

struct Source {
  TempFolder folder;
  std::unique_ptr<ModelSource> source;

  explicit Source(const testing::TinyModelOptions& options) {
    testing::WriteHuggingFace(testing::MakeTinyModel(options), folder / "model");
    source = *ModelSource::Open(folder / "model");
  }
};

QuantizeOptions Bits(double bits) {
  QuantizeOptions options;
  options.bits = bits;
  return options;
}

StatusOr<ModelPlan> MakePlan(const ModelSource& source, const QuantizeOptions& options) {
  TQ_ASSIGN_OR_RETURN(const ModelOutline outline, OutlineModel(source, options));
  return IsScalar(options.method) ? PlanScalar(outline, options) : PlanUniform(outline, options);
}

TEST(PlanTest, MeetsTheAverage) {
  for (const bool tied : {true, false}) {
    const Source s({.hidden = 256, .intermediate = 768, .layers = 4, .vocab = 900, .tied = tied});
    double last_rate = 0;
    for (const double bits : {1.2, 1.5, 2.0, 2.3, 2.71, 3.3, 4.0, 4.6, 5.5, 7.1, 8.0}) {
      const auto plan = MakePlan(*s.source, Bits(bits));
      ASSERT_TRUE(plan.ok()) << plan.status().message();
      // One step of the split is 64 rows x 256 columns of half a bit: 0.003 bits here.
      EXPECT_LE(plan->bits_per_weight, bits + 0.005);
      EXPECT_GT(plan->bits_per_weight, bits - 0.02) << bits;
      EXPECT_GE(plan->decoder_rate, last_rate - 0.3);
      last_rate = plan->decoder_rate;
      for (const PlannedMatrix& m : plan->matrices) {
        ASSERT_FALSE(m.segments.empty());
        EXPECT_EQ(m.segments.front().row_begin, 0u);
        EXPECT_EQ(m.segments.back().row_end, m.rows);
        if (m.segments.size() == 2) {
          EXPECT_EQ(m.segments[0].row_end, m.segments[1].row_begin);
          EXPECT_EQ(m.segments[0].row_end % kSegmentRowMultiple, 0u);
          EXPECT_EQ(m.segments[0].code.rate() > m.segments[1].code.rate(), m.vocabulary);
        }
      }
    }
  }
}

TEST(PlanTest, ImpossibleBitsNameThePossible) {
  const Source s({.hidden = 128, .intermediate = 256});
  const auto few = MakePlan(*s.source, Bits(0.2));
  ASSERT_FALSE(few.ok());
  EXPECT_EQ(few.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(few.status().message().find("smallest possible"), std::string::npos);
  const auto many = MakePlan(*s.source, Bits(9.5));
  ASSERT_FALSE(many.ok());
  EXPECT_NE(many.status().message().find("largest possible"), std::string::npos);
  EXPECT_FALSE(MakePlan(*s.source, Bits(NAN)).ok());
  EXPECT_FALSE(MakePlan(*s.source, Bits(-1)).ok());
}

TEST(PlanTest, OverridesHoldAndTheAverageToo) {
  const Source s({.hidden = 256, .intermediate = 768, .layers = 4, .vocab = 900});
  QuantizeOptions options = Bits(2.3);
  options.overrides = {{"down_proj", 3.25}, {"layers\\.0\\.self_attn", 8}, {"embed", 1.75}};
  const auto plan = MakePlan(*s.source, options);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  EXPECT_NEAR(plan->bits_per_weight, 2.3, 0.02);
  const auto free = MakePlan(*s.source, Bits(2.3));
  for (size_t i = 0; i < plan->matrices.size(); ++i) {
    const PlannedMatrix& m = plan->matrices[i];
    if (m.name.ends_with("down_proj")) {
      EXPECT_NEAR(CodeRate(m), 3.25, 0.25) << m.name;  // steps of 64 of 256 rows
    } else if (m.name.starts_with("model.layers.0.self_attn")) {
      EXPECT_EQ(CodeRate(m), 8) << m.name;
    } else if (m.vocabulary) {
      EXPECT_NEAR(CodeRate(m), 1.75, 0.04) << m.name;
    } else {
      EXPECT_LT(CodeRate(m), CodeRate(free->matrices[i])) << m.name;
    }
  }
}

TEST(PlanTest, OverridesThatCannotBeAreRefused) {
  const Source s({});
  QuantizeOptions options = Bits(2);
  options.overrides = {{"no_such_matrix", 3}};
  EXPECT_EQ(MakePlan(*s.source, options).status().code(), StatusCode::kInvalidArgument);
  options.overrides = {{"down_proj", 8.5}};
  EXPECT_EQ(MakePlan(*s.source, options).status().code(), StatusCode::kInvalidArgument);
  options.overrides = {{".", 4}};  // nothing is left to make up for it
  EXPECT_EQ(MakePlan(*s.source, options).status().code(), StatusCode::kInvalidArgument);
  options.overrides = {{"down_proj", 3}};
  options.method = Method::kRtn;
  EXPECT_EQ(MakePlan(*s.source, options).status().code(), StatusCode::kInvalidArgument);
}

TEST(PlanTest, ScalarCodesTakeWholeWidths) {
  const Source s({});
  for (const Method method : {Method::kRtn, Method::kGptq, Method::kAwq}) {
    for (const uint32_t group_size : {32, 64, 128, 0}) {
      QuantizeOptions options = Bits(3);
      options.method = method;
      options.group_size = group_size;
      options.symmetric = group_size == 64;
      const auto plan = MakePlan(*s.source, options);
      ASSERT_TRUE(plan.ok()) << plan.status().message();
      EXPECT_EQ(plan->method, method);
      EXPECT_EQ(plan->decoder_rate, 3);
      EXPECT_EQ(plan->embedding_rate, 3);
      for (const PlannedMatrix& m : plan->matrices) {
        ASSERT_EQ(m.method, m.vocabulary ? Method::kTrellis : method);
        EXPECT_EQ(CodeRate(m), 3);
        if (m.vocabulary) continue;
        EXPECT_EQ(m.layout.bits, 3u);
        EXPECT_EQ(m.layout.group_size, group_size == 0 ? m.cols : group_size);
        EXPECT_EQ(m.layout.zeros, group_size == 64 ? ZeroKind::kSymmetric : ZeroKind::kPacked);
        EXPECT_EQ(m.layout.ordered, method == Method::kGptq);
      }
      options.act_order = false;
      EXPECT_FALSE(MakePlan(*s.source, options)->matrices[0].layout.ordered);
      for (const double bits : {2.5, 1.0, 9.0, -4.0, 0.0}) {
        options.bits = bits;
        EXPECT_FALSE(MakePlan(*s.source, options).ok()) << bits;
      }
      // Between two rates of trellis codes.
      options.bits = 7;
      EXPECT_NEAR(MakePlan(*s.source, options)->embedding_rate, 7, 0.3);
    }
  }
}

TEST(PlanTest, TernaryHasOneSize) {
  const Source s({});
  QuantizeOptions options = Bits(1.6);
  options.method = Method::kTernary;
  for (const uint32_t group_size : {32, 64, 128, 0}) {
    options.group_size = group_size;
    const auto plan = MakePlan(*s.source, options);
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    EXPECT_EQ(plan->method, Method::kTernary);
    EXPECT_EQ(plan->decoder_rate, 1.6);
    EXPECT_NEAR(plan->embedding_rate, 1.6, 0.15);
    for (const PlannedMatrix& m : plan->matrices) {
      ASSERT_EQ(m.method, m.vocabulary ? Method::kTrellis : Method::kTernary);
      if (m.vocabulary) continue;
      EXPECT_EQ(CodeRate(m), 1.6);
      EXPECT_TRUE(m.layout.ternary());
      EXPECT_EQ(m.layout.group_size, group_size == 0 ? m.cols : group_size);
    }
  }
  options.group_size = 48;
  EXPECT_FALSE(MakePlan(*s.source, options).ok());
  options.group_size = 64;
  for (const double bits : {1.5, 1.58, 2.0, 4.0, 0.0, static_cast<double>(NAN)}) {
    options.bits = bits;
    const auto plan = MakePlan(*s.source, options);
    EXPECT_EQ(plan.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(plan.status().message().find("codes of 1.6 bits alone"), std::string::npos);
  }
}

// Plans whose codes differ in anything have other names.
TEST(PlanTest, CodesHaveDifferentHashes) {
  const Source s({});
  std::set<std::string> hashes;
  size_t plans = 0;
  for (const Method method : {Method::kRtn, Method::kGptq, Method::kAwq}) {
    for (const double bits : {3, 4}) {
      for (const uint32_t group_size : {32, 64}) {
        for (const bool symmetric : {false, true}) {
          QuantizeOptions options = Bits(bits);
          options.method = method;
          options.group_size = group_size;
          options.symmetric = symmetric;
          hashes.insert(HashOfCodes(MakePlan(*s.source, options)->matrices).Hex());
          ++plans;
        }
      }
    }
  }
  EXPECT_EQ(hashes.size(), plans);
}

}  // namespace
}  // namespace tq
