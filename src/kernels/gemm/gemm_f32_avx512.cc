// gemm_f32.h and grouped_codes.h on AVX-512.
#include "kernels/gemm/simd_avx512.h"

namespace tq::gemm {
namespace {
// 24 accumulators, 3 registers of b and one of a, of 32.
constexpr int kTileRows = 8, kTileVecs = 3;
}  // namespace
}  // namespace tq::gemm

#include "kernels/gemm/gemm_f32-inl.h"
#include "kernels/gemm/grouped_codes-inl.h"

namespace tq::gemm::avx512 {

void MatmulNt(const Args& args) { Matmul<true>(args); }
void MatmulNn(const Args& args) { Matmul<false>(args); }
void SyrkUpper(const SyrkArgs& args) { Syrk(args); }
void DecodeGroupedRow(const GroupedRow& row, float* out) { DecodeRow(row, out); }

}  // namespace tq::gemm::avx512
