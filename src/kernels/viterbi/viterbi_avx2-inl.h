// The 256-bit operations of the Viterbi search, but for Dot, which AVX-VNNI improves.
// Included inside a namespace of each level; no include guard on purpose.

using Vec = __m256i;
constexpr int kLanes = 8;
constexpr int kBatch = kAvx2Batch;

inline Vec Load(const int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline void Store(int32_t* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline Vec Set1(int32_t x) { return _mm256_set1_epi32(x); }
inline Vec Iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
inline Vec Add(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm256_sub_epi32(a, b); }
inline Vec Sub16(Vec a, Vec b) { return _mm256_sub_epi16(a, b); }
inline Vec Min(Vec a, Vec b) { return _mm256_min_epi32(a, b); }
inline Vec And(Vec a, Vec b) { return _mm256_and_si256(a, b); }
inline Vec Or(Vec a, Vec b) { return _mm256_or_si256(a, b); }
inline Vec ShiftLeft(Vec a, int n) { return _mm256_slli_epi32(a, n); }
inline Vec ShiftRight(Vec a, int n) { return _mm256_srli_epi32(a, n); }
inline Vec Select(Vec mask, Vec a, Vec b) {
  return _mm256_or_si256(_mm256_andnot_si256(mask, a), _mm256_and_si256(mask, b));
}
template <int kBits>
inline Vec Expand(const int32_t* p) {
  if constexpr (kBits == 2) {
    const __m128i low = _mm_set1_epi32(p[0]), high = _mm_set1_epi32(p[1]);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  } else {
    return _mm256_set1_epi32(p[0]);
  }
}
inline void StoreBytes(uint8_t* p, Vec x) {
  const __m256i pick = _mm256_set1_epi32(0x0C080400);
  const __m256i four = _mm256_shuffle_epi8(x, pick);
  const __m128i both =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), both);
}
