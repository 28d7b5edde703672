// Block Hadamard transforms. With order = m * 2^k and i = a * 2^k + b inside a block,
//
//   y[a * 2^k + b] = scale * sum_{a', b'} M[a, a'] * S[b, b'] * x[a' * 2^k + b']
//
// M [m, m] is a given matrix of +1 and -1, S the Sylvester matrix of order 2^k.
// Every level adds in the same order: the butterflies of S with strides 1, 2, 4, ...,
// then the rows of M from a' = 0 up, then the scale. All levels therefore give the
// same bits (a product by +-1 is exact, so fused multiply-adds change nothing).
#pragma once

#include <cstdint>

#include "kernels/isa.h"

namespace tq {

struct HadamardArgs {
  float* values;        // [n], transformed in place
  uint64_t n;           // a multiple of the block m << log2
  int m;                // order of `matrix`: 1 (matrix unused) to kMaxHadamardMatrix
  int log2;             // k
  const float* matrix;  // [m, m], entries +1 and -1, row-major
  float scale;
};

inline constexpr int kMaxHadamardMatrix = 36;

void HadamardTransform(const HadamardArgs& args, Isa isa);

namespace reference {
void HadamardTransform(const HadamardArgs& args);
}
#if TQ_X86
namespace avx2 {
void HadamardTransform(const HadamardArgs& args);
}
namespace avx512 {
void HadamardTransform(const HadamardArgs& args);
}
#endif

}  // namespace tq
