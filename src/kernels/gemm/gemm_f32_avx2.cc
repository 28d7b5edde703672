// gemm_f32.h and grouped_codes.h on AVX2.
#include "kernels/gemm/simd_avx2.h"

namespace tq::gemm {
namespace {
// 12 accumulators (a Vec is two registers), 2 of b and one of a, of 16.
constexpr int kTileRows = 6, kTileVecs = 1;
}  // namespace
}  // namespace tq::gemm

#include "kernels/gemm/gemm_f32-inl.h"
#include "kernels/gemm/grouped_codes-inl.h"

namespace tq::gemm::avx2 {

void MatmulNt(const Args& args) { Matmul<true>(args); }
void MatmulNn(const Args& args) { Matmul<false>(args); }
void SyrkUpper(const SyrkArgs& args) { Syrk(args); }
void DecodeGroupedRow(const GroupedRow& row, float* out) { DecodeRow(row, out); }

}  // namespace tq::gemm::avx2
