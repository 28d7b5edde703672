// Activations of ternary products with AVX2; the same results as the plain twin, bit for bit.
#include <immintrin.h>

#include "kernels/ternary_matmul/ternary_activations.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::ternary::avx2 {
namespace {

TQ_INLINE uint32_t Largest(__m256i values) {
  __m128i top = _mm_max_epu32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0x4e));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(top));
}

// Two vectors, for the latency of the maximum.
uint32_t LargestBits(const float* x, size_t n) {
  const __m256i magnitude = _mm256_set1_epi32(INT32_MAX);
  __m256i largest[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j : {0, 1}) {
      const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i + 8 * j));
      largest[j] = _mm256_max_epu32(largest[j], _mm256_and_si256(bits, magnitude));
    }
  }
  const uint32_t result = Largest(_mm256_max_epu32(largest[0], largest[1]));
  const uint32_t tail = reference::LargestBits(x + i, n - i);
  return tail > result ? tail : result;
}

TQ_INLINE __m256i Round8(const float* x, __m256 inverse) {
  return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
}

int32_t RoundAll(const float* x, size_t n, float inverse, int8_t* a) {
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i sums = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i low = _mm256_packs_epi32(Round8(x + i, factor), Round8(x + i + 8, factor));
    const __m256i high = _mm256_packs_epi32(Round8(x + i + 16, factor), Round8(x + i + 24, factor));
    const __m256i pairs = _mm256_add_epi16(low, high);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(a + i), bytes);
  }
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
  return _mm_cvtsi128_si32(sum) + reference::RoundAll(x + i, n - i, inverse, a + i);
}

}  // namespace

ActivationRow Quantize(const float* x, size_t n, int8_t* a) {
  const uint32_t bits = LargestBits(x, n);
  if (bits >= kInfinityBits) {
    __builtin_memset(a, 0, n);
    return kNotFinite;
  }
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof(largest));
  const ActivationScale scale = ScaleOf(largest);
  return {scale.scale, RoundAll(x, n, scale.inverse, a)};
}

}  // namespace tq::ternary::avx2
