// The levels behind gemm_f32.h and grouped_codes.h.
#pragma once

#include "kernels/gemm/gemm_f32.h"
#include "kernels/gemm/grouped_codes.h"

namespace tq::gemm {

namespace reference {
void MatmulNt(const Args& args);
void MatmulNn(const Args& args);
void SyrkUpper(const SyrkArgs& args);
void DecodeGroupedRow(const GroupedRow& row, float* out);
}  // namespace reference

namespace avx2 {
void MatmulNt(const Args& args);
void MatmulNn(const Args& args);
void SyrkUpper(const SyrkArgs& args);
void DecodeGroupedRow(const GroupedRow& row, float* out);
}  // namespace avx2

namespace avx512 {
void MatmulNt(const Args& args);
void MatmulNn(const Args& args);
void SyrkUpper(const SyrkArgs& args);
void DecodeGroupedRow(const GroupedRow& row, float* out);
}  // namespace avx512

}  // namespace tq::gemm
