// Grouped kernels with AVX2: vpmaddubsw, whose sums of two products stay in 16 bits where they fit.
#include <immintrin.h>

#include <utility>

#include "kernels/grouped_matmul/grouped_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::grouped::avx2 {
namespace {

#include "kernels/grouped_matmul/simd_x86.h"
#include "kernels/grouped_matmul/simd_ymm.h"

struct Simd : SimdYmm {
  // Whether sums of so many products of two fit into 16 bits.
  static constexpr bool Fits(int bits, int dots) {
    return dots * 2 * LargestCode(bits) * kMaxActivation <= INT16_MAX;
  }
  TQ_INLINE static Vec Widen(Vec words, int factor) {
    return _mm256_madd_epi16(words, Set16(factor));
  }

  template <int kBits, int kDots>
  TQ_INLINE static Vec Dot(Vec sum, Vec bytes, Vec a) {
    if constexpr (Fits(kBits, kDots)) {
      sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes, a));
    } else if constexpr (Fits(kBits, 1)) {
      sum = _mm256_add_epi32(sum, Widen(_mm256_maddubs_epi16(bytes, a), 1));
    } else {
      // 8 bits: the upper seven and the lowest apart.
      const Vec upper = And(ShiftRight16<1>(bytes), Set8(127)), lowest = And(bytes, Set8(1));
      sum = _mm256_add_epi32(sum, Widen(_mm256_maddubs_epi16(upper, a), 2));
      sum = _mm256_add_epi32(sum, Widen(_mm256_maddubs_epi16(lowest, a), 1));
    }
    // Keeps the additions in this order: GCC otherwise begins with all products, and has no
    // registers left for the sums.
    __asm__ volatile("" : "+x"(sum));
    return sum;
  }
  template <int kBits, int kDots>
  TQ_INLINE static Vec Total(Vec sum) {
    return Fits(kBits, kDots) ? Widen(sum, 1) : sum;
  }
};

#include "kernels/grouped_matmul/grouped_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_integer_sequence<int, kNumWidths>());

}  // namespace tq::grouped::avx2
