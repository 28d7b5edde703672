// The activation kernels with AVX2 and F16C; the same results as their plain twins, bit
// for bit: no fused multiply-add, and integer maxima and sums only.
#include <immintrin.h>

#include "kernels/trellis_matmul/activations.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::trellis::avx2 {
namespace {

TQ_INLINE __m256 LoadHalf(const uint16_t* half) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(half)));
}
TQ_INLINE __m128i Load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
TQ_INLINE void Store64(void* p, __m128i value) {
  _mm_storel_epi64(static_cast<__m128i*>(p), value);
}

void ScaleByHalf(const float* x, const uint16_t* half, size_t n, float* out) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), LoadHalf(half + i)));
  }
  for (; i < n; ++i) out[i] = x[i] * _cvtsh_ss(half[i]);
}

TQ_INLINE int32_t SumLanes(__m256i v) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
  return _mm_cvtsi128_si32(sum);
}

// The combined activations of 8 floats; a difference is the sum with the negated float,
// which rounds alike.
template <int kValues>
TQ_INLINE __m256 Combined(__m256 v) {
  if constexpr (kValues == 1) return v;
  const __m256 even = _mm256_moveldup_ps(v), odd = _mm256_movehdup_ps(v);
  const __m256 minus = _mm256_castsi256_ps(_mm256_set1_epi64x(int64_t{1} << 63));
  const __m256 pairs = _mm256_add_ps(even, _mm256_xor_ps(odd, minus));  // s0 d0 s1 d1
  if constexpr (kValues == 2) return pairs;
  const __m256 first = _mm256_permute_ps(pairs, 0x44), second = _mm256_permute_ps(pairs, 0xee);
  const __m256 upper =
      _mm256_castsi256_ps(_mm256_set_epi32(INT32_MIN, INT32_MIN, 0, 0, INT32_MIN, INT32_MIN, 0, 0));
  return _mm256_add_ps(first, _mm256_xor_ps(second, upper));
}

template <int kValues>
uint32_t CombineBlocks(const float* x, size_t n, float* out) {
  const __m256i magnitude = _mm256_set1_epi32(INT32_MAX);
  __m256i largest = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 a = Combined<kValues>(_mm256_loadu_ps(x + i));
    _mm256_storeu_ps(out + i, a);
    largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(a), magnitude));
  }
  __m128i top =
      _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0x4e));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0xb1));
  const auto result = static_cast<uint32_t>(_mm_cvtsi128_si32(top));
  const uint32_t tail = reference::kActivations.combine(kValues, x + i, n - i, out + i);
  return tail > result ? tail : result;
}

uint32_t Combine(int values, const float* x, size_t n, float* out) {
  switch (values) {
    case 1:
      return CombineBlocks<1>(x, n, out);
    case 2:
      return CombineBlocks<2>(x, n, out);
    default:
      return CombineBlocks<4>(x, n, out);
  }
}

ActivationSums Quantize(const float* a, size_t n, float inverse, int8_t* q) {
  const __m256 factor = _mm256_set1_ps(inverse);
  // Undoes the lane-wise order of the packs below.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
  __m256i plain = _mm256_setzero_si256(), absolute = plain;
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    __m256i v[4];
    for (size_t j = 0; j < 4; ++j) {
      v[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(a + i + 8 * j), factor));
    }
    const __m256i words = _mm256_packs_epi32(v[0], v[1]), more = _mm256_packs_epi32(v[2], v[3]);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words, more), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), bytes);
    plain = _mm256_add_epi32(plain, _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, bytes), ones16));
    absolute = _mm256_add_epi32(
        absolute, _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, _mm256_abs_epi8(bytes)), ones16));
  }
  ActivationSums sums = reference::kActivations.quantize(a + i, n - i, inverse, q + i);
  sums.plain += SumLanes(plain);
  sums.absolute += SumLanes(absolute);
  return sums;
}

TQ_INLINE void PutBytes(ActivationForm form, __m128i bytes, uint8_t* out) {
  if (form == ActivationForm::kBytes) {
    Store64(out, bytes);
    return;
  }
  const __m128i negative = _mm_cmpgt_epi8(_mm_setzero_si128(), bytes);
  Store64(out, _mm_abs_epi8(bytes));
  Store64(out + 8, _mm_xor_si128(negative, _mm_set1_epi8(static_cast<char>(0x80))));
}

// 16 activations at a time: the bytes of their groups by one shuffle each.
void LayOut(int values, ActivationForm form, const int8_t* q, size_t n, uint8_t* out,
            size_t stride) {
  const __m128i twice_low = _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m128i twice_high =
      _mm_setr_epi8(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
  // V = 4 in bytes: a0 a1 of each four, then a2 a3.
  const __m128i halves = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  // V = 2 and 4 in words: a0 of each, then a1, ...
  const __m128i by2 = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  const __m128i by4 = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (size_t i = 0; i + 16 <= n; i += 16) {
    __m128i v = Load128(q + i);
    if (form == ActivationForm::kWords) {
      if (values == 2) v = _mm_shuffle_epi8(v, by2);
      if (values == 4) v = _mm_shuffle_epi8(v, by4);
      const __m128i low = _mm_cvtepi8_epi16(v), high = _mm_cvtepi8_epi16(_mm_srli_si128(v, 8));
      Store64(out, low);
      Store64(out + stride, _mm_srli_si128(low, 8));
      Store64(out + 2 * stride, high);
      Store64(out + 3 * stride, _mm_srli_si128(high, 8));
      out += 4 * stride;
    } else if (values == 1) {
      const __m128i low = _mm_shuffle_epi8(v, twice_low), high = _mm_shuffle_epi8(v, twice_high);
      PutBytes(form, low, out);
      PutBytes(form, _mm_srli_si128(low, 8), out + stride);
      PutBytes(form, high, out + 2 * stride);
      PutBytes(form, _mm_srli_si128(high, 8), out + 3 * stride);
      out += 4 * stride;
    } else {
      if (values == 4) v = _mm_shuffle_epi8(v, halves);
      PutBytes(form, v, out);
      PutBytes(form, _mm_srli_si128(v, 8), out + stride);
      out += 2 * stride;
    }
  }
}

void Finish(const int32_t* partial, size_t n, int32_t factor, int32_t bias, float scale, float* y) {
  const __m256i factors = _mm256_set1_epi32(factor), biases = _mm256_set1_epi32(bias);
  const __m256 scales = _mm256_set1_ps(scale);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const auto* at = reinterpret_cast<const __m256i*>(partial + 2 * i);
    const __m256i pairs = _mm256_hadd_epi32(_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1));
    const __m256i sums = _mm256_permute4x64_epi64(pairs, 0xd8);
    const __m256i centred = _mm256_add_epi32(_mm256_mullo_epi32(sums, factors), biases);
    _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_cvtepi32_ps(centred), scales));
  }
  reference::kActivations.finish(partial + 2 * i, n - i, factor, bias, scale, y + i);
}

}  // namespace

constinit const ActivationKernels kActivations = {ScaleByHalf, Combine, Quantize, LayOut, Finish};

}  // namespace tq::trellis::avx2
