// AVX2 level of the block Hadamard transform.
#include <immintrin.h>

#include "kernels/hadamard/hadamard.h"

namespace tq::avx2 {
namespace {

using Vec = __m256;
constexpr int kLanes = 8;

inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec Set1(float x) { return _mm256_set1_ps(x); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }

// Lanes without bit h get x[i] + x[i + h], lanes with it x[i - h] - x[i].
template <int h>
inline Vec Butterfly(Vec x) {
  Vec swapped;
  if constexpr (h == 1) swapped = _mm256_permute_ps(x, 0xB1);
  if constexpr (h == 2) swapped = _mm256_permute_ps(x, 0x4E);
  if constexpr (h == 4) swapped = _mm256_permute2f128_ps(x, x, 0x01);
  constexpr int kHigh = h == 1 ? 0xAA : h == 2 ? 0xCC : 0xF0;
  return _mm256_blend_ps(_mm256_add_ps(x, swapped), _mm256_sub_ps(swapped, x), kHigh);
}

#include "kernels/hadamard/hadamard-inl.h"

}  // namespace

void HadamardTransform(const HadamardArgs& args) {
  const uint64_t width = uint64_t{1} << args.log2;
  const uint64_t order = width * args.m;
  // Whole vectors of whole blocks; what is left (small orders only) goes to the reference.
  uint64_t n = args.n;
  if (args.m > 1 && width < kLanes) n = 0;
  if (n % kLanes != 0) n -= n % kLanes;  // order divides kLanes here
  Sylvester(args.values, n, width, args.m == 1, args.scale);
  if (args.m > 1) {
    for (uint64_t i = 0; i < n; i += order) {
      for (uint64_t b = 0; b < width; b += kLanes) {
        MixVectors(args.values + i + b, width, args.m, args.matrix, args.scale);
      }
    }
  }
  if (n < args.n) {
    HadamardArgs rest = args;
    rest.values += n;
    rest.n -= n;
    reference::HadamardTransform(rest);
  }
}

}  // namespace tq::avx2
