// Trellis kernels with AVX2: vpmaddubsw on |a| and hash bytes whose sign bit and order
// the sign of a turns (ActivationForm::kSignMagnitude), exact without saturation; words
// where the decode is shared by many rows of x.
#include <immintrin.h>

#include <utility>

#include "kernels/trellis_matmul/trellis_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::trellis::avx2 {
namespace {

#include "kernels/trellis_matmul/simd_ymm.h"

struct Simd : SimdYmm {
  // 2 x 6 sums, 2 operands, 1 activation, 1 product: 16 of 16 registers.
  static constexpr int kPanelRows = 6;
  static constexpr int kMultiplyVecs = 2;
  // V = 1: the sum of the four bytes is one word product (5 instructions instead of 8).
  template <int kValues>
  static constexpr ActivationForm kGemvForm =
      kValues == 1 ? ActivationForm::kWords : ActivationForm::kSignMagnitude;
  // One vpmaddwd and one addition per 16 products; bytes would take twice that.
  template <int kValues>
  static constexpr ActivationForm kPanelForm = ActivationForm::kWords;

  struct Bytes {
    Vec magnitude, flip;
  };
  TQ_INLINE static Bytes LoadBytes(const uint8_t* group) {
    return {Broadcast(group), Broadcast(group + 8)};
  }
  TQ_INLINE static Vec DotWords(Vec sum, Vec words, Vec a) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(words, a));
  }
  TQ_INLINE static Vec DotBytes(Vec sum, Vec bytes, Bytes a) {
    const Vec pairs = _mm256_maddubs_epi16(a.magnitude, _mm256_xor_si256(bytes, a.flip));
    return DotWords(sum, pairs, _mm256_set1_epi16(1));
  }
};

#include "kernels/trellis_matmul/trellis_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_index_sequence<kNumMatmulCodes>());

}  // namespace tq::trellis::avx2
