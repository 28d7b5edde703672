// Sixteen floats in two AVX2 registers: the twin of simd_avx512.h, with the same bits
// operation by operation. Only for files compiled with the AVX2 flags; everything has
// internal linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tq::simd {
namespace {

struct Vec {
  __m256 a, b;  // lanes 0..7 and 8..15
};

// All bits set in the lanes offset + i < n of eight.
inline __m256i FirstLanes(size_t n, int offset) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n) - offset),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Vec Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
// The first n <= 16 values, zeros after them; touches no byte beyond.
inline Vec LoadFirst(const float* p, size_t n) {
  return {_mm256_maskload_ps(p, FirstLanes(n, 0)), _mm256_maskload_ps(p + 8, FirstLanes(n, 8))};
}
inline void Store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline void StoreFirst(float* p, size_t n, Vec x) {
  _mm256_maskstore_ps(p, FirstLanes(n, 0), x.a);
  _mm256_maskstore_ps(p + 8, FirstLanes(n, 8), x.b);
}

inline Vec Add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec Sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec Mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec Div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
// x * y + z and z - x * y with one rounding.
inline Vec Fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Vec Fnma(Vec x, Vec y, Vec z) {
  return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
// Lane-wise; y where either is NaN.
inline Vec Max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Vec Min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
// To the nearest integer, ties to even.
inline Vec RoundToInteger(Vec x) {
  return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// Two exact powers of two whose product is 2^n: the first product is exact for a normal x
// near 1, so that only the second rounds.
inline __m256 ScaleByPowerOf2(__m256 x, __m256 n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i rest = _mm256_sub_epi32(whole, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i p = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i q = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(p)), _mm256_castsi256_ps(q));
}
// x * 2^n for 0.5 <= x <= 2 (or NaN) and an integer |n| <= 160, rounded once.
inline Vec ScaleByPowerOf2(Vec x, Vec n) {
  return {ScaleByPowerOf2(x.a, n.a), ScaleByPowerOf2(x.b, n.b)};
}
// x where lane index < n, else y.
inline Vec SelectFirst(size_t n, Vec x, Vec y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(FirstLanes(n, 0))),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(FirstLanes(n, 8)))};
}

// Sums of all lanes, folding 16 -> 8 -> 4 -> 2 -> 1 (lane i with lane i + half).
inline float Sum(Vec x) {
  const __m256 h8 = _mm256_add_ps(x.a, x.b);
  const __m128 h4 = _mm_add_ps(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
  const __m128 h2 = _mm_add_ps(h4, _mm_movehl_ps(h4, h4));
  return _mm_cvtss_f32(_mm_add_ss(h2, _mm_movehdup_ps(h2)));
}
inline float MaxLane(Vec x) {
  const __m256 h8 = _mm256_max_ps(x.a, x.b);
  const __m128 h4 = _mm_max_ps(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
  const __m128 h2 = _mm_max_ps(h4, _mm_movehl_ps(h4, h4));
  return _mm_cvtss_f32(_mm_max_ss(h2, _mm_movehdup_ps(h2)));
}

// Bit i: lane i of x equals that of y.
inline uint32_t EqualLanes(Vec x, Vec y) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));
  return static_cast<uint32_t>(low | high << 8);
}

// Lane i: the sum of r[i]'s lanes, folded as Sum() does.
inline __m256 SumRows8(const Vec* r) {
  __m256 t[4];
  for (int i = 0; i < 4; ++i) {
    const __m256 a = _mm256_add_ps(r[i].a, r[i].b), b = _mm256_add_ps(r[i + 4].a, r[i + 4].b);
    t[i] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }
  const __m256 x =
      _mm256_add_ps(_mm256_shuffle_ps(t[0], t[1], 0x44), _mm256_shuffle_ps(t[0], t[1], 0xEE));
  const __m256 y =
      _mm256_add_ps(_mm256_shuffle_ps(t[2], t[3], 0x44), _mm256_shuffle_ps(t[2], t[3], 0xEE));
  return _mm256_add_ps(_mm256_shuffle_ps(x, y, 0x88), _mm256_shuffle_ps(x, y, 0xDD));
}
inline Vec SumRows(const Vec (&r)[16]) { return {SumRows8(r), SumRows8(r + 8)}; }

// IEEE half and bfloat16; to half rounds to nearest even.
inline Vec LoadHalf(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline Vec LoadHalfFirst(const uint16_t* p, size_t n) {
  if (n == 16) return LoadHalf(p);
  uint16_t part[16] = {};
  std::memcpy(part, p, n * sizeof(uint16_t));
  return LoadHalf(part);
}
inline void StoreHalfFirst(uint16_t* p, size_t n, Vec x) {
  alignas(16) uint16_t part[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(part),
                  _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_store_si128(reinterpret_cast<__m128i*>(part + 8),
                  _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  std::memcpy(p, part, n * sizeof(uint16_t));
}
inline Vec LoadBFloat16First(const uint16_t* p, size_t n) {
  uint16_t part[16] = {};
  std::memcpy(part, p, n * sizeof(uint16_t));
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(part));
  const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(part + 8));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(low), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(high), 16))};
}

inline float HalfToFloatOne(uint16_t half) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

// Sixteen codes of `bits` bits out of 16 bytes: bytes[4 i], bytes[4 i + 1] and shift[i] are
// where code i stands (grouped_codes-inl.h).
inline Vec CodesToFloat(const uint8_t* codes, const uint8_t* bytes, const int32_t* shift,
                        int bits) {
  const __m256i all =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const auto half = [&](int first) {
    const auto* at = reinterpret_cast<const __m256i*>(bytes + 4 * first);
    const __m256i words = _mm256_shuffle_epi8(all, _mm256_load_si256(at));
    const __m256i shifted = _mm256_srlv_epi32(
        words, _mm256_load_si256(reinterpret_cast<const __m256i*>(shift + first)));
    return _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32((1 << bits) - 1)));
  };
  return {half(0), half(8)};
}

// r[i] lane j <- r[j] lane i.
inline void Transpose8(__m256 (&r)[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 4) {
    // Within 128-bit lanes: 4 x 4 blocks.
    const __m256 a = _mm256_unpacklo_ps(r[i], r[i + 1]);
    const __m256 b = _mm256_unpackhi_ps(r[i], r[i + 1]);
    const __m256 c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]);
    const __m256 d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
    t[i] = _mm256_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm256_shuffle_ps(a, c, 0xEE);
    t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm256_shuffle_ps(b, d, 0xEE);
  }
  for (int j = 0; j < 4; ++j) {
    r[j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x20);
    r[4 + j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x31);
  }
}
inline void Transpose16(Vec (&r)[16]) {
  // Four 8 x 8 blocks; those off the diagonal change places.
  __m256 block[4][8];
  for (int i = 0; i < 8; ++i) {
    block[0][i] = r[i].a;
    block[1][i] = r[i].b;
    block[2][i] = r[8 + i].a;
    block[3][i] = r[8 + i].b;
  }
  for (auto& part : block) Transpose8(part);
  for (int i = 0; i < 8; ++i) {
    r[i] = {block[0][i], block[2][i]};
    r[8 + i] = {block[1][i], block[3][i]};
  }
}

// Sixteen doubles, lane for lane.
struct VecD {
  __m256d r[4];
};
// f(i) for each of the four registers.
template <class F>
inline VecD EachRegister(const F& f) {
  return {{f(0), f(1), f(2), f(3)}};
}
inline VecD ToDouble(Vec x) {
  return {{_mm256_cvtps_pd(_mm256_castps256_ps128(x.a)),
           _mm256_cvtps_pd(_mm256_extractf128_ps(x.a, 1)),
           _mm256_cvtps_pd(_mm256_castps256_ps128(x.b)),
           _mm256_cvtps_pd(_mm256_extractf128_ps(x.b, 1))}};
}
inline VecD Set1D(double x) {
  return EachRegister([&](int) { return _mm256_set1_pd(x); });
}
inline VecD Add(VecD x, VecD y) {
  return EachRegister([&](int i) { return _mm256_add_pd(x.r[i], y.r[i]); });
}
inline VecD Sub(VecD x, VecD y) {
  return EachRegister([&](int i) { return _mm256_sub_pd(x.r[i], y.r[i]); });
}
inline VecD Mul(VecD x, VecD y) {
  return EachRegister([&](int i) { return _mm256_mul_pd(x.r[i], y.r[i]); });
}
inline VecD Fma(VecD x, VecD y, VecD z) {
  return EachRegister([&](int i) { return _mm256_fmadd_pd(x.r[i], y.r[i], z.r[i]); });
}
// y where either is NaN.
inline VecD Max(VecD x, VecD y) {
  return EachRegister([&](int i) { return _mm256_max_pd(x.r[i], y.r[i]); });
}
inline VecD RoundToInteger(VecD x) {
  return EachRegister([&](int i) {
    return _mm256_round_pd(x.r[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  });
}
// x * 2^n for integers -1022 <= n <= 1023.
inline VecD ScaleByPowerOf2(VecD x, VecD n) {
  return EachRegister([&](int i) {
    // n + 1023 comes to stand in the low bits of the significand; from there into the exponent.
    const __m256d biased = _mm256_add_pd(n.r[i], _mm256_set1_pd(0x1p52 + 1023));
    const __m256i power = _mm256_slli_epi64(_mm256_castpd_si256(biased), 52);
    return _mm256_mul_pd(x.r[i], _mm256_castsi256_pd(power));
  });
}
// 0 where x < limit, else y (also where x is NaN).
inline VecD ZeroBelow(VecD x, double limit, VecD y) {
  return EachRegister([&](int i) {
    const __m256d keep = _mm256_cmp_pd(x.r[i], _mm256_set1_pd(limit), _CMP_NLT_UQ);
    return _mm256_and_pd(keep, y.r[i]);
  });
}
inline double Sum(VecD x) {
  alignas(32) double part[8];
  _mm256_store_pd(part, _mm256_add_pd(x.r[0], x.r[2]));
  _mm256_store_pd(part + 4, _mm256_add_pd(x.r[1], x.r[3]));
  for (int half = 4; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  }
  return part[0];
}

}  // namespace
}  // namespace tq::simd
