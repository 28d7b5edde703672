#include "compress/memory_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../../tests/support/tiny_model.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

class MemoryBudgetTest : public ::testing::Test {
 protected:
  MemoryBudgetTest() {
    testing::WriteHuggingFace(testing::MakeTinyModel(), folder_ / "model");
    source_ = *ModelSource::Open(folder_ / "model");
    options_.context = 64;
    outline_ = *OutlineModel(*source_, options_);
  }
  StatusOr<MemoryUse> Budget(uint64_t memory) {
    options_.memory_bytes = memory;
    return BudgetMemory(source_->config(), outline_, options_);
  }

  testing::TempFolder folder_;
  std::unique_ptr<ModelSource> source_;
  QuantizeOptions options_;
  ModelOutline outline_;
};

TEST_F(MemoryBudgetTest, PartsAddUp) {
  const auto use = Budget(64 << 20);
  ASSERT_TRUE(use.ok()) << use.status().message();
  EXPECT_EQ(use->weights + use->kv_cache + use->activations + use->reserve, use->budget);
  EXPECT_EQ(use->budget, 64u << 20);
  const uint64_t weights = use->weights;
  options_.context = 128;
  const auto longer = Budget(64 << 20);
  EXPECT_EQ(longer->kv_cache, 2 * use->kv_cache);
  EXPECT_LT(longer->weights, weights);
  options_.context = 64;
  options_.reserve_bytes = 1 << 20;
  EXPECT_EQ(Budget(64 << 20)->weights, weights - (1 << 20));
}

TEST_F(MemoryBudgetTest, TooLittleNamesTheSmallest) {
  const auto refused = Budget(1 << 20);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  const std::string message(refused.status().message());
  ASSERT_THAT(message, HasSubstr("smallest possible is "));
  // What is named is enough, and a byte less is not.
  const uint64_t smallest = std::stoull(message.substr(message.find("possible is ") + 12));
  EXPECT_TRUE(Budget(smallest).ok());
  EXPECT_FALSE(Budget(smallest - 1).ok());
}

TEST_F(MemoryBudgetTest, HostileNumbers) {
  options_.reserve_bytes = UINT64_MAX - 5;
  EXPECT_FALSE(Budget(64 << 20).ok());
  options_.reserve_bytes = 0;
  options_.context = uint64_t{1} << 40;
  EXPECT_FALSE(Budget(64 << 20).ok());
}

}  // namespace
}  // namespace tq
