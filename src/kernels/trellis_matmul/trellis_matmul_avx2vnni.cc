// Trellis kernels with AVX-VNNI, 256 bits at a time: vpdpbusd on the hash bytes for one row of x,
// vpdpwssd on words where many rows of x share the decode.
#include <immintrin.h>

#include <utility>

#include "kernels/trellis_matmul/trellis_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::trellis::avx2vnni {
namespace {

#include "kernels/trellis_matmul/simd_x86.h"
#include "kernels/trellis_matmul/simd_ymm.h"

struct Simd : SimdYmm {
  // 2 x 6 sums, 2 operands, 1 activation: 15 of 16 registers.
  static constexpr int kPanelRows = 6;
  static constexpr int kMultiplyVecs = 2;
  static constexpr ActivationForm GemvForm(int) { return ActivationForm::kHalves; }

  TQ_INLINE static Vec DotBytes(Vec sum, Vec bytes, const uint8_t* a) {
    return _mm256_dpbusd_avx_epi32(sum, bytes, Broadcast(a));
  }
  TQ_INLINE static Vec DotWords(Vec sum, Vec words, Vec a) {
    sum = _mm256_dpwssd_avx_epi32(sum, words, a);
    // Keeps the dot products in this order: GCC otherwise begins with all activations, and
    // has no registers left for the sums.
    __asm__ volatile("" : "+x"(sum));
    return sum;
  }
};

#include "kernels/trellis_matmul/trellis_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_index_sequence<kNumMatmulCodes>());

}  // namespace tq::trellis::avx2vnni
