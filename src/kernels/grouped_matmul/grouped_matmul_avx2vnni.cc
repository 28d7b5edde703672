// Grouped kernels with AVX-VNNI: vpdpbusd, 256 bits at a time.
#include <immintrin.h>

#include <utility>

#include "kernels/grouped_matmul/grouped_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::grouped::avx2vnni {
namespace {

#include "kernels/grouped_matmul/simd_x86.h"
#include "kernels/grouped_matmul/simd_ymm.h"

struct Simd : SimdYmm {
  template <int kBits, int kDots>
  TQ_INLINE static Vec Dot(Vec sum, Vec bytes, Vec a) {
    sum = _mm256_dpbusd_avx_epi32(sum, bytes, a);
    // Keeps the dot products in this order: GCC otherwise begins with all activations, and has no
    // registers left for the sums.
    __asm__ volatile("" : "+x"(sum));
    return sum;
  }
  template <int kBits, int kDots>
  TQ_INLINE static Vec Total(Vec sum) {
    return sum;
  }
};

#include "kernels/grouped_matmul/grouped_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_integer_sequence<int, kNumWidths>());

}  // namespace tq::grouped::avx2vnni
