// Grouped kernels with AVX-512, VNNI and VBMI: codes of any width cut out by vpmultishiftqb.
#include <immintrin.h>

#include <utility>

#include "kernels/grouped_matmul/grouped_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::grouped::avx512 {
namespace {

#include "kernels/grouped_matmul/simd_x86.h"
#include "kernels/grouped_matmul/simd_zmm.h"

// Where the bytes of a part's codes lie in a step of 4 blocks: 8 codes, which are kBits bytes, for
// every 64-bit lane. 3 bits: of 64 bytes; more: of two vectors, the second from block 2 on.
struct BytePlaces {
  alignas(64) uint8_t at[64];
};
constexpr BytePlaces PlacesOfPart(int bits, int part) {
  BytePlaces places = {};
  const int block_bytes = kBlockColumns * bits / 8;
  for (int i = 0; i < 64; ++i) {
    const int lane = i / 8, byte = i % 8;
    if (byte >= bits) continue;  // not looked at
    int at = lane / 2 * block_bytes + part * block_bytes / 2 + lane % 2 * bits + byte;
    if (bits != 3 && lane >= 4) at += 64 - 2 * block_bytes;
    places.at[i] = static_cast<uint8_t>(at);
  }
  return places;
}
template <int kBits>
constexpr BytePlaces kPlaces[] = {PlacesOfPart(kBits, 0), PlacesOfPart(kBits, 1)};

struct Simd : SimdZmm {
  template <int kBits>
  static constexpr int Overread() {
    if (kBits == 2 || kBits == 4 || kBits == 8) return 0;
    return kBits == 3 ? 16 : kVecBytes - 8 * kBits;
  }
  // Of bytes with 8 codes in each 64-bit lane, a code in each byte.
  template <int kBits>
  TQ_INLINE static Vec Cut(Vec lanes) {
    constexpr uint64_t kShifts = 0x0706050403020100 * kBits;
    const Vec bytes = _mm512_maskz_multishift_epi64_epi8(
        UINT64_MAX, _mm512_set1_epi64(static_cast<int64_t>(kShifts)), lanes);
    return And(bytes, Set8((1 << kBits) - 1));
  }
  template <int kBits>
  TQ_INLINE static void Unpack(const uint8_t* codes, Vec (&parts)[Parts(kBits)]) {
    if constexpr (kBits == 2) {
      UnpackQuarters(codes, parts);
    } else if constexpr (kBits == 4) {
      UnpackHalves(codes, parts);
    } else if constexpr (kBits == 8) {
      UnpackBytes(codes, parts);
    } else if constexpr (kBits == 3) {
      const Vec v = Load(codes);
      for (int p : {0, 1}) {
        parts[p] =
            Cut<kBits>(_mm512_maskz_permutexvar_epi8(UINT64_MAX, Load(kPlaces<kBits>[p].at), v));
      }
    } else {
      const Vec first = Load(codes), second = Load(codes + 8 * kBits);
      for (int p : {0, 1}) {
        parts[p] = Cut<kBits>(_mm512_permutex2var_epi8(first, Load(kPlaces<kBits>[p].at), second));
      }
    }
  }
};

#include "kernels/grouped_matmul/grouped_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_integer_sequence<int, kNumWidths>());

}  // namespace tq::grouped::avx512
