// Activations of grouped products with AVX2; the same results as the plain twin, bit for bit.
#include <immintrin.h>

#include <cstring>
#include <limits>

#include "kernels/grouped_matmul/grouped_activations.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::grouped::avx2 {
namespace {

// The largest magnitude's bits, which as integers stand in the order of the floats, infinities and
// NaNs above.
TQ_INLINE uint32_t LargestBits(const __m256 (&x)[4]) {
  const __m256i magnitude = _mm256_set1_epi32(INT32_MAX);
  const auto bits = [&](__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), magnitude); };
  const __m256i all = _mm256_max_epu32(_mm256_max_epu32(bits(x[0]), bits(x[1])),
                                       _mm256_max_epu32(bits(x[2]), bits(x[3])));
  __m128i top = _mm_max_epu32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0x4e));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(top));
}

TQ_INLINE int Sum(__m256i words) {
  const __m256i pairs = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
  return _mm_cvtsi128_si32(sum);
}

}  // namespace

void Quantize(const float* x, size_t blocks, int8_t* a, float* scale, float* sum) {
  constexpr uint32_t kInfinityBits = 0x7f800000;
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (size_t b = 0; b < blocks; ++b, x += kBlockColumns, a += kBlockColumns) {
    const __m256 v[4] = {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8), _mm256_loadu_ps(x + 16),
                         _mm256_loadu_ps(x + 24)};
    const uint32_t bits = LargestBits(v);
    if (bits >= kInfinityBits) {
      std::memset(a, 0, kBlockColumns);
      scale[b] = std::numeric_limits<float>::quiet_NaN();
      sum[b] = 0;
      continue;
    }
    float largest;
    std::memcpy(&largest, &bits, sizeof(largest));
    const BlockScale block = ScaleOf(largest);
    const __m256 factor = _mm256_set1_ps(block.inverse);
    const auto round = [&](__m256 part) { return _mm256_cvtps_epi32(_mm256_mul_ps(part, factor)); };
    const __m256i low = _mm256_packs_epi32(round(v[0]), round(v[1]));
    const __m256i high = _mm256_packs_epi32(round(v[2]), round(v[3]));
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(a), bytes);
    scale[b] = block.scale;
    sum[b] = static_cast<float>(Sum(_mm256_add_epi16(low, high)));
  }
}

}  // namespace tq::grouped::avx2
