// AVX-512 level of the block Hadamard transform.
// GCC 12 takes the undefined operands inside its own intrinsics for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kernels/hadamard/hadamard.h"

namespace tq::avx512 {
namespace {

using Vec = __m512;
constexpr int kLanes = 16;

inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec Set1(float x) { return _mm512_set1_ps(x); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }

// Lanes without bit h get x[i] + x[i + h], lanes with it x[i - h] - x[i].
template <int h>
inline Vec Butterfly(Vec x) {
  Vec swapped;
  if constexpr (h == 1) swapped = _mm512_permute_ps(x, 0xB1);
  if constexpr (h == 2) swapped = _mm512_permute_ps(x, 0x4E);
  if constexpr (h == 4) swapped = _mm512_shuffle_f32x4(x, x, 0xB1);
  if constexpr (h == 8) swapped = _mm512_shuffle_f32x4(x, x, 0x4E);
  constexpr __mmask16 kHigh = h == 1 ? 0xAAAA : h == 2 ? 0xCCCC : h == 4 ? 0xF0F0 : 0xFF00;
  return _mm512_mask_sub_ps(_mm512_add_ps(x, swapped), kHigh, swapped, x);
}

#include "kernels/hadamard/hadamard-inl.h"

}  // namespace

void HadamardTransform(const HadamardArgs& args) {
  const uint64_t width = uint64_t{1} << args.log2;
  const uint64_t order = width * args.m;
  // Narrow blocks (96 = 12 * 8 of a model with 576 channels) fill half a register.
  if (args.m > 1 && width < kLanes) return avx2::HadamardTransform(args);
  const uint64_t n = args.n - args.n % kLanes;  // all of it unless order divides kLanes
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

}  // namespace tq::avx512
