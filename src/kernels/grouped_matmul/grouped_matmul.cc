// Dispatch: the kernels of a width at an instruction-set level.
#include "kernels/grouped_matmul/grouped_matmul.h"

namespace tq::grouped {
namespace {

const MatmulTable& TableOf([[maybe_unused]] Isa isa) {
#if TQ_X86
  switch (isa) {
    case Isa::kAvx2:
      return avx2::kMatmulTable;
    case Isa::kAvx2Vnni:
      return avx2vnni::kMatmulTable;
    case Isa::kAvx512Vnni:
      return avx512vnni::kMatmulTable;
    case Isa::kAvx512:
    case Isa::kAvx512Mul16:
      return avx512::kMatmulTable;
    default:
      break;
  }
#endif
  return reference::kMatmulTable;
}

}  // namespace

const MatmulKernels& FindMatmulKernels(Isa isa, int bits) {
  return TableOf(isa).kernels[bits - kMinBits];
}

}  // namespace tq::grouped
