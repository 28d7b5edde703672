// What the two 256-bit levels share; included by each inside its anonymous namespace.

struct SimdYmm {
  using Vec = __m256i;
  static constexpr int kVecBytes = 32;
  // 2 x 6 sums, 2 operands, 1 activation, 1 product: 16 of 16 registers.
  static constexpr int kPanelRows = 6;
  static constexpr int kMultiplyVecs = 2;

  TQ_INLINE static Vec Load(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  TQ_INLINE static void Store(void* p, Vec v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  TQ_INLINE static Vec Zero() { return _mm256_setzero_si256(); }
  TQ_INLINE static Vec Set32(int32_t v) { return _mm256_set1_epi32(v); }
  TQ_INLINE static Vec Add8(Vec a, Vec b) { return _mm256_add_epi8(a, b); }
  TQ_INLINE static Vec Add32(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
  TQ_INLINE static Vec Sub32(Vec a, Vec b) { return _mm256_sub_epi32(a, b); }
  template <int kShift>
  TQ_INLINE static Vec ShiftRight32(Vec v) {
    return _mm256_srai_epi32(v, kShift);
  }
  TQ_INLINE static Vec Broadcast(const int8_t* a) {
    int32_t value;
    __builtin_memcpy(&value, a, sizeof(value));
    return _mm256_set1_epi32(value);
  }
  template <int P>
  TQ_INLINE static Vec Cut2Bits(Vec codes) {
    const Vec shifted = P == 0 ? codes : _mm256_srli_epi16(codes, 2 * P);
    return _mm256_and_si256(shifted, _mm256_set1_epi8(3));
  }
  TQ_INLINE static Vec FlipSigns(Vec bytes) {
    return _mm256_xor_si256(bytes, _mm256_set1_epi8(INT8_MIN));
  }
  // The first digits u of fractions less 128: 3 f >= 256 from f = 86 on, 512 from 171 on.
  TQ_INLINE static Vec SignedDigits(Vec s) {
    const Vec one = _mm256_cmpgt_epi8(s, _mm256_set1_epi8(85 - 128));
    const Vec two = _mm256_cmpgt_epi8(s, _mm256_set1_epi8(170 - 128));
    return _mm256_sub_epi8(_mm256_sub_epi8(Zero(), one), two);
  }
};
