// AVX-VNNI level of the Viterbi search.
#include <immintrin.h>

#include "kernels/viterbi/viterbi.h"

namespace tq::viterbi::avx2vnni {
namespace {

#include "kernels/viterbi/viterbi_avx2_inl.h"

inline Vec Dot(Vec sum, Vec a, Vec b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }

#define TQ_UNROLL_WINNERS _Pragma("GCC unroll 4")
#include "kernels/viterbi/viterbi_inl.h"
#undef TQ_UNROLL_WINNERS

}  // namespace

void FindPaths(const Args& args) { FindPathsHere(args); }

}  // namespace tq::viterbi::avx2vnni
