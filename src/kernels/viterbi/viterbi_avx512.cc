// AVX-512 VNNI level of the Viterbi search: 16 states per instruction, four tiles side by
// side so that table loads and the latency of the dot products are shared.
//
// GCC 12 takes the undefined operands inside its own intrinsics for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kernels/viterbi/viterbi.h"

namespace tq::viterbi::avx512 {
namespace {

using Vec = __m512i;
constexpr int kLanes = 16;
constexpr int kBatch = kAvx512Batch;

inline Vec Load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void Store(int32_t* p, Vec x) { _mm512_storeu_si512(p, x); }
inline Vec Set1(int32_t x) { return _mm512_set1_epi32(x); }
inline Vec Iota() {
  return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
inline Vec Add(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm512_sub_epi32(a, b); }
inline Vec Sub16(Vec a, Vec b) { return _mm512_sub_epi16(a, b); }
inline Vec Min(Vec a, Vec b) { return _mm512_min_epi32(a, b); }
inline Vec And(Vec a, Vec b) { return _mm512_and_si512(a, b); }
inline Vec Or(Vec a, Vec b) { return _mm512_or_si512(a, b); }
inline Vec ShiftLeft(Vec a, int n) { return _mm512_slli_epi32(a, n); }
inline Vec ShiftRight(Vec a, int n) { return _mm512_srli_epi32(a, n); }
inline Vec Select(Vec mask, Vec a, Vec b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xAC); }
inline Vec Dot(Vec sum, Vec a, Vec b) { return _mm512_dpwssd_epi32(sum, a, b); }
template <int kBits>
inline Vec Expand(const int32_t* p) {
  if constexpr (kBits == 2) {
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m128i four = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_permutexvar_epi32(index, _mm512_castsi128_si512(four));
  } else if constexpr (kBits == 3) {
    return _mm512_mask_set1_epi32(_mm512_set1_epi32(p[0]), 0xFF00, p[1]);
  } else {
    return _mm512_set1_epi32(p[0]);
  }
}
inline void StoreBytes(uint8_t* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
}

#include "kernels/viterbi/viterbi-inl.h"

}  // namespace

void FindPaths(const Args& args) { FindPathsHere(args); }

}  // namespace tq::viterbi::avx512
