// Dispatch and the reference level of the block Hadamard transform.
#include "kernels/hadamard/hadamard.h"

namespace tq {
namespace reference {
namespace {

// One block row of M: x [m, width] with rows `stride` apart, in place.
void MixRows(const HadamardArgs& args, float* block) {
  const uint64_t stride = uint64_t{1} << args.log2;
  float column[kMaxHadamardMatrix];
  for (uint64_t b = 0; b < stride; ++b) {
    for (int a = 0; a < args.m; ++a) column[a] = block[a * stride + b];
    for (int a = 0; a < args.m; ++a) {
      const float* row = args.matrix + a * args.m;
      float sum = row[0] * column[0];
      for (int c = 1; c < args.m; ++c) sum += row[c] * column[c];
      block[a * stride + b] = sum;
    }
  }
}

}  // namespace

void HadamardTransform(const HadamardArgs& args) {
  const uint64_t width = uint64_t{1} << args.log2;
  for (uint64_t half = 1; half < width; half *= 2) {
    for (uint64_t i = 0; i < args.n; i += 2 * half) {
      for (uint64_t j = i; j < i + half; ++j) {
        const float a = args.values[j], b = args.values[j + half];
        args.values[j] = a + b;
        args.values[j + half] = a - b;
      }
    }
  }
  if (args.m > 1) {
    const uint64_t order = width * args.m;
    for (uint64_t i = 0; i < args.n; i += order) MixRows(args, args.values + i);
  }
  for (uint64_t i = 0; i < args.n; ++i) args.values[i] *= args.scale;
}

}  // namespace reference

void HadamardTransform(const HadamardArgs& args, Isa isa) {
  TQ_AT_LEVEL(isa, HadamardTransform)(args);
}

}  // namespace tq
