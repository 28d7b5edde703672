// AVX-VNNI level of the Viterbi search.
#include <immintrin.h>

#include "kernels/viterbi/viterbi.h"

namespace tq::viterbi::avx2vnni {
namespace {

#include "kernels/viterbi/viterbi_avx2-inl.h"

inline Vec Dot(Vec sum, Vec a, Vec b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }

#include "kernels/viterbi/viterbi-inl.h"

}  // namespace

void FindPaths(const Args& args) { FindPathsHere(args); }

}  // namespace tq::viterbi::avx2vnni
