// Dispatch: the kernels of a code at an instruction-set level.
#include "kernels/trellis_matmul/trellis_matmul.h"

namespace tq::trellis {
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
      return avx512::kMatmulTable;
    case Isa::kAvx512Mul16:
      return avx512mul16::kMatmulTable;
    default:
      break;
  }
#elif TQ_ARM64
  if (isa == Isa::kNeonDot) return neondot::kMatmulTable;
#endif
  return reference::kMatmulTable;
}

}  // namespace

const MatmulKernels& FindMatmulKernels(Isa isa, Code code) {
  const MatmulTable& table = TableOf(isa);
  for (const MatmulKernels& kernels : table.kernels) {
    if (kernels.code == code) return kernels;
  }
  return table.kernels[0];  // unreachable for supported codes, which callers check
}

}  // namespace tq::trellis
