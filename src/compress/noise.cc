#include "compress/noise.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/checked.h"
#include "base/random.h"

namespace tq {
namespace {

// Rows that share the power of their targets, and a stream of random numbers.
constexpr uint64_t kRowsPerItem = 64;

}  // namespace

NoiseLoss RoundWithNoise(const Feedback& feedback, uint64_t rows, uint64_t cols, double error,
                         NoiseKey key, float* w, Executor& executor) {
  TQ_CHECK(error >= 0 && error <= 1);
  std::vector<NoiseLoss> items(CeilDiv(rows, kRowsPerItem));
  executor.ParallelFor(items.size(), 1, [&](size_t begin, size_t end, size_t) {
    for (size_t item = begin; item < end; ++item) {
      const uint64_t row = item * kRowsPerItem;
      const uint64_t count = std::min(kRowsPerItem, rows - row);
      Random random(key.seed, key.name, item);
      const auto rounder = [&](uint64_t, const float* target, float* decoded) {
        const uint64_t n = count * feedback.block();
        double power = 0;
        for (uint64_t i = 0; i < n; ++i) power += static_cast<double>(target[i]) * target[i];
        const double sigma = std::sqrt(error * (1 - error) * power / static_cast<double>(n));
        for (uint64_t i = 0; i < n; ++i) {
          decoded[i] = static_cast<float>((1 - error) * target[i] + sigma * random.NextNormal());
        }
      };
      items[item].norm = feedback.Norm(w + row * cols, count);
      items[item].loss = feedback.Round(w + row * cols, count, rounder);
    }
  });
  NoiseLoss sum;
  for (const NoiseLoss& item : items) {
    sum.loss += item.loss;
    sum.norm += item.norm;
  }
  return sum;
}

}  // namespace tq
