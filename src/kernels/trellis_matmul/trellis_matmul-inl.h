// The trellis kernels over a file's own vector type; included once by each per-ISA file,
// inside its anonymous namespace, after its Simd. What Simd offers is stated there.
//
// Lanes are 16 bits: a plane of a tile is kParts vectors, window j of all lanes one vector
// per part, and the low and the high half of the hash are 16-bit products of their own,
//   low  = s * M mod 2^16,   high = s * (M >> 16) + (s * M_low >> 16)
// (M_low the low half of M), so two states share a 32-bit lane of the dot product and four
// lanes, the columns of one row, share one 64-bit group of activations.

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
};

struct Hash {
  Vec low, high;
};
TQ_INLINE Hash HashOf(Vec state) {
  const Vec low_factor = Simd::Set16(static_cast<int16_t>(kMultiplier & 0xffff));
  const Vec high_factor = Simd::Set16(static_cast<int16_t>(kMultiplier >> 16));
  return {Simd::MulLow(state, low_factor),
          Simd::Add16(Simd::MulLow(state, high_factor), Simd::MulHigh(state, low_factor))};
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

// ---- One row of x. A tile of 16 rows gives each of its sums two chains, by half of the
// columns, so that the latency of the dot products does not bind.

template <Code C, typename S = Simd>  // not every Simd has DotBytes
struct Gemv {
  static constexpr ActivationForm kForm = S::kGemvForm;
  static constexpr bool kInBytes = kForm == ActivationForm::kBytes;
  static constexpr TileShape kShape = ShapeOf(C);
  static constexpr int kRegs = kShape.rows / 8;
  static constexpr int kChains = kRegs * kParts < 4 ? 2 : 1;
  static constexpr int kDigits = kInBytes ? 2 : 1;  // high, low
  static constexpr int kGroupBytes = GroupBytes(kForm);
  static constexpr int kTileBytes = kShape.columns / GroupColumns(C.values, kForm) * kGroupBytes;
  // Tiles that sums in int32 may cover.
  static constexpr size_t kMaxTiles =
      (kInBytes ? kMaxByteColumns : kMaxWordColumns) / kShape.columns;
  using Sums = Vec[kRegs][kChains][kDigits];

  template <int J>
  TQ_INLINE static void Step(const Planes<C>& planes, const uint8_t* activations, Sums& sums) {
    const Hash hash = HashOf(planes.template Window<J>());
    constexpr int kGroup = GroupOfWindow<C>(J, kForm);
    auto& sum = sums[RowsOfWindow<C>(J)][kChains == 1 ? 0 : J / 2 % 2];
    const uint8_t* group = activations + kGroup * kGroupBytes;
    if constexpr (kInBytes) {
      const uint8_t* next = C.values == 4 ? group + kGroupBytes : group;
      for (int digit = 0; digit < kDigits; ++digit) {
        sum[digit] = S::DotBytes(sum[digit], hash.low, Simd::Broadcast(group + 8 * digit));
        sum[digit] = S::DotBytes(sum[digit], hash.high, Simd::Broadcast(next + 8 * digit));
      }
    } else {
      Vec words[C.values];
      WordsOf<C>(hash, words);
      for (int i = 0; i < C.values; ++i) {
        sum[0] = Simd::DotWords(sum[0], words[i], Simd::Broadcast(group + kGroupBytes * i));
      }
    }
  }
  template <int... J>
  TQ_INLINE static void Tile(const Planes<C>& planes, const uint8_t* activations, Sums& sums,
                             std::integer_sequence<int, J...>) {
    (Step<J>(planes, activations, sums), ...);
  }

  // Adds the sums over at most kMaxTiles tiles to `totals`.
  TQ_INLINE static void AddTiles(const uint8_t* tiles, size_t num_tiles, const uint8_t* activations,
                                 int64_t* totals) {
    Sums sums[kParts];
    for (auto& part : sums) {
      for (auto& chains : part) {
        for (auto& digits : chains) {
          for (Vec& sum : digits) sum = Simd::Zero();
        }
      }
    }
    for (size_t t = 0; t < num_tiles; ++t) {
      // The hardware's own prefetcher stops at page ends; 2 KiB ahead hides them.
      for (int q = 0; q < kShape.words; ++q) __builtin_prefetch(tiles + 2048 + 64 * q);
      for (int part = 0; part < kParts; ++part) {
        Planes<C> planes;
        planes.Load(tiles, part);
        Tile(planes, activations, sums[part], std::make_integer_sequence<int, kShape.windows>());
      }
      tiles += kShape.bytes();
      activations += kTileBytes;
    }
    for (int part = 0; part < kParts; ++part) {
      for (int reg = 0; reg < kRegs; ++reg) {
        int64_t* at = totals + 8 * reg + 8 / kParts * part;
        Vec total = Simd::Load(at);
        for (int digit = 0; digit < kDigits; ++digit) {
          Vec sum = sums[part][reg][0][digit];
          if constexpr (kChains == 2) sum = Simd::Add32(sum, sums[part][reg][1][digit]);
          Vec wide = Simd::Widen(sum);
          if (kInBytes && digit == 0) wide = Simd::Times64(wide);
          total = Simd::Add64(total, wide);
        }
        Simd::Store(at, total);
      }
    }
  }

  static void Run(const uint8_t* tiles, size_t num_tiles, const uint8_t* activations,
                  int64_t* sums) {
    for (int row = 0; row < kShape.rows; ++row) sums[row] = 0;
    for (size_t first = 0; first < num_tiles; first += kMaxTiles) {
      const size_t left = num_tiles - first;
      AddTiles(tiles + first * kShape.bytes(), left < kMaxTiles ? left : kMaxTiles,
               activations + first * kTileBytes, sums);
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
  static constexpr int kWindows = 4 * (C.values == 1 ? 2 : 1);  // of a lane in 16 rows

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
    (Step<kFragment * kWindows + J>(planes, decoded), ...);
  }
  template <int kFragment>
  static void DecodeFragment(const uint8_t* tiles, size_t num_tiles, uint8_t* decoded) {
    for (size_t t = 0; t < num_tiles; ++t) {
      for (int part = 0; part < kParts; ++part) {
        Planes<C> planes;
        planes.Load(tiles, part);
        Tile<kFragment>(planes, decoded + 64 / kParts * part,
                        std::make_integer_sequence<int, kWindows>());
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
          Simd::kGemvForm,
          Simd::kPanelRows,
          Gemv<C>::Run,
          Panels<C>::Decode,
          {Multiply<static_cast<int>(N) + 1>...}};
}

template <size_t... I>
constexpr MatmulTable MakeTable(std::index_sequence<I...>) {
  return {{MakeKernels<kMatmulCodes[I]>(std::make_index_sequence<Simd::kPanelRows>())...}};
}
