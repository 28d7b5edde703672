// Products of dense float matrices: the linear layers of the unquantised model, the
// Hessian feedback of the quantiser and calibration Hessians.
//
// All matrices are row-major; ld* are the distances of rows in elements. Aliasing of
// inputs and outputs is not allowed. Scratch lives on the stack (at most 128 KiB).
//
// Every element of a product is one chain over p in ascending order,
//   s <- fma(a_p, b_p, s),
// so it depends only on its own row and column: a caller may split a product over n and m
// in any way, and hand the pieces to threads, without changing a bit. The levels AVX2 and
// AVX-512 give the same bits; the reference rounds products before it adds. Against exact
// arithmetic an element is wrong by at most (k + 1) 2^-23 sum_p |a_p b_p|.
#pragma once

#include <cstddef>

namespace tq {
enum class Isa;
}

namespace tq::gemm {

struct Args {
  size_t n = 0, m = 0, k = 0;  // c is [n, m], k terms a chain
  const float* a = nullptr;
  size_t lda = 0;
  const float* b = nullptr;
  size_t ldb = 0;
  float* c = nullptr;
  size_t ldc = 0;
  bool accumulate = false;  // chains start from c instead of 0
};

// c [n, m] (+)= a [n, k] b [m, k]^T: a linear layer; fast for any n, 1 included.
void MatmulNt(const Args& args);
void MatmulNt(const Args& args, Isa isa);
// c [n, m] (+)= a [n, k] b [k, m].
void MatmulNn(const Args& args);
void MatmulNn(const Args& args, Isa isa);

// Adds x^T x to the upper triangle of a symmetric matrix:
//   h[i, j] += sum_p x[p, i] x[p, j]   for row_begin <= i < row_end, i <= j < k.
// Chains of kSyrkBlock rows of x (as above), their sums added to h in turn: n rows cost
// n / kSyrkBlock roundings of h, not n.
struct SyrkArgs {
  size_t n = 0, k = 0;  // x is [n, k], h is [k, k]
  const float* x = nullptr;
  size_t ldx = 0;
  float* h = nullptr;
  size_t ldh = 0;
  size_t row_begin = 0, row_end = 0;  // rows of h, for callers that split the work
};
inline constexpr size_t kSyrkBlock = 192;
void SyrkUpper(const SyrkArgs& args);
void SyrkUpper(const SyrkArgs& args, Isa isa);

}  // namespace tq::gemm
