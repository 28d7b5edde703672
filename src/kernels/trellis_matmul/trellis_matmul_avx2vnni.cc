// Trellis kernels with AVX-VNNI: vpdpbusd on the hash bytes, 256 bits at a time.
#include <immintrin.h>

#include <utility>

#include "kernels/trellis_matmul/trellis_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::trellis::avx2vnni {
namespace {

#include "kernels/trellis_matmul/simd_ymm.h"

struct Simd : SimdYmm {
  // 2 x 5 sums, 4 operands, 1 activation: 15 of 16 registers.
  static constexpr int kPanelRows = 5;
  static constexpr int kMultiplyVecs = 2;
  template <int kValues>
  static constexpr ActivationForm kGemvForm = ActivationForm::kBytes;
  // A sum of four bytes needs one word product instead of two of bytes.
  template <int kValues>
  static constexpr ActivationForm kPanelForm =
      kValues == 1 ? ActivationForm::kWords : ActivationForm::kBytes;

  TQ_INLINE static Vec LoadBytes(const uint8_t* group) { return Broadcast(group); }
  TQ_INLINE static Vec DotBytes(Vec sum, Vec bytes, Vec a) {
    return _mm256_dpbusd_avx_epi32(sum, bytes, a);
  }
  TQ_INLINE static Vec DotWords(Vec sum, Vec words, Vec a) {
    return _mm256_dpwssd_avx_epi32(sum, words, a);
  }
};

#include "kernels/trellis_matmul/trellis_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_index_sequence<kNumMatmulCodes>());

}  // namespace tq::trellis::avx2vnni
