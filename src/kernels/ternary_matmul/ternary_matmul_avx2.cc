// Ternary kernels with AVX2: vpmaddubsw, whose sums of two products of u are at most 508, so that
// 64 of them fit into 16 bits.
#include <immintrin.h>

#include <utility>

#include "kernels/ternary_matmul/ternary_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::ternary::avx2 {
namespace {

#include "kernels/ternary_matmul/simd_ymm.h"

struct Simd : SimdYmm {
  static constexpr int kGemvVecs = 4;
  static constexpr bool kExactDots = false;
  static constexpr bool kSignedFractions = true;
  static constexpr int kBlockDots = 64;
  static constexpr int kCutShift[] = {0, 0, 0, 0};

  TQ_INLINE static Vec Dot(Vec sum, Vec bytes, Vec a) {
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes, a));
    // Keeps the additions in this order: GCC otherwise begins with all products, and has no
    // registers left for the sums.
    __asm__ volatile("" : "+x"(sum));
    return sum;
  }
  TQ_INLINE static Vec Total(Vec sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
  template <int P>
  TQ_INLINE static Vec Cut(Vec codes) {
    return Cut2Bits<P>(codes);
  }
  TQ_INLINE static Vec Fractions(Vec codes) { return FlipSigns(codes); }
  TQ_INLINE static Vec Digits(Vec s) { return SignedDigits(s); }
};

#include "kernels/ternary_matmul/ternary_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable();

}  // namespace tq::ternary::avx2
