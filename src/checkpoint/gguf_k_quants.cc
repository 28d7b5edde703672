#include "checkpoint/gguf_k_quants.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "checkpoint/scale_search.h"
#include "tensor/dtype.h"

namespace tq {
namespace {

// Q4_K: 8 sub-blocks of 32 values; scales and minima of 6 bits.
constexpr int kRuns = 8, kRunValues = 32, kRunLevels = 16, kRunTop = 63;
// Q6_K: 16 sub-blocks of 16 values; signed scales of 8 bits.
constexpr uint16_t kHalfSign = 0x8000;
constexpr int kParts = 16, kPartValues = 16, kPartLevels = 32;

struct RunCode {
  int scale = 0, minimum = 0;
  std::array<uint8_t, kRunValues> q{};
};

// The integers next to a real one, in [low, high].
struct Neighbours {
  Neighbours(float value, int low, int high)
      : first(std::clamp(static_cast<int>(std::lround(value)) - 1, low, high)),
        last(std::clamp(static_cast<int>(std::lround(value)) + 1, low, high)) {}
  int first, last;
};

float Ratio(float value, float step) { return step == 0 ? 0 : value / step; }

// A run's integers when the steps of scales and minima are given: those near the real fit that
// leave the least error.
RunCode RoundRun(const float* x, const AffineFit& fit, float d, float dmin) {
  const Neighbours scales(Ratio(fit.scale, d), 0, kRunTop);
  const Neighbours minima(Ratio(fit.minimum, dmin), 0, kRunTop);
  RunCode best, code;
  float best_error = -1;
  for (code.scale = scales.first; code.scale <= scales.last; ++code.scale) {
    for (code.minimum = minima.first; code.minimum <= minima.last; ++code.minimum) {
      const AffineFit rounded{d * static_cast<float>(code.scale),
                              dmin * static_cast<float>(code.minimum)};
      const float error = RoundAffine(x, kRunLevels, rounded, code.q.data());
      if (best_error < 0 || error < best_error) {
        best_error = error;
        best = code;
      }
    }
  }
  return best;
}

// 8 scales and 8 minima of 6 bits in 12 bytes. The first four of each lie in the low 6 bits of
// bytes 0-3 and 4-7; of the last four, the low 4 bits lie in bytes 8-11 (scale low nibble, minimum
// high nibble) and the high 2 bits on top of bytes 0-3 and 4-7.
void PackScales(const std::array<RunCode, kRuns>& runs, uint8_t* out) {
  for (int i = 0; i < 4; ++i) {
    const RunCode &a = runs[i], &b = runs[i + 4];
    out[i] = static_cast<uint8_t>(a.scale | (b.scale >> 4) << 6);
    out[i + 4] = static_cast<uint8_t>(a.minimum | (b.minimum >> 4) << 6);
    out[i + 8] = static_cast<uint8_t>((b.scale & 15) | (b.minimum & 15) << 4);
  }
}

// The integer near `real` that leaves the least error of x [16] at d, with its codes.
int RoundPart(const float* x, float real, float d, uint8_t* q) {
  const Neighbours scales(Ratio(real, d), -128, 127);
  std::array<uint8_t, kPartValues> codes;
  int best = 0;
  double best_error = -1;
  for (int scale = scales.first; scale <= scales.last; ++scale) {
    const float step = d * static_cast<float>(scale);
    RoundSymmetric(x, kPartValues, kPartLevels, step, codes.data());
    double error = 0;
    for (int i = 0; i < kPartValues; ++i) {
      const double off = double{step} * (codes[i] - kPartLevels) - x[i];
      error += off * off;
    }
    if (best_error < 0 || error < best_error) {
      best_error = error;
      best = scale;
      std::copy(codes.begin(), codes.end(), q);
    }
  }
  return best;
}

}  // namespace

void EncodeQ4_K(const float* x, uint8_t* block) {
  std::array<AffineFit, kRuns> fits;
  float scale = 0, minimum = 0;
  for (int r = 0; r < kRuns; ++r) {
    fits[r] = FitAffine(x + r * kRunValues, kRunLevels);
    scale = std::max(scale, fits[r].scale);
    minimum = std::max(minimum, fits[r].minimum);
  }
  const uint16_t d = HalfAtLeast(scale / kRunTop), dmin = HalfAtLeast(minimum / kRunTop);
  std::array<RunCode, kRuns> runs;
  for (int r = 0; r < kRuns; ++r) {
    runs[r] = RoundRun(x + r * kRunValues, fits[r], HalfToFloat(d), HalfToFloat(dmin));
  }
  StoreU16(d, block);
  StoreU16(dmin, block + 2);
  PackScales(runs, block + 4);
  for (int pair = 0; pair < kRuns / 2; ++pair) {
    for (int i = 0; i < kRunValues; ++i) {
      block[16 + pair * kRunValues + i] =
          static_cast<uint8_t>(runs[2 * pair].q[i] | runs[2 * pair + 1].q[i] << 4);
    }
  }
}

// Each half of 128 values takes 64 bytes of low bits and 32 of high bits; a high byte serves the
// values i, i + 32, i + 64 and i + 96 of its half, lowest bits first.
void EncodeQ6_K(const float* x, uint8_t* block) {
  std::array<float, kParts> fits;
  float largest = 0;
  for (int p = 0; p < kParts; ++p) {
    fits[p] = SymmetricScale(x + p * kPartValues, kPartValues, kPartLevels);
    if (std::abs(fits[p]) > std::abs(largest)) largest = fits[p];
  }
  // The largest takes the scale -128, or one above it.
  const uint16_t d =
      static_cast<uint16_t>(HalfAtLeast(std::abs(largest) / 128) | (largest > 0 ? kHalfSign : 0));
  std::array<uint8_t, kSuperBlock> q;
  for (int p = 0; p < kParts; ++p) {
    const int scale = RoundPart(x + p * kPartValues, fits[p], HalfToFloat(d), &q[p * kPartValues]);
    block[192 + p] = static_cast<uint8_t>(static_cast<int8_t>(scale));
  }
  StoreU16(d, block + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* codes = &q[half * 128];
    for (int i = 0; i < 64; ++i) {
      block[half * 64 + i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 64] & 15) << 4);
    }
    for (int i = 0; i < 32; ++i) {
      block[128 + half * 32 + i] =
          static_cast<uint8_t>(codes[i] >> 4 | (codes[i + 32] >> 4) << 2 |
                               (codes[i + 64] >> 4) << 4 | (codes[i + 96] >> 4) << 6);
    }
  }
}

}  // namespace tq
