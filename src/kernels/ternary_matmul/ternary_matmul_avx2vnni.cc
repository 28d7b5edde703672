// Ternary kernels with AVX-VNNI: vpdpbusd, 256 bits at a time.
#include <immintrin.h>

#include <utility>

#include "kernels/ternary_matmul/ternary_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::ternary::avx2vnni {
namespace {

#include "kernels/ternary_matmul/simd_ymm.h"

struct Simd : SimdYmm {
  // 2 x 4 sums, 2 vectors of codes, 1 activation, and what is made of them.
  static constexpr int kGemvVecs = 2;
  static constexpr bool kExactDots = true;
  static constexpr bool kSignedFractions = false;
  static constexpr int kBlockDots = 256;  // 8 KiB of codes, which lie in L1 for the other vectors
  static constexpr int kCutShift[] = {0, 2, 4, 6};

  TQ_INLINE static Vec Dot(Vec sum, Vec bytes, Vec a) {
    sum = _mm256_dpbusd_avx_epi32(sum, bytes, a);
    // Keeps the dot products in this order: GCC otherwise begins with all activations, and
    // has no registers left for the sums.
    __asm__ volatile("" : "+x"(sum));
    return sum;
  }
  TQ_INLINE static Vec Total(Vec sum) { return sum; }
  template <int P>
  TQ_INLINE static Vec Cut(Vec codes) {
    return _mm256_and_si256(codes, _mm256_set1_epi8(static_cast<char>(3 << 2 * P)));
  }
  TQ_INLINE static Vec Fractions(Vec codes) { return codes; }
  TQ_INLINE static Vec Digits(Vec f) { return SignedDigits(FlipSigns(f)); }
};

#include "kernels/ternary_matmul/ternary_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable();

}  // namespace tq::ternary::avx2vnni
