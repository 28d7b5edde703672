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
TQ_INLINE void Store128(void* p, __m128i value) {
  _mm_storeu_si128(static_cast<__m128i*>(p), value);
}

void ScaleByHalf(const float* x, const uint16_t* half, size_t n, float* out) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), LoadHalf(half + i)));
  }
  for (; i < n; ++i) out[i] = x[i] * _cvtsh_ss(half[i]);
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

// 16 integers.
TQ_INLINE __m256i QuantizeWords(const float* a, __m256 factor) {
  const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(a), factor));
  const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(a + 8), factor));
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}

int64_t Quantize(const float* a, size_t n, float inverse, int16_t* q) {
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i words = QuantizeWords(a + i, factor);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), words);
    const __m256i pairs = _mm256_madd_epi16(words, ones);
    const __m128i fours =
        _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    sums = _mm256_add_epi64(sums, _mm256_cvtepi32_epi64(fours));
  }
  const __m128i half =
      _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  return _mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1) +
         reference::kActivations.quantize(a + i, n - i, inverse, q + i);
}

TQ_INLINE float Largest(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MAX));
  const auto abs = [&](__m256 v) { return _mm256_and_ps(v, magnitude); };
  const __m256 eight = _mm256_max_ps(_mm256_max_ps(abs(a), abs(b)), _mm256_max_ps(abs(c), abs(d)));
  __m128 top = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  top = _mm_max_ps(top, _mm_movehl_ps(top, top));
  return _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
}

// Weight 1 in lanes 0 and 1 of each 4 of V columns.
TQ_INLINE __m256i FirstLanes(int values) {
  const __m256i ones = _mm256_set1_epi16(1);
  if (values == 1) return _mm256_srli_epi64(_mm256_slli_epi64(ones, 32), 32);
  if (values == 2) return _mm256_unpacklo_epi64(ones, _mm256_setzero_si256());
  return _mm256_inserti128_si256(ones, _mm_setzero_si128(), 1);
}

// Sums of 32 integers of at most a byte, each in half of the lanes.
TQ_INLINE void SumLanes(__m256i lanes, __m256i first, __m256i second, int (&sums)[2]) {
  const __m256i others = _mm256_andnot_si256(lanes, _mm256_set1_epi16(1));
  const auto sum = [&](__m256i weights) {
    return _mm256_add_epi32(_mm256_madd_epi16(first, weights), _mm256_madd_epi16(second, weights));
  };
  const __m256i pairs = _mm256_hadd_epi32(sum(lanes), sum(others));
  const __m128i both =
      _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  const __m128i two = _mm_hadd_epi32(both, both);
  sums[0] = _mm_cvtsi128_si32(two);
  sums[1] = _mm_extract_epi32(two, 1);
}

double QuantizeBytes(int values, ActivationForm form, const float* a, size_t n, ScaleGroup* scales,
                     int16_t* q) {
  static_assert(kScaleColumns == 32);
  const __m256i lanes = FirstLanes(values);
  double bias = 0;
  for (size_t i = 0; i < n; i += kScaleColumns, ++scales) {
    const float largest = Largest(_mm256_loadu_ps(a + i), _mm256_loadu_ps(a + i + 8),
                                  _mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(a + i + 24));
    const ActivationScale scale = ScaleOf(largest, kMaxByteActivation);
    const __m256 factor = _mm256_set1_ps(scale.inverse);
    const __m256i first = QuantizeWords(a + i, factor), second = QuantizeWords(a + i + 16, factor);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), first);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i + 16), second);
    LaneSums sums;
    SumLanes(lanes, first, second, sums.all);
    if (form == ActivationForm::kMagnitudes) {
      const __m256i zero = _mm256_setzero_si256();
      SumLanes(lanes, _mm256_min_epi16(first, zero), _mm256_min_epi16(second, zero), sums.negative);
    }
    bias += SetGroup(values, form, scale.scale, sums, *scales);
  }
  return bias;
}

// Four groups of words: the halves of two vectors.
TQ_INLINE void PutWords(__m128i first, __m128i second, uint8_t* out, size_t stride) {
  Store64(out, first);
  Store64(out + stride, _mm_srli_si128(first, 8));
  Store64(out + 2 * stride, second);
  Store64(out + 3 * stride, _mm_srli_si128(second, 8));
}

template <int kValues>
void LayOutWords(const int16_t* q, size_t n, uint8_t* out, size_t stride) {
  // a0 of each lane, then a1, ...; of 4 lanes for V = 2, of 2 for V = 4.
  const __m128i order = kValues == 2
                            ? _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)
                            : _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
  for (size_t i = 0; i + 16 <= n; i += 16, out += 4 * stride) {
    __m128i first = Load128(q + i), second = Load128(q + i + 8);
    if constexpr (kValues != 1) {
      first = _mm_shuffle_epi8(first, order);
      second = _mm_shuffle_epi8(second, order);
    }
    if constexpr (kValues == 4) {
      const __m128i lanes01 = first;
      first = _mm_unpacklo_epi32(lanes01, second);
      second = _mm_unpackhi_epi32(lanes01, second);
    }
    PutWords(first, second, out, stride);
  }
}

// 16 columns: 4 groups of V = 1, 2 of V = 2 or one of V = 4.
template <int kValues, bool kMagnitudes>
void LayOutBytes(const int16_t* q, size_t n, uint8_t* out, size_t stride) {
  const __m128i order = kValues == 1 ? _mm_setr_epi8(0, 0, 0, 0, 2, 2, 2, 2, 1, 1, 1, 1, 3, 3, 3, 3)
                        : kValues == 2
                            ? _mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 2, 3, 2, 3, 6, 7, 6, 7)
                            : _mm_setr_epi8(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
  for (size_t i = 0; i + 16 <= n; i += 16) {
    const __m128i bytes = _mm_packs_epi16(Load128(q + i), Load128(q + i + 8));
    for (int8_t group = 0; group < 4 / kValues; ++group, out += stride) {
      const __m128i first = _mm_set1_epi8(static_cast<int8_t>(4 * kValues * group));
      const __m128i a = _mm_shuffle_epi8(bytes, _mm_add_epi8(order, first));
      Store128(out, kMagnitudes ? _mm_abs_epi8(a) : a);
      if constexpr (kMagnitudes) {
        const __m128i negative = _mm_cmpgt_epi8(_mm_setzero_si128(), a);
        Store128(out + 16, _mm_xor_si128(negative, _mm_set1_epi8(INT8_MIN)));
      }
    }
  }
}

// 16 columns: 4 groups of V = 1, 2 of the others.
template <int kValues>
void LayOutHalves(const int16_t* q, size_t n, uint8_t* out, size_t stride) {
  const __m128i order = kValues == 1 ? _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)
                        : kValues == 2
                            ? _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
                            : _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  for (size_t i = 0; i + 16 <= n; i += 16) {
    const __m128i bytes = _mm_packs_epi16(Load128(q + i), Load128(q + i + 8));
    for (int8_t first = 0; first < (kValues == 1 ? 16 : 8); first += 8, out += 2 * stride) {
      const __m128i a = _mm_shuffle_epi8(bytes, _mm_add_epi8(order, _mm_set1_epi8(first)));
      Store64(out, a);
      Store64(out + stride, _mm_srli_si128(a, 8));
    }
  }
}

template <int kValues>
void LayOutFor(ActivationForm form, const int16_t* q, size_t n, uint8_t* out, size_t stride) {
  if (form == ActivationForm::kWords) {
    LayOutWords<kValues>(q, n, out, stride);
  } else if (form == ActivationForm::kHalves) {
    LayOutHalves<kValues>(q, n, out, stride);
  } else if (form == ActivationForm::kMagnitudes) {
    LayOutBytes<kValues, true>(q, n, out, stride);
  } else {
    LayOutBytes<kValues, false>(q, n, out, stride);
  }
}

void LayOut(int values, ActivationForm form, const int16_t* q, size_t n, uint8_t* out,
            size_t stride) {
  if (values == 1) LayOutFor<1>(form, q, n, out, stride);
  if (values == 2) LayOutFor<2>(form, q, n, out, stride);
  if (values == 4) LayOutFor<4>(form, q, n, out, stride);
}

void Finish(const int64_t* sums, size_t n, double bias, double scale, float* y) {
  // An integer v within 2^51, added to the bits of 1.5 * 2^52, is the double 1.5 * 2^52 + v.
  const __m256d magic = _mm256_set1_pd(0x1.8p52);
  const __m256d biases = _mm256_set1_pd(bias), scales = _mm256_set1_pd(scale);
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const __m256i sum = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + i));
    const __m256i shifted = _mm256_add_epi64(sum, _mm256_castpd_si256(magic));
    const __m256d exact = _mm256_sub_pd(_mm256_castsi256_pd(shifted), magic);
    const __m256d product = _mm256_mul_pd(_mm256_add_pd(exact, biases), scales);
    _mm_storeu_ps(y + i, _mm256_cvtpd_ps(product));
  }
  reference::kActivations.finish(sums + i, n - i, bias, scale, y + i);
}

}  // namespace

constinit const ActivationKernels kActivations = {ScaleByHalf,   Combine, Quantize,
                                                  QuantizeBytes, LayOut,  Finish};

}  // namespace tq::trellis::avx2
