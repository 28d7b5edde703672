// Ternary kernels with AVX-512: vpdpbusd, 16 rows in a register.
#include <immintrin.h>

#include <utility>

#include "kernels/ternary_matmul/ternary_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::ternary::avx512vnni {
namespace {

// Masks of ones cost nothing: GCC 12 warns of uninitialised operands in the plain forms.
struct Simd {
  using Vec = __m512i;
  static constexpr int kVecBytes = 64;
  static constexpr int kGemvVecs = 2;
  // 2 x 12 sums, 2 operands, 1 activation: 27 of 32 registers.
  static constexpr int kPanelRows = 12;
  static constexpr int kMultiplyVecs = 2;
  static constexpr bool kExactDots = true;
  static constexpr bool kSignedFractions = false;
  static constexpr int kBlockDots = 4096;
  static constexpr int kCutShift[] = {0, 2, 4, 6};

  TQ_INLINE static Vec Load(const void* p) { return _mm512_loadu_si512(p); }
  TQ_INLINE static void Store(void* p, Vec v) { _mm512_storeu_si512(p, v); }
  TQ_INLINE static Vec Zero() { return _mm512_setzero_si512(); }
  TQ_INLINE static Vec Set32(int32_t v) { return _mm512_set1_epi32(v); }
  TQ_INLINE static Vec Add8(Vec a, Vec b) { return _mm512_add_epi8(a, b); }
  TQ_INLINE static Vec Add32(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
  TQ_INLINE static Vec Sub32(Vec a, Vec b) { return _mm512_sub_epi32(a, b); }
  template <int kShift>
  TQ_INLINE static Vec ShiftRight32(Vec v) {
    return _mm512_maskz_srai_epi32(0xffff, v, kShift);
  }
  TQ_INLINE static Vec Broadcast(const int8_t* a) {
    int32_t value;
    __builtin_memcpy(&value, a, sizeof(value));
    return _mm512_set1_epi32(value);
  }
  TQ_INLINE static Vec Dot(Vec sum, Vec bytes, Vec a) {
    sum = _mm512_dpbusd_epi32(sum, bytes, a);
    // Keeps the dot products in this order: GCC otherwise copies every sum before it adds.
    __asm__ volatile("" : "+v"(sum));
    return sum;
  }
  TQ_INLINE static Vec Total(Vec sum) { return sum; }
  template <int P>
  TQ_INLINE static Vec Cut(Vec codes) {
    return _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>(3 << 2 * P)));
  }
  template <int P>
  TQ_INLINE static Vec Cut2Bits(Vec codes) {
    const Vec shifted = P == 0 ? codes : _mm512_maskz_srli_epi16(UINT32_MAX, codes, 2 * P);
    return _mm512_and_si512(shifted, _mm512_set1_epi8(3));
  }
  TQ_INLINE static Vec Fractions(Vec codes) { return codes; }
  // 3 f >= 256 from f = 86 on, 512 from 171 on.
  TQ_INLINE static Vec Digits(Vec f) {
    const Vec one = _mm512_set1_epi8(1);
    const __mmask64 ones = _mm512_cmpge_epu8_mask(f, _mm512_set1_epi8(86));
    const __mmask64 twos = _mm512_cmpge_epu8_mask(f, _mm512_set1_epi8(static_cast<char>(171)));
    const Vec u = _mm512_maskz_mov_epi8(ones, one);
    return _mm512_mask_add_epi8(u, twos, u, one);
  }
};

#include "kernels/ternary_matmul/ternary_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable();

}  // namespace tq::ternary::avx512vnni
