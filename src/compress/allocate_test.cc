#include "compress/allocate.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/random.h"

namespace tq {
namespace {

using Items = std::vector<AllocationItem>;

// Losses fall about fourfold per bit, some not at all, as measured ones do.
Items RandomItems(Random& random, size_t count, size_t rates) {
  Items items;
  for (size_t i = 0; i < count; ++i) {
    AllocationItem item{fmt::format("m{}", i), {}};
    const uint64_t weights = 16 * (1 + random.NextBelow(200));
    const double scale = std::exp(2 * random.NextNormal());
    for (size_t r = 0; r < rates; ++r) {
      const double rate = 0.5 + 0.5 * static_cast<double>(r);
      const double noise = std::exp(0.3 * random.NextNormal());
      item.choices.push_back({rate, static_cast<uint64_t>(rate * static_cast<double>(weights)) / 8,
                              scale * std::pow(4, -rate) * noise});
    }
    items.push_back(std::move(item));
  }
  return items;
}

uint64_t BytesAt(const Items& items, size_t choice) {
  uint64_t bytes = 0;
  for (const AllocationItem& item : items) bytes += item.choices[choice].bytes;
  return bytes;
}

double LossAt(const Items& items, size_t choice) {
  double loss = 0;
  for (const AllocationItem& item : items) loss += item.choices[choice].loss;
  return loss;
}

// The least loss by trying everything.
double BruteForce(const Items& items, uint64_t budget, size_t first = 0) {
  if (first == items.size()) return 0;
  double best = INFINITY;
  for (const RateChoice& c : items[first].choices) {
    if (c.bytes > budget) continue;
    best = std::min(best, c.loss + BruteForce(items, budget - c.bytes, first + 1));
  }
  return best;
}

TEST(Allocate, NearlyAlwaysTheBestOfAll) {
  Random random(1, "allocate");
  int exact = 0;
  constexpr int kProblems = 400;
  double excess = 0;
  for (int problem = 0; problem < kProblems; ++problem) {
    const Items items = RandomItems(random, 1 + random.NextBelow(6), 2 + random.NextBelow(5));
    const size_t most = items.front().choices.size() - 1;
    const uint64_t lowest = BytesAt(items, 0), highest = BytesAt(items, most);
    const uint64_t budget = lowest + random.NextBelow(highest - lowest + 2);
    const auto got = Allocate(items, budget);
    ASSERT_TRUE(got.ok()) << got.status().message();
    const double best = BruteForce(items, budget);

    double loss = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      loss += items[i].choices[got->choice[i]].loss;
      bytes += items[i].choices[got->choice[i]].bytes;
    }
    EXPECT_LE(bytes, budget);
    EXPECT_EQ(bytes, got->bytes);
    EXPECT_DOUBLE_EQ(loss, got->loss);
    EXPECT_GE(got->loss, best * (1 - 1e-9));
    EXPECT_LE(got->loss_bound, best * (1 + 1e-9));
    exact += got->loss <= best * (1 + 1e-9);
    excess += got->loss / best - 1;
  }
  EXPECT_GE(exact, kProblems * 95 / 100);
  EXPECT_LT(excess / kProblems, 0.005);
}

TEST(Allocate, NeverWorseThanOneRateForAll) {
  Random random(2, "allocate");
  for (int problem = 0; problem < 200; ++problem) {
    const Items items = RandomItems(random, 40, 8);
    for (size_t rate = 0; rate < 8; ++rate) {
      const auto got = Allocate(items, BytesAt(items, rate));
      ASSERT_TRUE(got.ok());
      EXPECT_LE(got->loss, LossAt(items, rate));
    }
  }
}

// The relaxation differs from the truth by no more than one step of one of many items.
TEST(Allocate, ReachesTheBoundWithManyItems) {
  Random random(3, "allocate");
  const Items items = RandomItems(random, 300, 18);
  for (const size_t rate : {2, 5, 9}) {
    const auto got = Allocate(items, BytesAt(items, rate));
    ASSERT_TRUE(got.ok());
    EXPECT_GE(got->loss, got->loss_bound);
    EXPECT_LT(got->loss, got->loss_bound * 1.002);
  }
}

TEST(Allocate, MoreBytesNeverLoseMore) {
  Random random(4, "allocate");
  const Items items = RandomItems(random, 12, 8);
  double last = INFINITY;
  for (size_t rate = 0; rate < 8; ++rate) {
    const auto got = Allocate(items, BytesAt(items, rate));
    ASSERT_TRUE(got.ok());
    EXPECT_LE(got->loss, last);
    last = got->loss;
  }
}

TEST(Allocate, RefusesWhatCannotBe) {
  const Items items = {{"a", {{1, 10, 4}, {2, 20, 1}}}, {"b", {{1, 30, 8}, {2, 60, 3}}}};
  const auto small = Allocate(items, 39);
  EXPECT_EQ(small.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(small.status().message(), "budget: 39 bytes is too few; the smallest possible is 40");
  EXPECT_TRUE(Allocate(items, 40).ok());
  EXPECT_TRUE(Allocate(Items{}, 0).ok());
  EXPECT_EQ(Allocate(items, std::numeric_limits<uint64_t>::max())->bytes, 80u);

  const Items wrong[] = {
      {{"a", {}}},
      {{"a", {{1, 10, NAN}}}},
      {{"a", {{1, 10, -1}}}},
      {{"a", {{1, 10, 1}, {1, 20, 1}}}},
      {{"a", {{1, 10, 1}, {2, 10, 1}}}},
      {{"a", {{1, 1ull << 63, 1}}}},
      {{"a", {{1, (1ull << 63) - 1, 1}}}, {"b", {{1, 1, 1}}}},
  };
  for (const Items& w : wrong) {
    EXPECT_EQ(Allocate(w, ~0ull).status().code(), StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace tq
