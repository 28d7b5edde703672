// Trellis kernels with AVX2: for one row of x vpmaddubsw of magnitudes and hash bytes that took
// their signs, or where an activation meets all four bytes vpmaddwd of it and their sum; vpmaddwd
// on words where many rows of x share the decode.
#include <immintrin.h>

#include <utility>

#include "kernels/trellis_matmul/trellis_matmul.h"

#define TQ_INLINE inline __attribute__((always_inline))

namespace tq::trellis::avx2 {
namespace {

#include "kernels/trellis_matmul/simd_x86.h"
#include "kernels/trellis_matmul/simd_ymm.h"

struct Simd : SimdYmm {
  // 2 x 6 sums, 2 operands, 1 activation, 1 product: 16 of 16 registers.
  static constexpr int kPanelRows = 6;
  static constexpr int kMultiplyVecs = 2;
  static constexpr ActivationForm GemvForm(int values) {
    return values == 1 ? ActivationForm::kWords : ActivationForm::kMagnitudes;
  }

  TQ_INLINE static Vec DotBytes(Vec sum, Vec bytes, const uint8_t* group) {
    const Vec centred = _mm256_xor_si256(bytes, Broadcast(group + 16));
    const Vec pairs = _mm256_maddubs_epi16(Broadcast(group), centred);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  TQ_INLINE static Vec DotWords(Vec sum, Vec words, Vec a) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, a));
    // Keeps the additions in this order: GCC otherwise begins with all products, and has no
    // registers left for the sums.
    __asm__ volatile("" : "+x"(sum));
    return sum;
  }
};

#include "kernels/trellis_matmul/trellis_matmul-inl.h"

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_index_sequence<kNumMatmulCodes>());

}  // namespace tq::trellis::avx2
