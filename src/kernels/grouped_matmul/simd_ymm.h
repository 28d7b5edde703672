// What the two 256-bit levels share; included by each inside its anonymous namespace, after
// simd_x86.h.

struct SimdYmm : SimdX86<SimdYmm> {
  using Vec = __m256i;
  using VecF = __m256;
  static constexpr int kVecBytes = 32;
  // 2 x 6 sums, 2 operands, 1 activation, 1 product: 16 of 16 registers.
  static constexpr int kPanelRows = 6;
  static constexpr int kMultiplyVecs = 2;

  TQ_INLINE static Vec Load(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  TQ_INLINE static void Store(void* p, Vec v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  TQ_INLINE static Vec Zero() { return _mm256_setzero_si256(); }
  TQ_INLINE static Vec Set8(int v) { return _mm256_set1_epi8(static_cast<char>(v)); }
  TQ_INLINE static Vec Set16(int v) { return _mm256_set1_epi16(static_cast<int16_t>(v)); }
  TQ_INLINE static Vec And(Vec a, Vec b) { return _mm256_and_si256(a, b); }
  TQ_INLINE static Vec Or(Vec a, Vec b) { return _mm256_or_si256(a, b); }
  TQ_INLINE static Vec MulLow16(Vec a, Vec b) { return _mm256_mullo_epi16(a, b); }
  template <int kShift>
  TQ_INLINE static Vec ShiftRight16(Vec v) {
    return _mm256_srli_epi16(v, kShift);
  }
  TQ_INLINE static Vec ShuffleBytes(Vec v, Vec places) { return _mm256_shuffle_epi8(v, places); }
  // 16 bytes in each half.
  TQ_INLINE static Vec Repeat(const void* p) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(static_cast<const __m128i*>(p)));
  }
  // 16 bytes each, kBytes apart.
  template <int kBytes>
  TQ_INLINE static Vec LoadPieces(const uint8_t* p) {
    return _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(p + kBytes),
                               reinterpret_cast<const __m128i*>(p));
  }
  TQ_INLINE static Vec Broadcast(const int8_t* a) {
    int32_t value;
    __builtin_memcpy(&value, a, sizeof(value));
    return _mm256_set1_epi32(value);
  }

  template <int kBits>
  static constexpr int Overread() {
    return Overread16(kBits);
  }
  template <int kBits>
  TQ_INLINE static void Unpack(const uint8_t* codes, Vec (&parts)[Parts(kBits)]) {
    if constexpr (kBits == 2) {
      UnpackQuarters(codes, parts);
    } else if constexpr (kBits == 4) {
      UnpackHalves(codes, parts);
    } else if constexpr (kBits == 8) {
      parts[0] = LoadPieces<32>(codes);
      parts[1] = LoadPieces<32>(codes + 16);
    } else {
      parts[0] = Unpack16<kBits>(codes);
      parts[1] = Unpack16<kBits>(codes + 2 * kBits);
    }
  }

  TQ_INLINE static Vec Xor(Vec a, Vec b) { return _mm256_xor_si256(a, b); }
  TQ_INLINE static Vec Add8(Vec a, Vec b) { return _mm256_add_epi8(a, b); }
  // How many of two limits the bytes, as signed ones, are above.
  TQ_INLINE static Vec CountAbove(Vec v, int low, int high) {
    const Vec above = Add8(_mm256_cmpgt_epi8(v, Set8(low)), _mm256_cmpgt_epi8(v, Set8(high)));
    return _mm256_sub_epi8(Zero(), above);
  }

  // a0 + a1, a2 + a3, b0 + b1, b2 + b3 of every group of lanes.
  TQ_INLINE static Vec AddNeighbours(Vec a, Vec b) { return _mm256_hadd_epi32(a, b); }
  TQ_INLINE static Vec EvenLanes(Vec a, Vec b) {
    return _mm256_castps_si256(
        _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
  }
  TQ_INLINE static Vec OddLanes(Vec a, Vec b) {
    return _mm256_castps_si256(
        _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd));
  }
  TQ_INLINE static Vec Low32(Vec a, Vec b) { return _mm256_unpacklo_epi32(a, b); }
  TQ_INLINE static Vec High32(Vec a, Vec b) { return _mm256_unpackhi_epi32(a, b); }
  TQ_INLINE static Vec Low64(Vec a, Vec b) { return _mm256_unpacklo_epi64(a, b); }
  TQ_INLINE static Vec High64(Vec a, Vec b) { return _mm256_unpackhi_epi64(a, b); }
  TQ_INLINE static void JoinFours(Vec (&m)[8]) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const Vec first = m[c], second = m[4 + c];
      m[c] = _mm256_permute2x128_si256(first, second, 0x20);
      m[4 + c] = _mm256_permute2x128_si256(first, second, 0x31);
    }
  }

  TQ_INLINE static VecF LoadF(const float* p) { return _mm256_loadu_ps(p); }
  TQ_INLINE static void StoreF(float* p, VecF v) { _mm256_storeu_ps(p, v); }
  TQ_INLINE static VecF ZeroF() { return _mm256_setzero_ps(); }
  TQ_INLINE static VecF SetF(float v) { return _mm256_set1_ps(v); }
  TQ_INLINE static VecF ToFloat(Vec v) { return _mm256_cvtepi32_ps(v); }
  TQ_INLINE static VecF MulF(VecF a, VecF b) { return _mm256_mul_ps(a, b); }
  TQ_INLINE static VecF FmaF(VecF a, VecF b, VecF c) { return _mm256_fmadd_ps(a, b, c); }
  // c - a * b.
  TQ_INLINE static VecF FnmaF(VecF a, VecF b, VecF c) { return _mm256_fnmadd_ps(a, b, c); }
  TQ_INLINE static VecF BroadcastQuad(const float* p) {
    return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
  }
  // Four floats each, at every kStride-th of these places.
  template <int kStride>
  TQ_INLINE static VecF Quads(const float* p, const size_t* at) {
    return _mm256_loadu2_m128(p + at[kStride], p + at[0]);
  }
};
