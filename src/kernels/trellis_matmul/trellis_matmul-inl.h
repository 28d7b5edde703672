// The trellis kernels over a file's own vector type; included once by each per-ISA file,
// inside its anonymous namespace, after its Simd. What Simd offers is stated there.
//
// Lanes are 16 bits: a plane of a tile is kParts vectors, window j of all lanes one vector per
// part. Against words, the low and the high half of a lane's hash are 16 bits each; against bytes
// or magnitudes the hash is one 32-bit product, of every other lane; against kHalves the halves
// meet activations as they are, which takes five multiplications of 16 bits in place of two of 32
// bits and two of 16. Four lanes, the columns of one row, share a 64-bit group of activations.

constexpr int kParts = Simd::kParts;  // vectors per 32 lanes
using Vec = Simd::Vec;

// All planes of a tile and the first plane of the next lane.
template <Code C>
struct Planes {
  static constexpr int kWords = ShapeOf(C).words;
  Vec word[kWords + 1];

  TQ_INLINE void Load(const uint8_t* tile, int part) {
    for (int q = 0; q < kWords; ++q) word[q] = Simd::Load(tile + 64 * q + 64 / kParts * part);
    word[kWords] = Simd::LoadNextLane(tile, part);
  }
  template <int J>
  TQ_INLINE Vec Window() const {
    constexpr int kBit = J * C.bits, kWord = kBit / 16, kShift = kBit % 16;
    const Vec window = Simd::Funnel<kShift>(word[kWord], word[kWord + 1]);
    if constexpr (C.state_bits == 16) {
      return window;
    } else {
      return Simd::And(window, Simd::Set16((1 << C.state_bits) - 1));
    }
  }
  // The windows of lanes 0, 2, .. and of lanes 1, 3, .., in 32 bits each. Where a lane has one
  // word, the next lane's follows it in memory.
  template <int J>
  TQ_INLINE void WindowPair(Vec& even, Vec& odd) const {
    if constexpr (kWords == 1) {
      even = Simd::Cut<J * C.bits, C.state_bits>(word[0]);
      odd = Simd::Cut<J * C.bits, C.state_bits>(word[1]);
    } else {
      const Vec window = Window<J>();
      even = Simd::Cut<0, 16>(window);
      odd = Simd::Cut<16, 16>(window);
    }
  }
};

struct Hash {
  Vec low, high;
};
TQ_INLINE Hash HashOf(Vec state) {
  Hash hash;
  Simd::HashHalves(state, hash.low, hash.high);
  return hash;
}

// What the activations of groups 0..V-1 in words meet: sums of the hash bytes.
template <Code C>
TQ_INLINE void WordsOf(Hash hash, Vec (&words)[C.values]) {
  if constexpr (C.values == 1) {
    words[0] = Simd::Add16(Simd::AddPairs(hash.low), Simd::AddPairs(hash.high));
  } else {
    const Vec low_byte = Simd::Set16(255);
    const Vec u0 = Simd::And(hash.low, low_byte), u1 = Simd::HighBytes(hash.low);
    const Vec u2 = Simd::And(hash.high, low_byte), u3 = Simd::HighBytes(hash.high);
    if constexpr (C.values == 2) {
      words[0] = Simd::Add16(u0, u2);
      words[1] = Simd::Add16(u1, u3);
    } else {
      words[0] = u0, words[1] = u1, words[2] = u2, words[3] = u3;
    }
  }
}

// Which rows of 8 (of the tile) and which first group of activations window J belongs to.
template <Code C>
constexpr int RowsOfWindow(int j) {
  return TileRow(C, 0, j) / 8;
}
template <Code C>
constexpr int GroupOfWindow(int j, ActivationForm form) {
  return TileColumn(C, 0, j) / GroupColumns(C.values, form);
}
// Windows of a lane in a fragment.
template <Code C>
constexpr int kFragmentWindows = 4 * (C.values == 1 ? 2 : 1);

// ---- One row of x: fragments of 16 rows, in two vectors of int32 per scale, two of floats.

template <Code C>
struct Gemv {
  static constexpr ActivationForm kForm = Simd::GemvForm(C.values);
  static constexpr TileShape kShape = ShapeOf(C);
  static constexpr int kFragments = kShape.rows / kFragmentRows;
  static constexpr int kTileBytes =
      kShape.columns / GroupColumns(C.values, kForm) * GroupBytes(kForm);
  static constexpr int kScaleTiles = kScaleColumns / kShape.columns;
  using Totals = Vec[kParts][kFragments][2];

  template <int J>
  TQ_INLINE static void Step(const Planes<C>& planes, const uint8_t* activations, Vec (&sums)[2]) {
    const uint8_t* group = activations + GroupOfWindow<C>(J, kForm) * GroupBytes(kForm);
    Vec& sum = sums[RowsOfWindow<C>(J) % 2];
    if constexpr (kForm == ActivationForm::kWords) {
      Vec words[C.values];
      WordsOf<C>(HashOf(planes.template Window<J>()), words);
      for (int i = 0; i < C.values; ++i) {
        sum = Simd::DotWords(sum, words[i], Simd::Broadcast(group + GroupBytes(kForm) * i));
      }
    } else if constexpr (kForm == ActivationForm::kHalves) {
      const Hash hash = HashOf(planes.template Window<J>());
      sum = Simd::DotBytes(sum, hash.low, group);
      sum = Simd::DotBytes(sum, hash.high, C.values == 4 ? group + GroupBytes(kForm) : group);
    } else {
      // The states of lanes 0, 2, .. and of lanes 1, 3, .. in 32 bits each.
      Vec even, odd;
      planes.template WindowPair<J>(even, odd);
      sum = Simd::DotBytes(sum, Simd::Hash32(even), group);
      sum = Simd::DotBytes(sum, Simd::Hash32(odd), group + 8);
    }
  }
  template <int kFragment, int... J>
  TQ_INLINE static void Tile(const Planes<C>& planes, const uint8_t* activations, Vec (&sums)[2],
                             std::integer_sequence<int, J...>) {
    (Step<kFragment * kFragmentWindows<C> + J>(planes, activations, sums), ...);
  }
  template <int kFragment, int kTiles>
  TQ_INLINE static void Fragment(const Planes<C> (&planes)[kTiles], const uint8_t* activations,
                                 const ScaleGroup& scale, Vec (&totals)[2]) {
    const Vec start = Simd::Start(scale);
    Vec sums[2] = {start, start};
#pragma GCC unroll 2
    for (int t = 0; t < kTiles; ++t) {
      Tile<kFragment>(planes[t], activations + t * kTileBytes, sums,
                      std::make_integer_sequence<int, kFragmentWindows<C>>());
    }
    for (int half : {0, 1}) totals[half] = Simd::AddScaled(totals[half], sums[half], scale.scale);
  }
  template <int kTiles, int... kFragment>
  TQ_INLINE static void Fragments(const Planes<C> (&planes)[kTiles], const uint8_t* activations,
                                  const ScaleGroup& scale, Vec (&totals)[kFragments][2],
                                  std::integer_sequence<int, kFragment...>) {
    (Fragment<kFragment>(planes, activations, scale, totals[kFragment]), ...);
  }

  // The columns of one scale.
  template <int kTiles>
  TQ_INLINE static void Add(const uint8_t* tiles, const uint8_t* activations,
                            const ScaleGroup& scale, Totals& totals) {
    // The hardware's own prefetcher stops at page ends; 4 KiB ahead hides them.
    for (int q = 0; q < kTiles * kShape.words; ++q) __builtin_prefetch(tiles + 4096 + 64 * q);
    for (int part = 0; part < kParts; ++part) {
      Planes<C> planes[kTiles];
      for (int t = 0; t < kTiles; ++t) planes[t].Load(tiles + t * kShape.bytes(), part);
      Fragments<kTiles>(planes, activations, scale, totals[part],
                        std::make_integer_sequence<int, kFragments>());
    }
  }

  static void Run(const uint8_t* tiles, size_t num_tiles, const uint8_t* activations,
                  const ScaleGroup* scales, float* sums) {
    Totals totals;
    for (auto& part : totals) {
      for (auto& fragment : part) fragment[0] = fragment[1] = Simd::Zero();
    }
    for (; num_tiles >= kScaleTiles; num_tiles -= kScaleTiles, ++scales) {
      Add<kScaleTiles>(tiles, activations, *scales, totals);
      tiles += kScaleTiles * kShape.bytes();
      activations += kScaleTiles * kTileBytes;
    }
    if constexpr (kScaleTiles == 2) {
      if (num_tiles > 0) Add<1>(tiles, activations, *scales, totals);
    }
    for (int part = 0; part < kParts; ++part) {
      for (int half = 0; half < 2 * kFragments; ++half) {
        float pairs[16 / kParts];
        Simd::Store(pairs, totals[part][half / 2][half % 2]);
        float* out = sums + 8 * half + 8 / kParts * part;
        for (int row = 0; row < 8 / kParts; ++row) out[row] = pairs[2 * row] + pairs[2 * row + 1];
      }
    }
  }
};

// ---- Many rows of x: decode once, multiply by panels. Operands of 16 rows:
//   [group][rows 0-7, rows 8-15][64 bytes of words]

inline constexpr int kOperandBytes = 2 * 64;  // of a group

template <Code C>
struct Panels {
  static constexpr TileShape kShape = ShapeOf(C);
  static constexpr int kTileBytes = kShape.columns * kDecodedBytesPerColumn;

  template <int J>
  TQ_INLINE static void Step(const Planes<C>& planes, uint8_t* decoded) {
    constexpr int kGroup = GroupOfWindow<C>(J, ActivationForm::kWords);
    uint8_t* out = decoded + kGroup * kOperandBytes + RowsOfWindow<C>(J) % 2 * 64;
    Vec words[C.values];
    WordsOf<C>(HashOf(planes.template Window<J>()), words);
    for (int i = 0; i < C.values; ++i) Simd::Store(out + i * kOperandBytes, words[i]);
  }
  template <int kFragment, int... J>
  TQ_INLINE static void Tile(const Planes<C>& planes, uint8_t* decoded,
                             std::integer_sequence<int, J...>) {
    (Step<kFragment * kFragmentWindows<C> + J>(planes, decoded), ...);
  }
  template <int kFragment>
  static void DecodeFragment(const uint8_t* tiles, size_t num_tiles, uint8_t* decoded) {
    for (size_t t = 0; t < num_tiles; ++t) {
      for (int part = 0; part < kParts; ++part) {
        Planes<C> planes;
        planes.Load(tiles, part);
        Tile<kFragment>(planes, decoded + 64 / kParts * part,
                        std::make_integer_sequence<int, kFragmentWindows<C>>());
      }
      tiles += kShape.bytes();
      decoded += kTileBytes;
    }
  }
  static void Decode(const uint8_t* tiles, size_t num_tiles, int fragment, uint8_t* decoded) {
    constexpr int kFragments = kShape.rows / kFragmentRows;
    if (fragment == 0) DecodeFragment<0>(tiles, num_tiles, decoded);
    if constexpr (kFragments > 1) {
      if (fragment == 1) DecodeFragment<1>(tiles, num_tiles, decoded);
    }
    if constexpr (kFragments > 2) {
      if (fragment == 2) DecodeFragment<2>(tiles, num_tiles, decoded);
      if (fragment == 3) DecodeFragment<3>(tiles, num_tiles, decoded);
    }
  }
};

// Sums of `kVecs` vectors of operands (of 2 * kParts) against N rows of x.
template <int N>
void Multiply(const uint8_t* decoded, const uint8_t* panel, size_t groups, int64_t* totals) {
  constexpr int kVecs = Simd::kMultiplyVecs;
  constexpr int kVecBytes = 64 / kParts;
  for (int first = 0; first < 2 * kParts; first += kVecs) {
    Vec sums[N][kVecs];
    for (auto& row : sums) {
      for (Vec& sum : row) sum = Simd::Zero();
    }
    const uint8_t* operands = decoded + first * kVecBytes;
    const uint8_t* activations = panel;
    for (size_t g = 0; g < groups; ++g, operands += kOperandBytes, activations += 8 * N) {
      Vec w[kVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) w[v] = Simd::Load(operands + v * kVecBytes);
#pragma GCC unroll 12
      for (int i = 0; i < N; ++i) {
        const Vec a = Simd::Broadcast(activations + 8 * i);
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) sums[i][v] = Simd::DotWords(sums[i][v], w[v], a);
      }
    }
    for (int i = 0; i < N; ++i) {
      for (int v = 0; v < kVecs; ++v) {
        int64_t* at = totals + kFragmentRows * i + 8 / kParts * (first + v);
        Simd::Store(at, Simd::Add64(Simd::Load(at), Simd::Widen(sums[i][v])));
      }
    }
  }
}

// ---- The table.

template <Code C, size_t... N>
constexpr MatmulKernels MakeKernels(std::index_sequence<N...>) {
  return {C,
          Simd::GemvForm(C.values),
          Simd::kPanelRows,
          Gemv<C>::Run,
          Panels<C>::Decode,
          {Multiply<static_cast<int>(N) + 1>...}};
}

template <size_t... I>
constexpr MatmulTable MakeTable(std::index_sequence<I...>) {
  return {{MakeKernels<kMatmulCodes[I]>(std::make_index_sequence<Simd::kPanelRows>())...}};
}
