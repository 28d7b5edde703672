// Trellis kernels with AVX-512: 32 lanes in a register; vpdpbusd on the hash bytes for one row
// of x, vpdpwssd on words where many rows of x share the decode. VBMI2 cuts windows.
#include <immintrin.h>

#include <utility>

#include "kernels/trellis_matmul/trellis_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::trellis::avx512 {
namespace {

#include "kernels/trellis_matmul/simd_x86.h"
#include "kernels/trellis_matmul/simd_zmm.h"

struct Simd : SimdZmm {
  static constexpr ActivationForm GemvForm(int) { return ActivationForm::kBytes; }
};

#include "kernels/trellis_matmul/trellis_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_index_sequence<kNumMatmulCodes>());

}  // namespace tq::trellis::avx512
