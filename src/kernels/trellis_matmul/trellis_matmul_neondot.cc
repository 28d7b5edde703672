// Trellis kernels with NEON and its dot product (ARMv8.2 DotProd): 8 lanes in a register; sdot on
// the hash bytes, made signed, for one row of x, widening products of words where many rows of x
// share the decode.
#include <arm_neon.h>

#include <utility>

#include "kernels/trellis_matmul/trellis_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::trellis::neondot {
namespace {

// A plane of 32 lanes is four vectors.
struct Simd {
  using Vec = uint8x16_t;
  static constexpr int kParts = 4;
  // 2 x 12 sums, 2 operands, 1 activation: 27 of 32 registers.
  static constexpr int kPanelRows = 12;
  static constexpr int kMultiplyVecs = 2;
  static constexpr ActivationForm GemvForm(int) { return ActivationForm::kBytes; }

  TQ_INLINE static uint16x8_t Words(Vec v) { return vreinterpretq_u16_u8(v); }
  TQ_INLINE static uint32x4_t Wide(Vec v) { return vreinterpretq_u32_u8(v); }
  TQ_INLINE static int32x4_t Sums(Vec v) { return vreinterpretq_s32_u8(v); }
  TQ_INLINE static Vec Of(uint16x8_t v) { return vreinterpretq_u8_u16(v); }
  TQ_INLINE static Vec Of(uint32x4_t v) { return vreinterpretq_u8_u32(v); }
  TQ_INLINE static Vec Of(int32x4_t v) { return vreinterpretq_u8_s32(v); }
  TQ_INLINE static Vec Of(int64x2_t v) { return vreinterpretq_u8_s64(v); }

  TQ_INLINE static Vec Load(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }
  TQ_INLINE static void Store(void* p, Vec v) { vst1q_u8(static_cast<uint8_t*>(p), v); }
  TQ_INLINE static Vec Zero() { return vdupq_n_u8(0); }
  TQ_INLINE static Vec Set16(int v) { return Of(vdupq_n_u16(static_cast<uint16_t>(v))); }
  TQ_INLINE static Vec And(Vec a, Vec b) { return vandq_u8(a, b); }
  TQ_INLINE static Vec Add16(Vec a, Vec b) { return Of(vaddq_u16(Words(a), Words(b))); }
  TQ_INLINE static Vec Add64(Vec a, Vec b) {
    return Of(vaddq_s64(vreinterpretq_s64_u8(a), vreinterpretq_s64_u8(b)));
  }
  TQ_INLINE static Vec HighBytes(Vec a) { return Of(vshrq_n_u16(Words(a), 8)); }

  // The first plane of a tile, each lane holding the next one's word.
  TQ_INLINE static Vec LoadNextLane(const uint8_t* tile, int part) {
    if (part < 3) return Load(tile + 16 * part + 2);
    return vextq_u8(Load(tile + 48), Load(tile), 2);
  }
  // Bits [kShift, kShift + 16) of high:low.
  template <int kShift>
  TQ_INLINE static Vec Funnel(Vec low, Vec high) {
    if constexpr (kShift == 0) {
      return low;
    } else {
      return Of(vsliq_n_u16(vshrq_n_u16(Words(low), kShift), Words(high), 16 - kShift));
    }
  }
  // Bits [kShift, kShift + kBits) of each 32.
  template <int kShift, int kBits>
  TQ_INLINE static Vec Cut(Vec v) {
    if constexpr (kShift != 0) v = Of(vshrq_n_u32(Wide(v), kShift));
    if constexpr (kShift + kBits != 32) v = Of(vandq_u32(Wide(v), vdupq_n_u32((1 << kBits) - 1)));
    return v;
  }
  TQ_INLINE static Vec Hash32(Vec state) {
    return Of(vmulq_u32(Wide(state), vdupq_n_u32(kMultiplier)));
  }
  // The halves of the hash of every lane.
  TQ_INLINE static void HashHalves(Vec state, Vec& low, Vec& high) {
    const uint32x4_t even = Wide(Hash32(Cut<0, 16>(state))), odd = Wide(Hash32(Cut<16, 16>(state)));
    low = Of(vsliq_n_u32(even, odd, 16));
    high = Of(vsriq_n_u32(odd, even, 16));
  }
  // Unsigned bytes of a 16-bit lane, added.
  TQ_INLINE static Vec AddPairs(Vec bytes) { return Of(vpaddlq_u8(bytes)); }
  // int32 neighbours, added in int64.
  TQ_INLINE static Vec Widen(Vec v) { return Of(vpaddlq_s32(Sums(v))); }
  TQ_INLINE static Vec Broadcast(const uint8_t* group) {
    uint64_t value;
    __builtin_memcpy(&value, group, sizeof(value));
    return vreinterpretq_u8_u64(vdupq_n_u64(value));
  }
  // What the sums of DotBytes begin with: bytes less 128 have the centre ByteCentre themselves.
  TQ_INLINE static Vec Start(const ScaleGroup&) { return Zero(); }
  TQ_INLINE static Vec DotBytes(Vec sum, Vec bytes, const uint8_t* a) {
    const int8x16_t centred = vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(0x80)));
    return Of(vdotq_s32(Sums(sum), centred, vreinterpretq_s8_u8(Broadcast(a))));
  }
  TQ_INLINE static Vec DotWords(Vec sum, Vec words, Vec a) {
    const int16x8_t w = vreinterpretq_s16_u8(words), x = vreinterpretq_s16_u8(a);
    const int32x4_t low = vmull_s16(vget_low_s16(w), vget_low_s16(x));
    return Of(vaddq_s32(Sums(sum), vpaddq_s32(low, vmull_high_s16(w, x))));
  }
  // total + scale * float(sum), of floats in a vector of integers.
  TQ_INLINE static Vec AddScaled(Vec total, Vec sum, float scale) {
    return vreinterpretq_u8_f32(
        vfmaq_n_f32(vreinterpretq_f32_u8(total), vcvtq_f32_s32(Sums(sum)), scale));
  }
};

#include "kernels/trellis_matmul/trellis_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_index_sequence<kNumMatmulCodes>());

}  // namespace tq::trellis::neondot
