// AVX2 level of the Viterbi search.
#include <immintrin.h>

#include "kernels/viterbi/viterbi.h"

namespace tq::viterbi::avx2 {
namespace {

#include "kernels/viterbi/viterbi_avx2_inl.h"

inline Vec Dot(Vec sum, Vec a, Vec b) { return Add(sum, _mm256_madd_epi16(a, b)); }

#define TQ_UNROLL_WINNERS _Pragma("GCC unroll 4")
#include "kernels/viterbi/viterbi_inl.h"
#undef TQ_UNROLL_WINNERS

}  // namespace

void FindPaths(const Args& args) { FindPathsHere(args); }

}  // namespace tq::viterbi::avx2
