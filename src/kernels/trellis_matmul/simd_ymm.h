// What the two 256-bit levels share; included by each inside its anonymous namespace, after
// simd_x86.h.
// A plane of 32 lanes is two vectors.

struct SimdYmm : SimdX86<SimdYmm> {
  using Vec = __m256i;
  static constexpr int kParts = 2;

  TQ_INLINE static Vec Load(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  TQ_INLINE static void Store(void* p, Vec v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  TQ_INLINE static Vec Zero() { return _mm256_setzero_si256(); }
  TQ_INLINE static Vec Set16(int v) { return _mm256_set1_epi16(static_cast<int16_t>(v)); }
  TQ_INLINE static Vec And(Vec a, Vec b) { return _mm256_and_si256(a, b); }
  TQ_INLINE static Vec Add16(Vec a, Vec b) { return _mm256_add_epi16(a, b); }
  TQ_INLINE static Vec Add64(Vec a, Vec b) { return _mm256_add_epi64(a, b); }
  TQ_INLINE static Vec MulLow(Vec a, Vec b) { return _mm256_mullo_epi16(a, b); }
  TQ_INLINE static Vec MulHigh(Vec a, Vec b) { return _mm256_mulhi_epu16(a, b); }
  TQ_INLINE static Vec HighBytes(Vec a) { return _mm256_srli_epi16(a, 8); }

  // The first plane of a tile, each lane holding the next one's word: lanes 1-16 lie in
  // memory as they are, lanes 17-31 are followed by lane 0.
  TQ_INLINE static Vec LoadNextLane(const uint8_t* tile, int part) {
    if (part == 0) return Load(tile + 2);
    const Vec low = Load(tile), high = Load(tile + 32);
    return _mm256_alignr_epi8(_mm256_permute2x128_si256(high, low, 0x21), high, 2);
  }
  // Bits [kShift, kShift + 16) of high:low.
  template <int kShift>
  TQ_INLINE static Vec Funnel(Vec low, Vec high) {
    if constexpr (kShift == 0) {
      return low;
    } else {
      return _mm256_or_si256(_mm256_srli_epi16(low, kShift), _mm256_slli_epi16(high, 16 - kShift));
    }
  }
  // Unsigned bytes of a 16-bit lane, added.
  TQ_INLINE static Vec AddPairs(Vec bytes) {
    return _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  }
  // Bits [kShift, kShift + kBits) of each 32.
  template <int kShift, int kBits>
  TQ_INLINE static Vec Cut(Vec v) {
    if constexpr (kShift != 0) v = _mm256_srli_epi32(v, kShift);
    if constexpr (kShift + kBits != 32) {
      v = _mm256_and_si256(v, _mm256_set1_epi32((1 << kBits) - 1));
    }
    return v;
  }
  TQ_INLINE static Vec Hash32(Vec state) {
    return _mm256_mullo_epi32(state, _mm256_set1_epi32(static_cast<int>(kMultiplier)));
  }
  // total + scale * float(sum), of floats in a vector of integers.
  TQ_INLINE static Vec AddScaled(Vec total, Vec sum, float scale) {
    return _mm256_castps_si256(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scale),
                                               _mm256_castsi256_ps(total)));
  }
  // int32 neighbours, added in int64.
  TQ_INLINE static Vec Widen(Vec v) {
    const Vec sign = _mm256_srai_epi32(v, 31);
    const Vec high = _mm256_blend_epi32(_mm256_srli_epi64(v, 32), sign, 0xaa);
    return Add64(_mm256_blend_epi32(v, _mm256_slli_epi64(sign, 32), 0xaa), high);
  }
  TQ_INLINE static Vec Broadcast(const uint8_t* group) {
    int64_t value;
    __builtin_memcpy(&value, group, sizeof(value));
    return _mm256_set1_epi64x(value);
  }
};
