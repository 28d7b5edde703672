// Grouped kernels with AVX-512 and VNNI: vpdpbusd, 16 sums in a register.
#include <immintrin.h>

#include <utility>

#include "kernels/grouped_matmul/grouped_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::grouped::avx512vnni {
namespace {

#include "kernels/grouped_matmul/simd_x86.h"
#include "kernels/grouped_matmul/simd_zmm.h"

struct Simd : SimdZmm {
  template <int kBits>
  static constexpr int Overread() {
    return Overread16(kBits);
  }
  template <int kBits>
  TQ_INLINE static void Unpack(const uint8_t* codes, Vec (&parts)[Parts(kBits)]) {
    if constexpr (kBits == 2) {
      UnpackQuarters(codes, parts);
    } else if constexpr (kBits == 4) {
      UnpackHalves(codes, parts);
    } else if constexpr (kBits == 8) {
      UnpackBytes(codes, parts);
    } else {
      parts[0] = Unpack16<kBits>(codes);
      parts[1] = Unpack16<kBits>(codes + 2 * kBits);
    }
  }
};

#include "kernels/grouped_matmul/grouped_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_integer_sequence<int, kNumWidths>());

}  // namespace tq::grouped::avx512vnni
