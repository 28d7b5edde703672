// Sixteen floats in one AVX-512 register: the vocabulary in which the float kernels
// (gemm, transformer) are written once for all levels; simd_avx2.h is its twin and gives
// the same bits operation by operation. Only for files compiled with the AVX-512 flags;
// everything has internal linkage.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 takes the deliberately undefined operands inside its own intrinsics for a mistake
// (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>

namespace tq::simd {
namespace {

struct Vec {
  __m512 v;
};

inline __mmask16 FirstLanes(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline Vec Zero() { return {_mm512_setzero_ps()}; }
inline Vec Set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
// The first n <= 16 values, zeros after them; touches no byte beyond.
inline Vec LoadFirst(const float* p, size_t n) { return {_mm512_maskz_loadu_ps(FirstLanes(n), p)}; }
inline void Store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void StoreFirst(float* p, size_t n, Vec a) { _mm512_mask_storeu_ps(p, FirstLanes(n), a.v); }

inline Vec Add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec Sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec Mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec Div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
// a * b + c and c - a * b with one rounding.
inline Vec Fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec Fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
// Lane-wise; b where either is NaN.
inline Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec Min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
// To the nearest integer, ties to even.
inline Vec RoundToInteger(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n for an integer |n| <= 160, rounded once.
inline Vec ScaleByPowerOf2(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
// a where lane index < n, else b.
inline Vec SelectFirst(size_t n, Vec a, Vec b) {
  return {_mm512_mask_blend_ps(FirstLanes(n), b.v, a.v)};
}

// Sums of all lanes, folding 16 -> 8 -> 4 -> 2 -> 1 (lane i with lane i + half).
inline float Sum(Vec a) {
  const __m256 h8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 h4 = _mm_add_ps(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
  const __m128 h2 = _mm_add_ps(h4, _mm_movehl_ps(h4, h4));
  return _mm_cvtss_f32(_mm_add_ss(h2, _mm_movehdup_ps(h2)));
}
inline float MaxLane(Vec a) {
  const __m256 h8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 h4 = _mm_max_ps(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
  const __m128 h2 = _mm_max_ps(h4, _mm_movehl_ps(h4, h4));
  return _mm_cvtss_f32(_mm_max_ss(h2, _mm_movehdup_ps(h2)));
}

// Bit i: lane i of a equals that of b.
inline uint32_t EqualLanes(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }

// Lane i: the sum of r[i]'s lanes, folded as Sum() does.
inline Vec SumRows(const Vec (&r)[16]) {
  __m512 t[8], u[4];
  // The order of rows below leaves the sums in natural order.
  constexpr int kRow[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  for (int i = 0; i < 8; ++i) {
    const __m512 a = r[kRow[2 * i]].v, b = r[kRow[2 * i + 1]].v;
    t[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 a = t[2 * i], b = t[2 * i + 1];
    u[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  }
  const __m512 x =
      _mm512_add_ps(_mm512_shuffle_ps(u[0], u[1], 0x44), _mm512_shuffle_ps(u[0], u[1], 0xEE));
  const __m512 y =
      _mm512_add_ps(_mm512_shuffle_ps(u[2], u[3], 0x44), _mm512_shuffle_ps(u[2], u[3], 0xEE));
  return {_mm512_add_ps(_mm512_shuffle_ps(x, y, 0x88), _mm512_shuffle_ps(x, y, 0xDD))};
}

// IEEE half and bfloat16; to half rounds to nearest even.
inline Vec LoadHalf(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec LoadHalfFirst(const uint16_t* p, size_t n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FirstLanes(n), p))};
}
inline void StoreHalfFirst(uint16_t* p, size_t n, Vec a) {
  _mm256_mask_storeu_epi16(p, FirstLanes(n),
                           _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec LoadBFloat16First(const uint16_t* p, size_t n) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

inline float HalfToFloatOne(uint16_t half) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

// Sixteen codes of `bits` bits out of 16 bytes: bytes[4 i], bytes[4 i + 1] and shift[i] are
// where code i stands (grouped_codes-inl.h).
inline Vec CodesToFloat(const uint8_t* codes, const uint8_t* bytes, const int32_t* shift,
                        int bits) {
  const __m512i all =
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m512i words = _mm512_shuffle_epi8(all, _mm512_load_si512(bytes));
  const __m512i shifted = _mm512_srlv_epi32(words, _mm512_load_si512(shift));
  return {_mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32((1 << bits) - 1)))};
}

// r[i] lane j <- r[j] lane i.
inline void Transpose16(Vec (&r)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 4) {
    // Within 128-bit lanes: 4 x 4 blocks.
    const __m512 a = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    const __m512 b = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
    const __m512 c = _mm512_unpacklo_ps(r[i + 2].v, r[i + 3].v);
    const __m512 d = _mm512_unpackhi_ps(r[i + 2].v, r[i + 3].v);
    t[i] = _mm512_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm512_shuffle_ps(a, c, 0xEE);
    t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm512_shuffle_ps(b, d, 0xEE);
  }
  for (int j = 0; j < 4; ++j) {
    // t[4 q + j] holds columns j, j + 4, j + 8, j + 12 of rows 4 q .. 4 q + 3.
    const __m512 a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xDD);
    const __m512 c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xDD);
    r[j].v = _mm512_shuffle_f32x4(a, c, 0x88);
    r[8 + j].v = _mm512_shuffle_f32x4(a, c, 0xDD);
    r[4 + j].v = _mm512_shuffle_f32x4(b, d, 0x88);
    r[12 + j].v = _mm512_shuffle_f32x4(b, d, 0xDD);
  }
}

// Sixteen doubles, lane for lane.
struct VecD {
  __m512d a, b;
};
inline VecD ToDouble(Vec x) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(x.v)),
          _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1))};
}
inline VecD Set1D(double x) { return {_mm512_set1_pd(x), _mm512_set1_pd(x)}; }
inline VecD Add(VecD x, VecD y) { return {_mm512_add_pd(x.a, y.a), _mm512_add_pd(x.b, y.b)}; }
inline VecD Sub(VecD x, VecD y) { return {_mm512_sub_pd(x.a, y.a), _mm512_sub_pd(x.b, y.b)}; }
inline VecD Mul(VecD x, VecD y) { return {_mm512_mul_pd(x.a, y.a), _mm512_mul_pd(x.b, y.b)}; }
inline VecD Fma(VecD x, VecD y, VecD z) {
  return {_mm512_fmadd_pd(x.a, y.a, z.a), _mm512_fmadd_pd(x.b, y.b, z.b)};
}
// y where either is NaN.
inline VecD Max(VecD x, VecD y) { return {_mm512_max_pd(x.a, y.a), _mm512_max_pd(x.b, y.b)}; }
inline VecD RoundToInteger(VecD x) {
  return {_mm512_roundscale_pd(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm512_roundscale_pd(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// x * 2^n for integers -1022 <= n <= 1023.
inline VecD ScaleByPowerOf2(VecD x, VecD n) {
  return {_mm512_scalef_pd(x.a, n.a), _mm512_scalef_pd(x.b, n.b)};
}
// 0 where x < limit, else y (also where x is NaN).
inline VecD ZeroBelow(VecD x, double limit, VecD y) {
  const __m512d bound = _mm512_set1_pd(limit);
  return {_mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x.a, bound, _CMP_NLT_UQ), y.a),
          _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x.b, bound, _CMP_NLT_UQ), y.b)};
}
inline double Sum(VecD x) {
  alignas(64) double part[8];
  _mm512_store_pd(part, _mm512_add_pd(x.a, x.b));
  for (int half = 4; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  }
  return part[0];
}

}  // namespace
}  // namespace tq::simd
