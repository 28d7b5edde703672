// The ternary kernels over a file's own vector type; included once by each per-ISA file, inside its
// anonymous namespace, after its Simd.
//
// A lane of 32 bits is a row of a group: 4 bytes that meet the same 4 activations in every lane.
// Simd::Dot adds their products up, at most kBlockDots times from zero; Simd::Total makes int32 of
// that. A level with exact 4-byte dot products (kExactDots) takes weights where they are, 4^p times
// too large, and base 3 without digits; AVX2 has sums of two in 16 bits.

using Vec = Simd::Vec;
constexpr int kVecs = kTileBytes / Simd::kVecBytes;  // of a group
constexpr int kGemvVecs = Simd::kGemvVecs;           // in registers together

// ---- One row of x. A form has `kSums` sums per vector of rows; Step adds a tile's products to
// them, Finish makes int32 of them, of u a or of t a (kSigned).

struct TwoBits {
  static constexpr int kGroups = 4;
  static constexpr int kSums = Simd::kExactDots ? 4 : 1;
  static constexpr bool kSigned = false;

  template <int P>
  TQ_INLINE static void Group(const Vec (&codes)[kGemvVecs], const int8_t* a,
                              Vec (&sums)[kGemvVecs][kSums]) {
    const Vec activations = Simd::Broadcast(a + kGroupColumns * P);
#pragma GCC unroll 4
    for (int v = 0; v < kGemvVecs; ++v) {
      Vec& sum = sums[v][P % kSums];
      sum = Simd::Dot(sum, Simd::template Cut<P>(codes[v]), activations);
    }
  }
  TQ_INLINE static void Step(const Vec (&codes)[kGemvVecs], const int8_t* a,
                             Vec (&sums)[kGemvVecs][kSums]) {
    Group<0>(codes, a, sums);
    Group<1>(codes, a, sums);
    Group<2>(codes, a, sums);
    Group<3>(codes, a, sums);
  }
  TQ_INLINE static Vec Finish(const Vec (&sums)[kSums]) {
    Vec total = Simd::Total(sums[0]);
    if constexpr (kSums == 4) {
      total = Simd::Add32(total, Simd::template ShiftRight32<Simd::kCutShift[1]>(sums[1]));
      total = Simd::Add32(total, Simd::template ShiftRight32<Simd::kCutShift[2]>(sums[2]));
      total = Simd::Add32(total, Simd::template ShiftRight32<Simd::kCutShift[3]>(sums[3]));
    }
    return total;
  }
  // The weights of group P in bytes u.
  template <int P>
  TQ_INLINE static Vec Next(Vec& codes) {
    return Simd::template Cut2Bits<P>(codes);
  }
  TQ_INLINE static Vec Start(Vec codes) { return codes; }
};

struct Base3 {
  static constexpr int kGroups = 5;
  // Sums of f_k a_k for even k and for odd k, which halves the wait for the sum before, and of
  // f_{k+1} a_k; or of digits.
  static constexpr int kSums = Simd::kExactDots ? 4 : 1;
  static constexpr bool kSigned = Simd::kExactDots && Simd::kSignedFractions;

  TQ_INLINE static Vec Start(Vec codes) { return Simd::Fractions(codes); }
  TQ_INLINE static Vec Thrice(Vec f) { return Simd::Add8(f, Simd::Add8(f, f)); }
  template <int>
  TQ_INLINE static Vec Next(Vec& f) {
    const Vec u = Simd::Digits(f);
    f = Thrice(f);
    return u;
  }

  TQ_INLINE static void Step(const Vec (&codes)[kGemvVecs], const int8_t* a,
                             Vec (&sums)[kGemvVecs][kSums]) {
    Vec f[kGemvVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kGemvVecs; ++v) f[v] = Start(codes[v]);
#pragma GCC unroll 5
    for (int k = 0; k < kGroups; ++k) {
      const Vec activations = Simd::Broadcast(a + kGroupColumns * k);
#pragma GCC unroll 4
      for (int v = 0; v < kGemvVecs; ++v) {
        if constexpr (kSums == 1) {
          sums[v][0] = Simd::Dot(sums[v][0], Next<0>(f[v]), activations);
        } else {
          sums[v][k % 2] = Simd::Dot(sums[v][k % 2], f[v], activations);
          f[v] = Thrice(f[v]);
          sums[v][2 + k % 2] = Simd::Dot(sums[v][2 + k % 2], f[v], activations);
        }
      }
    }
  }
  TQ_INLINE static Vec Finish(const Vec (&sums)[kSums]) {
    if constexpr (kSums == 1) {
      return Simd::Total(sums[0]);
    } else {
      const Vec now = Simd::Add32(sums[0], sums[1]), next = Simd::Add32(sums[2], sums[3]);
      const Vec thrice = Simd::Add32(now, Simd::Add32(now, now));
      return Simd::template ShiftRight32<8>(Simd::Sub32(thrice, next));
    }
  }
};

// Adds the sums of up to a block of tiles to `totals`, of kGemvVecs vectors of rows.
template <class Form>
TQ_INLINE void AddBlock(const uint8_t* tiles, size_t num_tiles, const int8_t* a, Vec* totals) {
  Vec sums[kGemvVecs][Form::kSums];
  for (auto& vec : sums) {
    for (Vec& sum : vec) sum = Simd::Zero();
  }
  for (size_t t = 0; t < num_tiles; ++t, tiles += kTileBytes) {
    Vec codes[kGemvVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kGemvVecs; ++v) {
      // The hardware's own prefetcher stops at page ends; 4 KiB ahead hides them.
      if (v * Simd::kVecBytes % 64 == 0) __builtin_prefetch(tiles + 4096 + v * Simd::kVecBytes);
      codes[v] = Simd::Load(tiles + v * Simd::kVecBytes);
    }
    Form::Step(codes, a, sums);
    a += kGroupColumns * Form::kGroups;
  }
  for (int v = 0; v < kGemvVecs; ++v) totals[v] = Simd::Add32(totals[v], Form::Finish(sums[v]));
}

template <class Form>
void Gemv(const uint8_t* tiles, size_t num_tiles, const int8_t* a, int32_t activation_sum,
          int32_t* sums) {
  constexpr size_t kBlockTiles = Simd::kBlockDots / Form::kGroups;
  Vec totals[kVecs];
  for (Vec& total : totals) total = Simd::Set32(Form::kSigned ? 0 : -activation_sum);
  while (num_tiles > 0) {
    const size_t count = num_tiles < kBlockTiles ? num_tiles : kBlockTiles;
    for (int v = 0; v < kVecs; v += kGemvVecs) {
      AddBlock<Form>(tiles + v * Simd::kVecBytes, count, a, totals + v);
    }
    tiles += count * kTileBytes;
    a += count * kGroupColumns * Form::kGroups;
    num_tiles -= count;
  }
  for (int v = 0; v < kVecs; ++v) Simd::Store(sums + v * (Simd::kVecBytes / 4), totals[v]);
}

// ---- Many rows of x: decode once, multiply by panels.

template <class Form, int... P>
TQ_INLINE void DecodeTile(const uint8_t* tile, uint8_t* u, std::integer_sequence<int, P...>) {
  for (int v = 0; v < kVecs; ++v) {
    Vec codes = Form::Start(Simd::Load(tile + v * Simd::kVecBytes));
    uint8_t* out = u + v * Simd::kVecBytes;
    (Simd::Store(out + P * kDecodedGroupBytes, Form::template Next<P>(codes)), ...);
  }
}
template <class Form>
void Decode(const uint8_t* tiles, size_t num_tiles, uint8_t* u) {
  for (size_t t = 0; t < num_tiles; ++t, tiles += kTileBytes) {
    DecodeTile<Form>(tiles, u, std::make_integer_sequence<int, Form::kGroups>());
    u += Form::kGroups * kDecodedGroupBytes;
  }
}

// Adds the sums of up to kBlockDots groups, of kMultiplyVecs vectors of rows against N rows of x.
template <int N>
TQ_INLINE void MultiplyBlock(const uint8_t* u, const int8_t* panel, size_t groups,
                             int32_t* totals) {
  constexpr int kCount = Simd::kMultiplyVecs;
  Vec sums[N][kCount];
  for (auto& row : sums) {
    for (Vec& sum : row) sum = Simd::Zero();
  }
  for (size_t g = 0; g < groups; ++g, u += kDecodedGroupBytes, panel += kGroupColumns * N) {
    Vec w[kCount];
#pragma GCC unroll 4
    for (int v = 0; v < kCount; ++v) w[v] = Simd::Load(u + v * Simd::kVecBytes);
#pragma GCC unroll 12
    for (int i = 0; i < N; ++i) {
      const Vec a = Simd::Broadcast(panel + kGroupColumns * i);
#pragma GCC unroll 4
      for (int v = 0; v < kCount; ++v) sums[i][v] = Simd::Dot(sums[i][v], w[v], a);
    }
  }
  for (int i = 0; i < N; ++i) {
    for (int v = 0; v < kCount; ++v) {
      int32_t* at = totals + kTileRows * i + Simd::kVecBytes / 4 * v;
      Simd::Store(at, Simd::Add32(Simd::Load(at), Simd::Total(sums[i][v])));
    }
  }
}
template <int N>
void Multiply(const uint8_t* u, const int8_t* panel, size_t groups, int32_t* sums) {
  constexpr size_t kBlock = Simd::kBlockDots;
  while (groups > 0) {
    const size_t count = groups < kBlock ? groups : kBlock;
    for (int v = 0; v < kVecs; v += Simd::kMultiplyVecs) {
      MultiplyBlock<N>(u + v * Simd::kVecBytes, panel, count, sums + Simd::kVecBytes / 4 * v);
    }
    u += count * kDecodedGroupBytes;
    panel += count * kGroupColumns * N;
    groups -= count;
  }
}

// ---- The table.

template <class Form, size_t... N>
constexpr MatmulKernels MakeKernels(Packing packing, std::index_sequence<N...>) {
  return {
      packing, Simd::kPanelRows, Gemv<Form>, Decode<Form>, {Multiply<static_cast<int>(N) + 1>...}};
}
constexpr MatmulTable MakeTable() {
  constexpr auto kRows = std::make_index_sequence<Simd::kPanelRows>();
  return {
      {MakeKernels<TwoBits>(Packing::k2Bits, kRows), MakeKernels<Base3>(Packing::kBase3, kRows)}};
}
