// What the 512-bit levels share; included by each inside its anonymous namespace, after
// simd_x86.h.
// A plane of 32 lanes is one vector.

struct SimdZmm : SimdX86<SimdZmm> {
  using Vec = __m512i;
  static constexpr int kParts = 1;
  // 2 x 12 sums, 2 operands, 1 activation: 27 of 32 registers.
  static constexpr int kPanelRows = 12;
  static constexpr int kMultiplyVecs = 2;

  TQ_INLINE static Vec Load(const void* p) { return _mm512_loadu_si512(p); }
  TQ_INLINE static void Store(void* p, Vec v) { _mm512_storeu_si512(p, v); }
  TQ_INLINE static Vec Zero() { return _mm512_setzero_si512(); }
  TQ_INLINE static Vec Set16(int v) { return _mm512_set1_epi16(static_cast<int16_t>(v)); }
  TQ_INLINE static Vec And(Vec a, Vec b) { return _mm512_and_si512(a, b); }
  TQ_INLINE static Vec Add16(Vec a, Vec b) { return _mm512_add_epi16(a, b); }
  TQ_INLINE static Vec Add64(Vec a, Vec b) { return _mm512_add_epi64(a, b); }
  TQ_INLINE static Vec MulLow(Vec a, Vec b) { return _mm512_mullo_epi16(a, b); }
  TQ_INLINE static Vec MulHigh(Vec a, Vec b) { return _mm512_mulhi_epu16(a, b); }
  TQ_INLINE static Vec HighBytes(Vec a) { return _mm512_srli_epi16(a, 8); }

  // The first plane of a tile, each lane holding the next one's word.
  TQ_INLINE static Vec LoadNextLane(const uint8_t* tile, int) {
    alignas(64) static constexpr uint16_t kNext[32] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                                       12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
                                                       23, 24, 25, 26, 27, 28, 29, 30, 31, 0};
    return _mm512_permutexvar_epi16(Load(kNext), Load(tile));
  }
  // Bits [kShift, kShift + 16) of high:low.
  template <int kShift>
  TQ_INLINE static Vec Funnel(Vec low, Vec high) {
    if constexpr (kShift == 0) {
      return low;
    } else {
#ifdef __AVX512VBMI2__
      return _mm512_shrdi_epi16(low, high, kShift);
#else
      return _mm512_or_si512(_mm512_srli_epi16(low, kShift), _mm512_slli_epi16(high, 16 - kShift));
#endif
    }
  }
  // Unsigned bytes of a 16-bit lane, added.
  TQ_INLINE static Vec AddPairs(Vec bytes) {
    return _mm512_maddubs_epi16(bytes, _mm512_set1_epi8(1));
  }
  // Bits [kShift, kShift + kBits) of each 32.
  template <int kShift, int kBits>
  TQ_INLINE static Vec Cut(Vec v) {
    if constexpr (kShift != 0) v = _mm512_maskz_srli_epi32(0xffff, v, kShift);
    if constexpr (kShift + kBits != 32) {
      v = _mm512_and_si512(v, _mm512_set1_epi32((1 << kBits) - 1));
    }
    return v;
  }
  TQ_INLINE static Vec Hash32(Vec state) {
    return _mm512_mullo_epi32(state, _mm512_set1_epi32(static_cast<int>(kMultiplier)));
  }
  // total + scale * float(sum), of floats in a vector of integers.
  TQ_INLINE static Vec AddScaled(Vec total, Vec sum, float scale) {
    return _mm512_castps_si512(_mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xffff, sum),
                                               _mm512_set1_ps(scale), _mm512_castsi512_ps(total)));
  }
  // int32 neighbours, added in int64. (Masks of ones, which cost nothing: GCC 12 warns of
  // uninitialised operands in the plain forms.)
  TQ_INLINE static Vec Widen(Vec v) {
    const Vec low = _mm512_maskz_srai_epi64(0xff, _mm512_maskz_slli_epi64(0xff, v, 32), 32);
    return Add64(low, _mm512_maskz_srai_epi64(0xff, v, 32));
  }
  TQ_INLINE static Vec Broadcast(const uint8_t* group) {
    int64_t value;
    __builtin_memcpy(&value, group, sizeof(value));
    return _mm512_set1_epi64(value);
  }
  TQ_INLINE static Vec DotBytes(Vec sum, Vec bytes, const uint8_t* a) {
    return _mm512_dpbusd_epi32(sum, bytes, Broadcast(a));
  }
  TQ_INLINE static Vec DotWords(Vec sum, Vec words, Vec a) {
    return _mm512_dpwssd_epi32(sum, words, a);
  }
};
