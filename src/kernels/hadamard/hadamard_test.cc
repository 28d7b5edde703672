#include "kernels/hadamard/hadamard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/random.h"

namespace tq {
namespace {

constexpr Isa kLevels[] = {Isa::kReference, Isa::kAvx2, Isa::kAvx2Vnni, Isa::kAvx512};

// Any matrix of signs will do: the transform does not ask for orthogonality.
std::vector<float> RandomSigns(int m) {
  Random random(7, "signs", m);
  std::vector<float> signs(m * m);
  for (float& sign : signs) sign = random.NextSign();
  return signs;
}

std::vector<float> RandomValues(uint64_t n) {
  Random random(8, "values", n);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.NextNormal());
  return values;
}

TEST(Hadamard, ReferenceIsTheDefinition) {
  for (int m : {1, 4, 12}) {
    for (int log2 : {0, 1, 3}) {
      const int width = 1 << log2, order = m * width;
      const std::vector<float> signs = RandomSigns(m), x = RandomValues(2 * order);
      std::vector<float> y = x;
      HadamardTransform({y.data(), y.size(), m, log2, signs.data(), 0.25f}, Isa::kReference);
      for (int i = 0; i < 2 * order; ++i) {
        const int block = i / order, a = i % order / width, b = i % width;
        double sum = 0;
        for (int c = 0; c < m; ++c) {
          for (int d = 0; d < width; ++d) {
            const double s = __builtin_popcount(b & d) % 2 ? -1 : 1;
            sum += (m == 1 ? 1.0 : signs[a * m + c]) * s * x[block * order + c * width + d];
          }
        }
        ASSERT_NEAR(y[i], 0.25 * sum, 1e-4) << "m " << m << " log2 " << log2 << " i " << i;
      }
    }
  }
}

TEST(Hadamard, EveryLevelGivesTheSameBits) {
  for (Isa isa : kLevels) {
    if (!IsaSupported(isa)) continue;
    for (int m : {1, 12, 20, 28, 36}) {
      const std::vector<float> signs = RandomSigns(m);
      for (int log2 = 0; log2 <= (m == 1 ? 13 : 8); ++log2) {
        for (int blocks : {1, 2, 3, 5, 17}) {
          if (log2 > 8 && blocks > 2) continue;
          std::vector<float> expected = RandomValues((uint64_t{1} << log2) * m * blocks);
          std::vector<float> actual = expected;
          HadamardArgs args{expected.data(), expected.size(), m, log2, signs.data(), 0.3f};
          HadamardTransform(args, Isa::kReference);
          args.values = actual.data();
          HadamardTransform(args, isa);
          ASSERT_EQ(std::memcmp(expected.data(), actual.data(), 4 * expected.size()), 0)
              << IsaName(isa) << " m " << m << " log2 " << log2 << " blocks " << blocks;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tq
