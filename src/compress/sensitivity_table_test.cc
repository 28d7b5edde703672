#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "../../tests/support/tiny_model.h"
#include "base/file_io.h"
#include "compress/assign_rates.h"
#include "compress/sensitivity.h"

namespace tq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempFolder;

// A tiny model and a table in which layer 0 is nine times as sensitive as layer 1.
class SensitivityTableTest : public ::testing::Test {
 protected:
  SensitivityTableTest() {
    testing::WriteHuggingFace(
        testing::MakeTinyModel({.hidden = 128, .intermediate = 256, .layers = 2, .vocab = 900}),
        folder_ / "model");
    source_ = *ModelSource::Open(folder_ / "model");
    outline_ = *OutlineModel(*source_, options_);
    table_.model = *ModelFingerprint(*source_);
    for (const PlannedMatrix& m : outline_.matrices) {
      const std::vector<uint64_t> slices =
          m.vocabulary ? VocabularySlices(m.rows) : std::vector<uint64_t>{0, m.rows};
      for (size_t s = 0; s + 1 < slices.size(); ++s) {
        const double scale = m.name.find("layers.0") != std::string::npos ? 0.9 : 0.1;
        table_.items.push_back(
            {m.name, slices[s], slices[s + 1], scale, 1.1, 0.2, m.vocabulary ? 0 : scale});
      }
    }
    table_.joint = {{0.1, 0.09}, {1.0, 0.7}};
  }
  Status Read(const std::string& text) {
    EXPECT_TRUE(WriteFileAtomically(folder_ / "s.json", text).ok());
    return ReadSensitivity(folder_ / "s.json", table_.model, outline_).status();
  }
  std::string Written() {
    EXPECT_TRUE(WriteSensitivity(folder_ / "s.json", table_).ok());
    return *ReadFile(folder_ / "s.json", 1 << 20);
  }

  TempFolder folder_;
  QuantizeOptions options_;
  std::unique_ptr<ModelSource> source_;
  ModelOutline outline_;
  SensitivityTable table_;
};

TEST_F(SensitivityTableTest, SlicesCoverAVocabulary) {
  for (const uint64_t rows : {1u, 63u, 64u, 65u, 900u, 49152u, 128256u}) {
    const std::vector<uint64_t> slices = VocabularySlices(rows);
    EXPECT_EQ(slices.front(), 0u);
    EXPECT_EQ(slices.back(), rows);
    EXPECT_LE(slices.size() - 1, kMaxSegments);
    for (size_t i = 1; i < slices.size(); ++i) {
      EXPECT_LT(slices[i - 1], slices[i]);
      if (i + 1 < slices.size()) {
        EXPECT_EQ(slices[i] % kSegmentRowMultiple, 0u);
      }
    }
  }
}

TEST_F(SensitivityTableTest, ComesBackFromItsFile) {
  Written();
  const auto read = ReadSensitivity(folder_ / "s.json", table_.model, outline_);
  ASSERT_TRUE(read.ok()) << read.status().message();
  ASSERT_EQ(read->items.size(), table_.items.size());
  for (size_t i = 0; i < read->items.size(); ++i) {
    EXPECT_EQ(read->items[i].matrix, table_.items[i].matrix);
    EXPECT_EQ(read->items[i].scale, table_.items[i].scale);
    EXPECT_EQ(read->items[i].exponent, table_.items[i].exponent);
    EXPECT_EQ(read->items[i].row_end, table_.items[i].row_end);
  }
  EXPECT_EQ(read->joint.size(), 2u);
}

// A file that somebody changed, cut off, or took from another model.
TEST_F(SensitivityTableTest, RefusesBadFiles) {
  const std::string good = Written();
  const auto changed = [&](std::string_view from, std::string_view to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  EXPECT_TRUE(Read(good).ok());
  EXPECT_THAT(Read(changed(table_.model.Hex(), std::string(32, '0'))).message(),
              HasSubstr("another model"));
  EXPECT_FALSE(Read(good.substr(0, good.size() / 2)).ok());
  EXPECT_FALSE(Read("").ok());
  EXPECT_FALSE(Read("[]").ok());
  EXPECT_THAT(Read(changed("\"scale\": 0.9", "\"scale\": -1")).message(), HasSubstr("scale"));
  EXPECT_THAT(Read(changed("\"scale\": 0.9", "\"scale\": null")).message(), HasSubstr("scale"));
  EXPECT_THAT(Read(changed("\"exponent\": 1.1", "\"exponent\": 99")).message(),
              HasSubstr("exponent"));
  EXPECT_THAT(Read(changed("\"row_end\": 128", "\"row_end\": 64")).message(), HasSubstr("q_proj"));
  EXPECT_THAT(Read(changed("layers.1.mlp.up_proj", "layers.9.mlp.up_proj")).message(),
              HasSubstr("up_proj"));
  // More slices than a matrix may have codes.
  SensitivityTable sliced = table_;
  const SensitivityItem whole = sliced.items[0];
  sliced.items[0].row_end = 64;
  sliced.items.insert(sliced.items.begin() + 1, whole);
  sliced.items[1].row_begin = 64;
  ASSERT_TRUE(WriteSensitivity(folder_ / "s.json", sliced).ok());
  EXPECT_THAT(ReadSensitivity(folder_ / "s.json", table_.model, outline_).status().message(),
              HasSubstr("rows 0 to 64 where 0 to 128 are next"));
  EXPECT_THAT(Read(changed("\"format\": 1", "\"format\": 7")).message(), HasSubstr("format 7"));
}

TEST_F(SensitivityTableTest, TotalKlFollowsTheJointMeasurements) {
  EXPECT_NEAR(*table_.TotalKl(0.1), 0.09, 1e-12);
  EXPECT_NEAR(*table_.TotalKl(1.0), 0.7, 1e-12);
  EXPECT_NEAR(*table_.TotalKl(0.01), 0.009, 1e-12);
  EXPECT_NEAR(*table_.TotalKl(10), 7, 1e-12);
  EXPECT_NEAR(*table_.TotalKl(std::sqrt(0.1)), std::sqrt(0.1) * 0.8, 1e-12);
  table_.measure = SensitivityMeasure::kHessian;
  EXPECT_FALSE(table_.TotalKl(1).has_value());
}

TEST_F(SensitivityTableTest, HessiansAreInEveryTableAndKlOnlyWhereItWasMeasured) {
  EXPECT_EQ(table_.By(SensitivityMeasure::kKl)->measure, SensitivityMeasure::kKl);
  const auto by_hessians = table_.By(SensitivityMeasure::kHessian);
  EXPECT_EQ(by_hessians->measure, SensitivityMeasure::kHessian);
  EXPECT_TRUE(by_hessians->By(SensitivityMeasure::kHessian).has_value());
  EXPECT_FALSE(by_hessians->By(SensitivityMeasure::kKl).has_value());
}

TEST_F(SensitivityTableTest, WeightsKeepTheDecodersTotal) {
  for (size_t i = 0; i < table_.items.size(); ++i) {
    if (table_.items[i].hessian_loss > 0) table_.items[i].hessian_loss *= 1.0 + 0.1 * i;
  }
  const std::vector<double> weights = table_.AllocationWeights(2);
  double before = 0, after = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (table_.items[i].hessian_loss == 0) {
      EXPECT_EQ(weights[i], 1);
      continue;
    }
    before += table_.items[i].Loss(0.1);
    after += weights[i] * table_.items[i].Loss(0.1);
  }
  EXPECT_NEAR(before, after, 1e-9);
  EXPECT_LT(weights.front(), weights[outline_.matrices.size() - 2]);  // its Hessian loss is larger
}

TEST_F(SensitivityTableTest, AllocatesWithinTheBudget) {
  double last_loss = 1e9;
  uint64_t last_bytes = 0;
  for (const double bits : {1.3, 2.0, 2.71, 4.0, 6.5}) {
    const auto budget = static_cast<uint64_t>(bits * static_cast<double>(outline_.parameters) / 8);
    const auto planned = PlanAllocated(outline_, options_, table_, budget);
    ASSERT_TRUE(planned.ok()) << planned.status().message();
    EXPECT_LE(planned->plan.bytes, budget);
    EXPECT_GT(planned->plan.bytes, last_bytes);
    EXPECT_LT(planned->loss, last_loss);
    EXPECT_NEAR(planned->loss, PredictLoss(table_, planned->plan.matrices), 1e-12);
    last_bytes = planned->plan.bytes;
    last_loss = planned->loss;
    for (size_t i = 0; i < 7; ++i) {  // the layers' matrices come in pairs
      EXPECT_GE(CodeRate(planned->plan.matrices[i]), CodeRate(planned->plan.matrices[i + 7]));
    }
    for (const PlannedMatrix& m : planned->plan.matrices) {
      EXPECT_LE(m.segments.size(), kMaxSegments);
      EXPECT_EQ(m.segments.front().row_begin, 0u);
      EXPECT_EQ(m.segments.back().row_end, m.rows);
    }
    // Never a larger predicted loss than the uniform plan of the same size.
    QuantizeOptions uniform = options_;
    uniform.budget_bytes = budget;
    const auto plain = PlanUniform(outline_, uniform);
    ASSERT_TRUE(plain.ok());
    EXPECT_LE(planned->loss, 1.02 * PredictLoss(table_, plain->matrices));
  }
  EXPECT_EQ(PlanAllocated(outline_, options_, table_, 1000).status().code(),
            StatusCode::kResourceExhausted);
}

// Whatever uniform rates can be given, allocated ones can.
TEST_F(SensitivityTableTest, TheSmallestSizeIsPossible) {
  for (const auto& [lowest, highest] : {std::pair{0.5, 8.0}, {2.5, 4.0}, {3.0, 3.0}}) {
    options_.min_bits = lowest;
    options_.max_bits = highest;
    const uint64_t smallest = SmallestBytes(outline_, options_);
    for (const uint64_t more : {0, 1, 100, 2000}) {
      const auto plan = PlanAllocated(outline_, options_, table_, smallest + more);
      ASSERT_TRUE(plan.ok()) << plan.status().message();
      EXPECT_GE(plan->plan.bytes, smallest);
      EXPECT_LE(plan->plan.bytes, smallest + more);
    }
    const auto refused = PlanAllocated(outline_, options_, table_, smallest - 1);
    EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(refused.status().message(), HasSubstr(std::to_string(smallest)));
  }
}

TEST_F(SensitivityTableTest, PlansOfTheSameCodesHaveOneHash) {
  options_.bits = 3;
  const auto uniform = PlanUniform(outline_, options_);
  const auto again = PlanUniform(outline_, options_);
  options_.bits = 3.1;
  const auto other = PlanUniform(outline_, options_);
  ASSERT_TRUE(uniform.ok() && again.ok() && other.ok());
  EXPECT_EQ(HashOfCodes(uniform->matrices), HashOfCodes(again->matrices));
  EXPECT_NE(HashOfCodes(uniform->matrices), HashOfCodes(other->matrices));
}

TEST_F(SensitivityTableTest, UniformPlansGiveTheVocabularyWhatItsLossIsWorth) {
  const auto embedding_rate = [&](double factor) {
    SensitivityTable table = table_;
    for (SensitivityItem& item : table.items) {
      if (item.hessian_loss == 0) item.scale *= factor;
    }
    const auto measured = PlanUniform(outline_, options_, table);
    EXPECT_TRUE(measured.ok()) << measured.status().message();
    // No plan of the same size with another rate of the vocabulary has less predicted loss.
    const double least = PredictLoss(table, measured->matrices);
    for (const double rate : {0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0}) {
      QuantizeOptions fixed = options_;
      fixed.overrides = {{"embed_tokens|lm_head", rate}};
      const auto other = PlanUniform(*OutlineModel(*source_, fixed), fixed);
      if (other.ok()) {
        EXPECT_LE(least, PredictLoss(table, other->matrices) + 1e-12) << rate;
      }
    }
    EXPECT_LE(measured->bytes, *TargetBytes(outline_, options_));
    return measured->embedding_rate;
  };
  EXPECT_LT(embedding_rate(0.1), embedding_rate(1));
  EXPECT_LT(embedding_rate(1), embedding_rate(10));
}

TEST_F(SensitivityTableTest, PlansThatCompete) {
  using enum PlanKind;
  const auto kinds = [&](SensitivityMeasure measure, double bits) {
    return PlansToCompare(
        outline_, options_, measure,
        static_cast<uint64_t>(bits * static_cast<double>(outline_.parameters) / 8));
  };
  EXPECT_THAT(kinds(SensitivityMeasure::kKl, 2), ElementsAre(kAllocated, kUniform));
  EXPECT_THAT(kinds(SensitivityMeasure::kKl, 1.25), ElementsAre(kAllocated, kByHessians, kUniform));
  EXPECT_THAT(kinds(SensitivityMeasure::kHessian, 1.25), ElementsAre(kAllocated, kUniform));
  EXPECT_THAT(kinds(SensitivityMeasure::kNone, 1.25), ElementsAre(kUniform));
  options_.verify = false;
  EXPECT_THAT(kinds(SensitivityMeasure::kKl, 1.25), ElementsAre(kAllocated));
  options_.method = Method::kRtn;
  EXPECT_THAT(kinds(SensitivityMeasure::kKl, 4), ElementsAre(kScalar));
  EXPECT_EQ(WorkBytes(1, 100), 200u);
  EXPECT_EQ(WorkBytes(3, 100), 500u);
}

}  // namespace
}  // namespace tq
