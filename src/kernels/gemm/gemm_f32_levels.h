// The levels behind gemm_f32.h.
#pragma once

#include "kernels/gemm/gemm_f32.h"

namespace tq::gemm {

namespace reference {
void MatmulNt(const Args& args);
void MatmulNn(const Args& args);
void SyrkUpper(const SyrkArgs& args);
}  // namespace reference

namespace avx2 {
void MatmulNt(const Args& args);
void MatmulNn(const Args& args);
void SyrkUpper(const SyrkArgs& args);
}  // namespace avx2

namespace avx512 {
void MatmulNt(const Args& args);
void MatmulNn(const Args& args);
void SyrkUpper(const SyrkArgs& args);
}  // namespace avx512

}  // namespace tq::gemm
