// What the two 512-bit levels share; included by each inside its anonymous namespace, after
// simd_x86.h. Masks of ones cost nothing: GCC 12 warns of uninitialised operands in the plain
// forms.

struct SimdZmm : SimdX86<SimdZmm> {
  using Vec = __m512i;
  using VecF = __m512;
  static constexpr int kVecBytes = 64;
  // 2 x 12 sums, 2 operands, 1 activation: 27 of 32 registers.
  static constexpr int kPanelRows = 12;
  static constexpr int kMultiplyVecs = 2;

  TQ_INLINE static Vec Load(const void* p) { return _mm512_loadu_si512(p); }
  TQ_INLINE static void Store(void* p, Vec v) { _mm512_storeu_si512(p, v); }
  TQ_INLINE static Vec Zero() { return _mm512_setzero_si512(); }
  TQ_INLINE static Vec Set8(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
  TQ_INLINE static Vec Set16(int v) { return _mm512_set1_epi16(static_cast<int16_t>(v)); }
  TQ_INLINE static Vec And(Vec a, Vec b) { return _mm512_and_si512(a, b); }
  TQ_INLINE static Vec Or(Vec a, Vec b) { return _mm512_or_si512(a, b); }
  TQ_INLINE static Vec MulLow16(Vec a, Vec b) { return _mm512_mullo_epi16(a, b); }
  template <int kShift>
  TQ_INLINE static Vec ShiftRight16(Vec v) {
    return _mm512_maskz_srli_epi16(UINT32_MAX, v, kShift);
  }
  TQ_INLINE static Vec ShuffleBytes(Vec v, Vec places) {
    return _mm512_maskz_shuffle_epi8(UINT64_MAX, v, places);
  }
  TQ_INLINE static __m128i Load128(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }
  // 16 bytes in each quarter.
  TQ_INLINE static Vec Repeat(const void* p) {
    return _mm512_maskz_broadcast_i32x4(0xffff, Load128(p));
  }
  // 16 bytes each, kBytes apart.
  template <int kBytes>
  TQ_INLINE static Vec LoadPieces(const uint8_t* p) {
    Vec v = Repeat(p);
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, Load128(p + kBytes));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, Load128(p + 2 * kBytes));
    return _mm512_mask_broadcast_i32x4(v, 0xf000, Load128(p + 3 * kBytes));
  }
  TQ_INLINE static Vec Broadcast(const int8_t* a) {
    int32_t value;
    __builtin_memcpy(&value, a, sizeof(value));
    return _mm512_set1_epi32(value);
  }
  template <int kBits, int kDots>
  TQ_INLINE static Vec Dot(Vec sum, Vec bytes, Vec a) {
    sum = _mm512_dpbusd_epi32(sum, bytes, a);
    // Keeps the dot products in this order: GCC otherwise copies every sum before it adds.
    __asm__ volatile("" : "+v"(sum));
    return sum;
  }
  template <int kBits, int kDots>
  TQ_INLINE static Vec Total(Vec sum) {
    return sum;
  }
  TQ_INLINE static void UnpackBytes(const uint8_t* codes, Vec (&parts)[2]) {
    const Vec first = Load(codes), second = Load(codes + kVecBytes);
    parts[0] = Quarters<0x88>(first, second);
    parts[1] = Quarters<0xdd>(first, second);
  }

  TQ_INLINE static Vec Xor(Vec a, Vec b) { return _mm512_xor_si512(a, b); }
  TQ_INLINE static Vec Add8(Vec a, Vec b) { return _mm512_add_epi8(a, b); }
  // How many of two limits the bytes, as signed ones, are above.
  TQ_INLINE static Vec CountAbove(Vec v, int low, int high) {
    const Vec one = Set8(1);
    const Vec count = _mm512_maskz_mov_epi8(_mm512_cmpgt_epi8_mask(v, Set8(low)), one);
    return _mm512_mask_add_epi8(count, _mm512_cmpgt_epi8_mask(v, Set8(high)), count, one);
  }

  template <int kPick>
  TQ_INLINE static Vec Quarters(Vec a, Vec b) {
    return _mm512_maskz_shuffle_i32x4(0xffff, a, b, kPick);
  }
  template <int kPick>
  TQ_INLINE static Vec Lanes(Vec a, Vec b) {
    return _mm512_castps_si512(
        _mm512_maskz_shuffle_ps(0xffff, _mm512_castsi512_ps(a), _mm512_castsi512_ps(b), kPick));
  }
  TQ_INLINE static Vec EvenLanes(Vec a, Vec b) { return Lanes<0x88>(a, b); }
  TQ_INLINE static Vec OddLanes(Vec a, Vec b) { return Lanes<0xdd>(a, b); }
  // a0 + a1, a2 + a3, b0 + b1, b2 + b3 of every group of lanes.
  TQ_INLINE static Vec AddNeighbours(Vec a, Vec b) {
    return _mm512_add_epi32(EvenLanes(a, b), OddLanes(a, b));
  }
  TQ_INLINE static Vec Low32(Vec a, Vec b) { return _mm512_maskz_unpacklo_epi32(0xffff, a, b); }
  TQ_INLINE static Vec High32(Vec a, Vec b) { return _mm512_maskz_unpackhi_epi32(0xffff, a, b); }
  TQ_INLINE static Vec Low64(Vec a, Vec b) { return _mm512_maskz_unpacklo_epi64(0xff, a, b); }
  TQ_INLINE static Vec High64(Vec a, Vec b) { return _mm512_maskz_unpackhi_epi64(0xff, a, b); }
  TQ_INLINE static void JoinFours(Vec (&m)[16]) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const Vec even = Quarters<0x88>(m[c], m[4 + c]), odd = Quarters<0xdd>(m[c], m[4 + c]);
      const Vec even2 = Quarters<0x88>(m[8 + c], m[12 + c]);
      const Vec odd2 = Quarters<0xdd>(m[8 + c], m[12 + c]);
      m[c] = Quarters<0x88>(even, even2);
      m[4 + c] = Quarters<0x88>(odd, odd2);
      m[8 + c] = Quarters<0xdd>(even, even2);
      m[12 + c] = Quarters<0xdd>(odd, odd2);
    }
  }

  TQ_INLINE static VecF LoadF(const float* p) { return _mm512_loadu_ps(p); }
  TQ_INLINE static void StoreF(float* p, VecF v) { _mm512_storeu_ps(p, v); }
  TQ_INLINE static VecF ZeroF() { return _mm512_setzero_ps(); }
  TQ_INLINE static VecF SetF(float v) { return _mm512_set1_ps(v); }
  TQ_INLINE static VecF ToFloat(Vec v) { return _mm512_maskz_cvtepi32_ps(0xffff, v); }
  TQ_INLINE static VecF MulF(VecF a, VecF b) { return _mm512_mul_ps(a, b); }
  TQ_INLINE static VecF FmaF(VecF a, VecF b, VecF c) { return _mm512_fmadd_ps(a, b, c); }
  // c - a * b.
  TQ_INLINE static VecF FnmaF(VecF a, VecF b, VecF c) { return _mm512_fnmadd_ps(a, b, c); }
  TQ_INLINE static VecF BroadcastQuad(const float* p) {
    return _mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps(p));
  }
  // Four floats each, at every kStride-th of these places.
  template <int kStride>
  TQ_INLINE static VecF Quads(const float* p, const size_t* at) {
    VecF v = BroadcastQuad(p + at[0]);
    v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps(p + at[kStride]));
    v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps(p + at[2 * kStride]));
    return _mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps(p + at[3 * kStride]));
  }
};
