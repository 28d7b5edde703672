// Instruction-set levels and the choice among them. Instruction-set code lives only
// in per-ISA files with their own flags and namespace; dispatch happens once, at the
// operation's boundary.
#pragma once

#include <string_view>

#include "base/status.h"

namespace tq {

enum class Isa {
  kReference,   // portable C++: always there, the twin that every other level is tested against
  kAvx2,        // x86-64-v3
  kAvx2Vnni,    // x86-64-v3 and AVX-VNNI
  kAvx512Vnni,  // x86-64-v4 with VNNI (Cascade Lake)
  kAvx512,      // that, VBMI and VBMI2 (Ice Lake, Zen 4 and later)
  // The same, with no 32-bit products: VPMULLD takes two slots on Intel's cores, one on AMD's.
  kAvx512Mul16,
  kNeonDot,  // AArch64 with DotProd (ARMv8.2 and later)
};
// All, by rising preference where they suit the machine.
inline constexpr Isa kAllIsas[] = {Isa::kReference,  Isa::kAvx2,   Isa::kAvx2Vnni,
                                   Isa::kAvx512Vnni, Isa::kAvx512, Isa::kAvx512Mul16,
                                   Isa::kNeonDot};
// What stands for a level where only products with packed weights have kernels for it.
constexpr Isa CommonIsa(Isa isa) {
  if (isa == Isa::kAvx512Vnni) return Isa::kAvx2;
  if (isa == Isa::kAvx512Mul16) return Isa::kAvx512;
  return isa == Isa::kNeonDot ? Isa::kReference : isa;
}
// The function or table `name` of a family that has the levels reference, avx2 and avx512, at the
// common level of `isa`: a pointer. For use where these namespaces are seen.
#if TQ_X86
#define TQ_AT_LEVEL(isa, name)                            \
  (CommonIsa(isa) == Isa::kAvx512      ? &avx512::name    \
   : CommonIsa(isa) == Isa::kReference ? &reference::name \
                                       : &avx2::name)
#else
#define TQ_AT_LEVEL(isa, name) (static_cast<void>(isa), &reference::name)
#endif

std::string_view IsaName(Isa isa);  // "reference", "avx2", "avx2vnni", ...
// Whether this machine and this build can run `isa`.
bool IsaSupported(Isa isa);
// The level in force: TQ_FORCE_ISA if set and supported, else the best supported.
// A bad TQ_FORCE_ISA is reported by CheckIsa(), which programs call first.
Isa CurrentIsa();
Status CheckIsa();

}  // namespace tq
