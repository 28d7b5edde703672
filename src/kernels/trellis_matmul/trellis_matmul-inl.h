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

// Which rows of 8 (of the tile) and which group of activations window J belongs to.
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

template <Code C>
struct Gemv {
  static constexpr ActivationForm kForm = Simd::kGemvForm<C.values>;
  static constexpr TileShape kShape = ShapeOf(C);
  static constexpr int kRegs = kShape.rows / 8;
  static constexpr int kChains = kRegs < 4 ? 2 : 1;
  static constexpr int kGroupBytes = GroupBytes(kForm);
  static constexpr int kTileBytes = kShape.columns / GroupColumns(C.values, kForm) * kGroupBytes;
  using Sums = Vec[kRegs][kChains];

  template <int J>
  TQ_INLINE static void Step(const Planes<C>& planes, const uint8_t* activations, Sums& sums) {
    const Hash hash = HashOf(planes.template Window<J>());
    constexpr int kGroup = GroupOfWindow<C>(J, kForm);
    Vec& sum = sums[RowsOfWindow<C>(J)][kChains == 1 ? 0 : J / 2 % 2];
    const uint8_t* group = activations + kGroup * kGroupBytes;
    if constexpr (kForm == ActivationForm::kWords) {
      static_assert(C.values == 1);
      sum = Simd::DotWords(sum, Simd::Add16(Simd::AddPairs(hash.low), Simd::AddPairs(hash.high)),
                           Simd::Broadcast(group));
    } else {
      const auto low = Simd::LoadBytes(group);
      sum = Simd::DotBytes(sum, hash.low, low);
      if constexpr (C.values == 4) {
        sum = Simd::DotBytes(sum, hash.high, Simd::LoadBytes(group + kGroupBytes));
      } else {
        sum = Simd::DotBytes(sum, hash.high, low);
      }
    }
  }
  template <int... J>
  TQ_INLINE static void Tile(const Planes<C>& planes, const uint8_t* activations, Sums& sums,
                             std::integer_sequence<int, J...>) {
    (Step<J>(planes, activations, sums), ...);
  }

  static void Run(const uint8_t* tiles, size_t num_tiles, const uint8_t* activations,
                  int32_t* partial) {
    Sums sums[kParts];
    for (auto& part : sums) {
      for (auto& chains : part) {
        for (Vec& sum : chains) sum = Simd::Zero();
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
        Vec sum = sums[part][reg][0];
        if constexpr (kChains == 2) sum = Simd::Add32(sum, sums[part][reg][1]);
        Simd::Store(partial + 16 * reg + 16 / kParts * part, sum);
      }
    }
  }
};

// ---- Many rows of x: decode once, multiply by panels. Operands of 16 rows:
//   [group][rows 0-7, rows 8-15][operand: kOperands][64 bytes]
// where the operands of a group all meet the same activations: low and high half of the
// hash for V = 2 in bytes, else one.

template <Code C>
struct Panels {
  static constexpr ActivationForm kForm = Simd::kPanelForm<C.values>;
  static constexpr TileShape kShape = ShapeOf(C);
  static constexpr int kOperands = kForm == ActivationForm::kBytes && C.values == 2 ? 2 : 1;
  static constexpr int kGroupSize = 2 * kOperands * 64;
  static constexpr int kTileGroups = kShape.columns / GroupColumns(C.values, kForm);
  static constexpr int kWindows = 4 * (C.values == 1 ? 2 : 1);  // of a lane in 16 rows

  template <int J>
  TQ_INLINE static void Step(const Planes<C>& planes, uint8_t* decoded) {
    const Hash hash = HashOf(planes.template Window<J>());
    constexpr int kGroup = GroupOfWindow<C>(J, kForm);
    uint8_t* out = decoded + kGroup * kGroupSize + RowsOfWindow<C>(J) % 2 * kOperands * 64;
    if constexpr (kForm == ActivationForm::kBytes) {
      Simd::Store(out, hash.low);
      Simd::Store(out + (C.values == 2 ? 64 : kGroupSize), hash.high);
    } else if constexpr (C.values == 1) {
      Simd::Store(out, Simd::Add16(Simd::AddPairs(hash.low), Simd::AddPairs(hash.high)));
    } else {
      const Vec low_byte = Simd::Set16(255);
      const Vec u0 = Simd::And(hash.low, low_byte), u1 = Simd::HighBytes(hash.low);
      const Vec u2 = Simd::And(hash.high, low_byte), u3 = Simd::HighBytes(hash.high);
      if constexpr (C.values == 2) {
        Simd::Store(out, Simd::Add16(u0, u2));
        Simd::Store(out + kGroupSize, Simd::Add16(u1, u3));
      } else {
        Simd::Store(out, u0);
        Simd::Store(out + kGroupSize, u1);
        Simd::Store(out + 2 * kGroupSize, u2);
        Simd::Store(out + 3 * kGroupSize, u3);
      }
    }
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
      decoded += kTileGroups * kGroupSize;
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
template <bool kWordForm, int kOperands, int N>
void Multiply(const uint8_t* decoded, const uint8_t* panel, size_t groups, int32_t* partial) {
  constexpr int kVecs = Simd::kMultiplyVecs;
  constexpr int kGroupSize = 2 * kOperands * 64;
  constexpr int kVecBytes = 64 / kParts;
  for (int first = 0; first < 2 * kParts; first += kVecs) {
    Vec sums[N][kVecs];
    for (int i = 0; i < N; ++i) {
      for (int v = 0; v < kVecs; ++v) {
        sums[i][v] = Simd::Load(partial + 32 * i + 16 / kParts * (first + v));
      }
    }
    const uint8_t* operands = decoded + first / kParts * kOperands * 64;
    const uint8_t* activations = panel;
    for (size_t g = 0; g < groups; ++g, operands += kGroupSize, activations += 8 * N) {
      Vec w[kOperands][kVecs];
#pragma GCC unroll 2
      for (int o = 0; o < kOperands; ++o) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) {
          w[o][v] =
              Simd::Load(operands + (v / kParts * kOperands + o) * 64 + v % kParts * kVecBytes);
        }
      }
#pragma GCC unroll 12
      for (int i = 0; i < N; ++i) {
        const Vec a = Simd::Broadcast(activations + 8 * i);
#pragma GCC unroll 2
        for (int o = 0; o < kOperands; ++o) {
#pragma GCC unroll 4
          for (int v = 0; v < kVecs; ++v) {
            if constexpr (kWordForm) {
              sums[i][v] = Simd::DotWords(sums[i][v], w[o][v], a);
            } else {
              sums[i][v] = Simd::DotBytes(sums[i][v], w[o][v], a);
            }
          }
        }
      }
    }
    for (int i = 0; i < N; ++i) {
      for (int v = 0; v < kVecs; ++v) {
        Simd::Store(partial + 32 * i + 16 / kParts * (first + v), sums[i][v]);
      }
    }
  }
}

// ---- The table.

template <Code C, size_t... N>
constexpr MatmulKernels MakeKernels(std::index_sequence<N...>) {
  using P = Panels<C>;
  constexpr bool kWordForm = P::kForm == ActivationForm::kWords;
  return {C,
          Gemv<C>::kForm,
          P::kForm,
          Simd::kPanelRows,
          Gemv<C>::Run,
          P::Decode,
          {Multiply<kWordForm, P::kOperands, static_cast<int>(N) + 1>...}};
}

template <size_t... I>
constexpr MatmulTable MakeTable(std::index_sequence<I...>) {
  return {{MakeKernels<kMatmulCodes[I]>(std::make_index_sequence<Simd::kPanelRows>())...}};
}
