// Ternary kernels with NEON and its dot product (ARMv8.2 DotProd): sdot of signed bytes, 4 rows in
// a register.
#include <arm_neon.h>

#include <utility>

#include "kernels/ternary_matmul/ternary_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::ternary::neondot {
namespace {

struct Simd {
  using Vec = int8x16_t;
  static constexpr int kVecBytes = 16;
  // 4 x 4 sums, 2 x 4 vectors of codes and what is made of them, 1 activation.
  static constexpr int kGemvVecs = 4;
  // 4 x 6 sums, 4 operands, 1 activation: 29 of 32 registers.
  static constexpr int kPanelRows = 6;
  static constexpr int kMultiplyVecs = 4;
  static constexpr bool kExactDots = true;
  static constexpr bool kSignedFractions = true;
  static constexpr int kBlockDots = 256;
  static constexpr int kCutShift[] = {0, 2, 4, 0};  // 2 << 6 is no signed byte

  TQ_INLINE static int32x4_t Wide(Vec v) { return vreinterpretq_s32_s8(v); }
  TQ_INLINE static uint8x16_t Bytes(Vec v) { return vreinterpretq_u8_s8(v); }
  TQ_INLINE static Vec Of(int32x4_t v) { return vreinterpretq_s8_s32(v); }
  TQ_INLINE static Vec Of(uint8x16_t v) { return vreinterpretq_s8_u8(v); }

  TQ_INLINE static Vec Load(const void* p) { return vld1q_s8(static_cast<const int8_t*>(p)); }
  TQ_INLINE static void Store(void* p, Vec v) { vst1q_s8(static_cast<int8_t*>(p), v); }
  TQ_INLINE static Vec Zero() { return vdupq_n_s8(0); }
  TQ_INLINE static Vec Set32(int32_t v) { return Of(vdupq_n_s32(v)); }
  TQ_INLINE static Vec Add8(Vec a, Vec b) { return vaddq_s8(a, b); }
  TQ_INLINE static Vec Add32(Vec a, Vec b) { return Of(vaddq_s32(Wide(a), Wide(b))); }
  TQ_INLINE static Vec Sub32(Vec a, Vec b) { return Of(vsubq_s32(Wide(a), Wide(b))); }
  template <int kShift>
  TQ_INLINE static Vec ShiftRight32(Vec v) {
    if constexpr (kShift == 0)
      return v;
    else
      return Of(vshrq_n_s32(Wide(v), kShift));
  }
  TQ_INLINE static Vec Broadcast(const int8_t* a) {
    int32_t value;
    __builtin_memcpy(&value, a, sizeof(value));
    return Of(vdupq_n_s32(value));
  }
  TQ_INLINE static Vec Dot(Vec sum, Vec bytes, Vec a) { return Of(vdotq_s32(Wide(sum), bytes, a)); }
  TQ_INLINE static Vec Total(Vec sum) { return sum; }
  template <int P>
  TQ_INLINE static Vec Cut(Vec codes) {
    if constexpr (P == 3)
      return Cut2Bits<3>(codes);
    else
      return vandq_s8(codes, vdupq_n_s8(3 << 2 * P));
  }
  template <int P>
  TQ_INLINE static Vec Cut2Bits(Vec codes) {
    if constexpr (P == 3) {
      return Of(vshrq_n_u8(Bytes(codes), 6));
    } else if constexpr (P == 0) {
      return vandq_s8(codes, vdupq_n_s8(3));
    } else {
      return vandq_s8(Of(vshrq_n_u8(Bytes(codes), 2 * P)), vdupq_n_s8(3));
    }
  }
  TQ_INLINE static Vec Fractions(Vec codes) { return veorq_s8(codes, vdupq_n_s8(INT8_MIN)); }
  // Of s = f - 128: 3 f >= 256 from f = 86 on, 512 from 171 on.
  TQ_INLINE static Vec Digits(Vec s) {
    const Vec one = Of(vcgeq_s8(s, vdupq_n_s8(86 - 128)));
    const Vec two = Of(vcgeq_s8(s, vdupq_n_s8(171 - 128)));
    return vnegq_s8(vaddq_s8(one, two));
  }
};

#include "kernels/ternary_matmul/ternary_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable();

}  // namespace tq::ternary::neondot
