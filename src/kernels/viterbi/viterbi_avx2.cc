// AVX2 level of the Viterbi search.
#include <immintrin.h>

#include "kernels/viterbi/viterbi.h"

namespace tq::viterbi::avx2 {
namespace {

#include "kernels/viterbi/viterbi_avx2-inl.h"

inline Vec Dot(Vec sum, Vec a, Vec b) { return Add(sum, _mm256_madd_epi16(a, b)); }

#include "kernels/viterbi/viterbi-inl.h"

}  // namespace

void FindPaths(const Args& args) { FindPathsHere(args); }

}  // namespace tq::viterbi::avx2
