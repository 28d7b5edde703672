// Dispatch and the portable level of gemm_f32.h.
#include "kernels/gemm/gemm_f32.h"

#include <algorithm>

#include "kernels/gemm/gemm_f32_levels.h"
#include "kernels/isa.h"

namespace tq::gemm {
namespace reference {

void MatmulNt(const Args& args) {
  for (size_t i = 0; i < args.n; ++i) {
    const float* a = args.a + i * args.lda;
    for (size_t j = 0; j < args.m; ++j) {
      const float* b = args.b + j * args.ldb;
      float* c = args.c + i * args.ldc + j;
      float sum = args.accumulate ? *c : 0.0f;
      for (size_t p = 0; p < args.k; ++p) sum += a[p] * b[p];
      *c = sum;
    }
  }
}

void MatmulNn(const Args& args) {
  for (size_t i = 0; i < args.n; ++i) {
    const float* a = args.a + i * args.lda;
    float* c = args.c + i * args.ldc;
    if (!args.accumulate) std::fill_n(c, args.m, 0.0f);
    for (size_t p = 0; p < args.k; ++p) {
      const float* b = args.b + p * args.ldb;
      for (size_t j = 0; j < args.m; ++j) c[j] += a[p] * b[j];
    }
  }
}

void SyrkUpper(const SyrkArgs& args) {
  constexpr size_t kStrip = 64;  // columns whose chains run side by side
  for (size_t begin = 0; begin < args.n; begin += kSyrkBlock) {
    const size_t end = std::min(args.n, begin + kSyrkBlock);
    for (size_t i = args.row_begin; i < args.row_end; ++i) {
      for (size_t j = i; j < args.k; j += kStrip) {
        const size_t columns = std::min(kStrip, args.k - j);
        float sums[kStrip] = {};
        for (size_t p = begin; p < end; ++p) {
          const float* row = args.x + p * args.ldx;
          for (size_t t = 0; t < columns; ++t) sums[t] += row[i] * row[j + t];
        }
        float* h = args.h + i * args.ldh + j;
        for (size_t t = 0; t < columns; ++t) h[t] += sums[t];
      }
    }
  }
}

}  // namespace reference

void MatmulNt(const Args& args, Isa isa) { TQ_AT_LEVEL(isa, MatmulNt)(args); }
void MatmulNt(const Args& args) { MatmulNt(args, CurrentIsa()); }

void MatmulNn(const Args& args, Isa isa) { TQ_AT_LEVEL(isa, MatmulNn)(args); }
void MatmulNn(const Args& args) { MatmulNn(args, CurrentIsa()); }

void SyrkUpper(const SyrkArgs& args, Isa isa) { TQ_AT_LEVEL(isa, SyrkUpper)(args); }
void SyrkUpper(const SyrkArgs& args) { SyrkUpper(args, CurrentIsa()); }

}  // namespace tq::gemm
