// Trellis kernels with AVX-512 as trellis_matmul_avx512.cc has them, with hashes made in halves of
// 16 bits.
#include <immintrin.h>

#include <utility>

#include "kernels/trellis_matmul/trellis_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::trellis::avx512mul16 {
namespace {

#include "kernels/trellis_matmul/simd_x86.h"
#include "kernels/trellis_matmul/simd_zmm.h"

struct Simd : SimdZmm {
  static constexpr ActivationForm GemvForm(int) { return ActivationForm::kHalves; }
};

#include "kernels/trellis_matmul/trellis_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_index_sequence<kNumMatmulCodes>());

}  // namespace tq::trellis::avx512mul16
