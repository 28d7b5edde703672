#include "kernels/isa.h"

#include <cstdlib>
#include <string>

#if TQ_ARM64
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace tq {
namespace {

#if TQ_X86
// A bit of EAX or ECX of a CPUID leaf, for what __builtin_cpu_supports does not know in
// every compiler: AVX-VNNI in g++ 12, F16C in clang 14.
struct Cpuid {
  unsigned eax = 0, ecx = 0;
  Cpuid(unsigned leaf, unsigned subleaf) {
    unsigned ebx = 0, edx = 0;
    __asm__ volatile("cpuid"
                     : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx)
                     : "a"(leaf), "c"(subleaf));
  }
};
bool CpuHasAvxVnni() { return (Cpuid(7, 1).eax >> 4) & 1; }
bool CpuHasF16c() { return (Cpuid(1, 0).ecx >> 29) & 1; }
#endif

// Whether a supported level is one that this machine gains by.
bool Suits(Isa isa) {
#if TQ_X86
  if (isa == Isa::kAvx512Mul16) return __builtin_cpu_is("intel");
#endif
  (void)isa;
  return true;
}

Isa Best() {
  Isa best = Isa::kReference;
  for (Isa isa : kAllIsas) {
    if (IsaSupported(isa) && Suits(isa)) best = isa;
  }
  return best;
}

std::string SupportedNames() {
  std::string names;
  for (Isa isa : kAllIsas) {
    if (IsaSupported(isa)) names += (names.empty() ? "" : ", ") + std::string(IsaName(isa));
  }
  return names;
}

// The level that TQ_FORCE_ISA asks for; the best one when it is unset.
StatusOr<Isa> Requested() {
  const char* forced = std::getenv("TQ_FORCE_ISA");
  if (forced == nullptr || *forced == '\0') return Best();
  for (Isa isa : kAllIsas) {
    if (IsaName(isa) == forced && IsaSupported(isa)) return isa;
  }
  return InvalidArgument("TQ_FORCE_ISA={}: supported here are {}", forced, SupportedNames());
}

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return "reference";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx2Vnni:
      return "avx2vnni";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Mul16:
      return "avx512mul16";
    case Isa::kNeonDot:
      return "neondot";
  }
  return "unknown";
}

bool IsaSupported(Isa isa) {
  if (isa == Isa::kReference) return true;
#if TQ_X86
  // __builtin_cpu_supports also asks whether the operating system saves the registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && CpuHasF16c();
  const bool avx512vnni =
      avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni");
  switch (isa) {
    case Isa::kAvx2:
      return avx2;
    case Isa::kAvx2Vnni:
      return avx2 && CpuHasAvxVnni();
    case Isa::kAvx512Vnni:
      return avx512vnni;
    case Isa::kAvx512:
    case Isa::kAvx512Mul16:
      return avx512vnni && __builtin_cpu_supports("avx512vbmi") &&
             __builtin_cpu_supports("avx512vbmi2");
    default:
      return false;
  }
#elif TQ_ARM64
  return isa == Isa::kNeonDot && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return false;
#endif
}

Isa CurrentIsa() {
  static const Isa current = [] {
    StatusOr<Isa> requested = Requested();
    return requested.ok() ? *requested : Best();
  }();
  return current;
}

Status CheckIsa() { return Requested().status(); }

}  // namespace tq
