// Dispatch: the kernels of a packing at an instruction-set level.
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace tq::ternary {
namespace {

const MatmulTable& TableOf([[maybe_unused]] Isa isa) {
#if TQ_X86
  switch (isa) {
    case Isa::kAvx2:
      return avx2::kMatmulTable;
    case Isa::kAvx2Vnni:
      return avx2vnni::kMatmulTable;
    case Isa::kAvx512Vnni:
    case Isa::kAvx512:  // no permutation or shift of VBMI saves an operation here
    case Isa::kAvx512Mul16:
      return avx512vnni::kMatmulTable;
    default:
      break;
  }
#elif TQ_ARM64
  if (isa == Isa::kNeonDot) return neondot::kMatmulTable;
#endif
  return reference::kMatmulTable;
}

}  // namespace

const MatmulKernels& FindMatmulKernels(Isa isa, Packing packing) {
  return TableOf(isa).kernels[static_cast<int>(packing)];
}

}  // namespace tq::ternary
