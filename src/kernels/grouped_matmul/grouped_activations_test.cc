#include "kernels/grouped_matmul/grouped_activations.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"

namespace tq::grouped {
namespace {

constexpr uint64_t kSeed = 8128;

struct Integers {
  std::vector<int8_t> a;
  std::vector<float> scale, sum;
};

Integers Quantized(Isa isa, const std::vector<float>& x) {
  const size_t blocks = x.size() / kBlockColumns;
  Integers result{std::vector<int8_t>(x.size()), std::vector<float>(blocks),
                  std::vector<float>(blocks)};
  FindQuantize(isa)(x.data(), blocks, result.a.data(), result.scale.data(), result.sum.data());
  return result;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<float> HostileBlocks() {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float specials[] = {0.0f, -0.0f, 1e-45f,        0x1p-111f, 0x1p-109f, 3e38f, -3e38f,
                            kInf, -kInf, std::nanf(""), 1.0f,      -127.0f,   0.5f};
  std::vector<float> x;
  Random random(kSeed, "x");
  for (float special : specials) {
    for (double sigma : {0.0, 1e-3, 1e3}) {
      for (int i = 0; i < kBlockColumns; ++i) {
        x.push_back(static_cast<float>(sigma * random.NextNormal()));
      }
      x[x.size() - 1 - random.NextBelow(kBlockColumns)] = special;
    }
  }
  return x;
}

TEST(GroupedActivations, RoundToNearestInBlocks) {
  for (const std::vector<float>& x : {HostileBlocks(), std::vector<float>()}) {
    const Integers made = Quantized(Isa::kReference, x);
    for (size_t b = 0; b < made.scale.size(); ++b) {
      float largest = 0;
      bool finite = true;
      int sum = 0;
      for (int i = 0; i < kBlockColumns; ++i) {
        const float value = x[b * kBlockColumns + i];
        finite = finite && std::isfinite(value);
        largest = std::max(largest, std::abs(value));
        sum += made.a[b * kBlockColumns + i];
      }
      EXPECT_EQ(made.sum[b], static_cast<float>(sum));
      if (!finite) {
        EXPECT_TRUE(std::isnan(made.scale[b]));
        EXPECT_EQ(sum, 0);
        continue;
      }
      if (largest < kSmallestLargest) largest = 0;
      EXPECT_EQ(made.scale[b], largest / 127);
      for (int i = 0; i < kBlockColumns; ++i) {
        const float value = x[b * kBlockColumns + i], a = made.a[b * kBlockColumns + i];
        EXPECT_LE(std::abs(a), 127);
        if (largest > 0) {
          EXPECT_NEAR(value / largest * 127, a, 0.501) << "block " << b;
        } else {
          EXPECT_EQ(a, 0);
        }
      }
    }
  }
}

TEST(GroupedActivations, EveryLevelGivesTheSameBits) {
  const std::vector<float> x = HostileBlocks();
  const Integers expected = Quantized(Isa::kReference, x);
  for (Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    const Integers made = Quantized(isa, x);
    EXPECT_EQ(made.a, expected.a) << IsaName(isa);
    EXPECT_TRUE(SameBits(made.scale, expected.scale)) << IsaName(isa);
    EXPECT_TRUE(SameBits(made.sum, expected.sum)) << IsaName(isa);
  }
}

// Every column and block stands where the header says, and nowhere else.
TEST(GroupedActivations, Layouts) {
  constexpr size_t kBlocks = 16, kRows = 3;
  std::vector<int8_t> a(kBlocks * kBlockColumns);
  std::vector<float> scale(kBlocks), sum(kBlocks);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<int8_t>(i * 37 % 251);
  for (size_t b = 0; b < kBlocks; ++b) scale[b] = static_cast<float>(b), sum[b] = -scale[b];
  for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
    const size_t part_bytes = PartBytes(bits);
    for (size_t lanes : {1, 2, 4}) {
      std::vector<int8_t> out(a.size());
      std::vector<float> d(4 * kBlocks), total(4 * kBlocks);
      LayOutRow(bits, lanes, kBlocks, a.data(), scale.data(), sum.data(), out.data(), d.data(),
                total.data());
      const size_t step = lanes * Parts(bits) / 2;
      for (size_t b = 0; b < kBlocks; ++b) {
        for (int i = 0; i < kBlockColumns; ++i) {
          const size_t part = i / part_bytes, byte = i % part_bytes;
          const size_t at = ((b / step * Parts(bits) + part) * step + b % step) * part_bytes + byte;
          ASSERT_EQ(out[at], a[b * kBlockColumns + ColumnOf(bits, part, byte)]);
        }
        for (size_t i = 0; i < 4; ++i) {
          ASSERT_EQ(d[4 * QuadOf(bits, lanes, b) + i], scale[b]);
          ASSERT_EQ(total[4 * QuadOf(bits, lanes, b) + i], sum[b]);
        }
      }
    }
    std::vector<int8_t> panel(a.size() * kRows, int8_t{99});
    std::vector<float> d(kRows * kBlocks), total(kRows * kBlocks);
    LayOutPanelRow(bits, kBlocks, 1, kRows, a.data(), scale.data(), sum.data(), panel.data(),
                   d.data(), total.data());
    for (size_t at = 0; at < panel.size(); ++at) {
      const size_t quad = at / (4 * kRows), b = quad / 8, row = at / 4 % kRows;
      const size_t i = quad % 8 * 4 + at % 4;
      const int column = ColumnOf(bits, i / part_bytes, i % part_bytes);
      ASSERT_EQ(panel[at], row == 1 ? a[b * kBlockColumns + column] : 99);
    }
    for (size_t b = 0; b < kBlocks; ++b) {
      EXPECT_EQ(d[b * kRows + 1], scale[b]);
      EXPECT_EQ(total[b * kRows + 1], sum[b]);
      EXPECT_EQ(d[b * kRows], 0);
    }
  }
}

}  // namespace
}  // namespace tq::grouped
