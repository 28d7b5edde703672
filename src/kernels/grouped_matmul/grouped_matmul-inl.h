// The grouped kernels over a file's own vector type; included once by each per-ISA file, inside its
// anonymous namespace, after its Simd. x86 only: scales and zeros are read by SSE.
//
// A vector has kLanes groups of 4 lanes of 32 bits, each of one block. Vectors of bytes hold the
// same part of so many blocks, and the dot products of 4 rows of weights are added up within the
// groups to [block][4 rows], where scales, zeros and totals are.

using Vec = Simd::Vec;    // of integers
using VecF = Simd::VecF;  // of floats
constexpr int kVecBytes = Simd::kVecBytes;
constexpr size_t kLanes = kVecBytes / 16;

template <int kBits>
struct Shape {
  static constexpr int kParts = Parts(kBits);
  // Trits are bytes before they are cut up (Passages).
  static constexpr int kCutBits = kBits == kTrits ? 8 : kBits;
  static constexpr int kVecs = kParts / 2;  // of blocks in a step
  static constexpr size_t kStepBlocks = kLanes * kVecs;
  static constexpr size_t kStepBytes = kStepBlocks * kBlockColumns * kCutBits / 8;
  // Steps after which totals are met again: 4 blocks, or 8 of 2 bits, at every level.
  static constexpr int kSteps = 4 / kLanes;
  static constexpr size_t kBlocks = kSteps * kStepBlocks;
  static constexpr size_t kBytes = kSteps * kStepBytes;
  // What is read from the beginning of such a passage, at most.
  static constexpr size_t kReadBytes = kBytes + Simd::template Overread<kCutBits>();
};

// The hardware's own prefetcher stops at page ends. What is fetched with byte `at` of each of some
// rows; behind the end of a row comes what follows them all.
constexpr size_t kPrefetchBytes = 2048;
TQ_INLINE size_t AheadOf(const Weights& w, size_t at, size_t rows) {
  at += kPrefetchBytes;
  return at < w.code_bytes ? at : at + (rows - 1) * w.code_bytes;
}

// ---- Codes that lie within memory, or a copy of them.

// Passages of a row that may be read where they are.
template <int kBits>
size_t DirectPassages(const Weights& w, size_t row) {
  using S = Shape<kBits>;
  const size_t readable = (w.rows - row) * w.code_bytes;
  return readable < S::kReadBytes ? 0 : (readable - S::kReadBytes) / S::kBytes + 1;
}
// The same for others: what there is of passage `i` of the row, zeros behind it.
template <int kBits>
const uint8_t* CopyPassage(const Weights& w, size_t row, size_t i, uint8_t* copy) {
  using S = Shape<kBits>;
  const size_t begin = i * S::kBytes;
  const size_t count = begin < w.code_bytes ? w.code_bytes - begin : 0;
  __builtin_memset(copy, 0, S::kReadBytes);
  __builtin_memcpy(copy, w.codes + row * w.code_bytes + begin,
                   count < S::kReadBytes ? count : S::kReadBytes);
  return copy;
}

// Passages of kCount rows, asked for in turn up to block `end`.
template <int kBits, size_t kCount>
class Passages {
 public:
  Passages(const Weights& w, const size_t (&rows)[kCount], size_t /*end*/)
      : w_(w), rows_(rows), direct_(DirectPassages<kBits>(w, rows[kCount - 1])) {}

  // The one that begins with `block`; valid until the next is asked for.
  TQ_INLINE void Find(size_t block, const uint8_t* (&codes)[kCount]) {
    using S = Shape<kBits>;
    const size_t i = block / S::kBlocks;
    for (size_t r = 0; r < kCount; ++r) {
      codes[r] = i < direct_ ? w_.codes + rows_[r] * w_.code_bytes + i * S::kBytes
                             : CopyPassage<kBits>(w_, rows_[r], i, copies_[r]);
    }
  }

 private:
  const Weights& w_;
  const size_t (&rows_)[kCount];
  const size_t direct_;
  uint8_t copies_[kCount][Shape<kBits>::kReadBytes];
};

// ---- Trits, expanded to a byte each.

// Blocks that are expanded together: whole chunks and whole passages.
constexpr size_t kChunkBlocks = kChunkColumns / kBlockColumns, kPieceBlocks = 2 * kChunkBlocks;
constexpr size_t kPieceBytes = kPieceBlocks * kBlockColumns;

// The codes of a chunk of `width` bytes in `codes` [kChunkBytes], to out [kChunkColumns]. What is
// written behind those of a digit is written again with the next.
TQ_INLINE void ExpandChunk(const uint8_t* codes, size_t width, uint8_t* out) {
  constexpr int kVecs = kChunkBytes / kVecBytes;
  // Fractions less 128 (packing.h of ternary_matmul): 3 f >= 256 from f = 86 on, 512 from 171 on.
  Vec fractions[kVecs];
  for (int v = 0; v < kVecs; ++v) {
    fractions[v] = Simd::Xor(Simd::Load(codes + v * kVecBytes), Simd::Set8(INT8_MIN));
  }
#pragma GCC unroll 5
  for (size_t place = 0; place < kTritsPerByte; ++place, out += width) {
    for (int v = 0; v < kVecs; ++v) {
      Vec& f = fractions[v];
      Simd::Store(out + v * kVecBytes, Simd::CountAbove(f, 85 - 128, 170 - 128));
      f = Simd::Add8(f, Simd::Add8(f, f));
    }
  }
}

// Chunk `chunk` of a row, one of `rows` that are gone through together; zeros where the row has no
// more.
TQ_INLINE void ExpandChunkOf(const Weights& w, size_t row, size_t rows, size_t chunk,
                             uint8_t* out) {
  const size_t begin = chunk * kChunkColumns, at = chunk * kChunkBytes;
  const uint8_t* codes = w.codes + row * w.code_bytes + at;
  __builtin_prefetch(codes - at + AheadOf(w, at, rows));
  if (begin + kChunkColumns <= w.cols) {
    ExpandChunk(codes, kChunkBytes, out);
    return;
  }
  __builtin_memset(out, 0, kChunkColumns);
  if (begin >= w.cols) return;
  const size_t width = TritBytes(w.cols - begin);
  if ((w.rows - row) * w.code_bytes >= at + kChunkBytes) {
    ExpandChunk(codes, width, out);
  } else {
    uint8_t copy[kChunkBytes] = {};
    __builtin_memcpy(copy, codes, width);
    ExpandChunk(copy, width, out);
  }
}

template <size_t kCount>
class Passages<kTrits, kCount> {
 public:
  Passages(const Weights& w, const size_t (&rows)[kCount], size_t end)
      : w_(w), rows_(rows), end_(end) {}

  TQ_INLINE void Find(size_t block, const uint8_t* (&codes)[kCount]) {
    const size_t piece = block / kPieceBlocks * kPieceBlocks;
    if (block >= expanded_) {
      expanded_ = piece + kPieceBlocks < end_ ? piece + kPieceBlocks : end_;
      for (size_t r = 0; r < kCount; ++r) {
        for (size_t b = block / kChunkBlocks * kChunkBlocks; b < expanded_; b += kChunkBlocks) {
          ExpandChunkOf(w_, rows_[r], kCount, b / kChunkBlocks,
                        bytes_[r] + (b - piece) * kBlockColumns);
        }
      }
    }
    for (size_t r = 0; r < kCount; ++r) codes[r] = bytes_[r] + (block - piece) * kBlockColumns;
  }

 private:
  const Weights& w_;
  const size_t (&rows_)[kCount];
  const size_t end_;
  size_t expanded_ = 0;
  alignas(kChunkBytes) uint8_t bytes_[kCount][kPieceBytes];
};

// ---- Scales and zeros of 4 rows.

// Four packed zeros from number `g` on; nothing behind the row's bytes is read.
TQ_INLINE __m128 PackedZeros(const Weights& w, const uint8_t* row, size_t g) {
  const size_t bit = g * w.bits, byte = bit / 8;
  uint32_t word = 0;
  if (byte + 4 <= w.packed_bytes) {
    __builtin_memcpy(&word, row + byte, 4);
  } else {
    __builtin_memcpy(&word, row + byte, w.packed_bytes - byte);
  }
  // 4 * bits is a multiple of 4, so that with 7 bits the last ends at bit 4 + 28.
  const int shift = static_cast<int>(bit % 8), bits = w.bits;
  const __m128i shifts = _mm_setr_epi32(shift, shift + bits, shift + 2 * bits, shift + 3 * bits);
  const __m128i codes = _mm_srlv_epi32(_mm_set1_epi32(static_cast<int>(word)), shifts);
  return _mm_cvtepi32_ps(_mm_and_si128(codes, _mm_set1_epi32((1 << bits) - 1)));
}
// Four halves from number `g` of `count` on, zeros behind them.
TQ_INLINE __m128 Halves(const uint16_t* halves, size_t g, size_t count) {
  uint64_t four = 0;
  if (g + 4 <= count) {
    __builtin_memcpy(&four, halves + g, 8);
  } else {
    __builtin_memcpy(&four, halves + g, 2 * (count - g));
  }
  return _mm_cvtph_ps(_mm_cvtsi64_si128(static_cast<int64_t>(four)));
}

// [group][4 rows], `stride` floats apart, from [row][4 groups].
TQ_INLINE void PutTransposed(__m128 (&rows)[4], size_t count, size_t stride, float* out) {
  _MM_TRANSPOSE4_PS(rows[0], rows[1], rows[2], rows[3]);
  for (size_t g = 0; g < count; ++g) _mm_storeu_ps(out + g * stride, rows[g]);
}

// Groups [first, first + count) of 4 rows, those behind the last row as the last one, zeros behind
// the last group.
inline void ReadScales(const Weights& w, size_t row, size_t first, size_t count, size_t stride,
                       float* scale, float* zero) {
  size_t rows[kGemvRows];
  for (size_t r = 0; r < kGemvRows; ++r) rows[r] = row + r < w.rows ? row + r : w.rows - 1;
  size_t g = 0;
  while (g < count && first + g < w.groups) {
    // Whole fours of packed zeros begin at bits 0 or 4 of a byte.
    const size_t at = (first + g) / 4 * 4, skip = first + g - at;
    __m128 scales[kGemvRows], zeros[kGemvRows];
    for (size_t r = 0; r < kGemvRows; ++r) {
      scales[r] = Halves(w.scale + rows[r] * w.groups, at, w.groups);
      if (w.half_zero != nullptr) {
        zeros[r] = Halves(w.half_zero + rows[r] * w.groups, at, w.groups);
      } else if (w.packed_zero != nullptr) {
        zeros[r] = PackedZeros(w, w.packed_zero + rows[r] * w.packed_bytes, at);
      } else {
        zeros[r] = _mm_set1_ps(static_cast<float>(1 << (w.bits - 1)));
      }
    }
    float four[2][16];
    size_t part = 4 - skip;
    if (part > count - g) part = count - g;
    if (part > w.groups - first - g) part = w.groups - first - g;
    if (skip == 0) {
      PutTransposed(scales, part, stride, scale + g * stride);
      PutTransposed(zeros, part, stride, zero + g * stride);
    } else {
      PutTransposed(scales, 4, 4, four[0]);
      PutTransposed(zeros, 4, 4, four[1]);
      for (size_t i = 0; i < part; ++i) {
        __builtin_memcpy(scale + (g + i) * stride, four[0] + 4 * (skip + i), 16);
        __builtin_memcpy(zero + (g + i) * stride, four[1] + 4 * (skip + i), 16);
      }
    }
    g += part;
  }
  for (; g < count; ++g) {
    _mm_storeu_ps(scale + g * stride, _mm_setzero_ps());
    _mm_storeu_ps(zero + g * stride, _mm_setzero_ps());
  }
}

inline void Scales(const Weights& w, size_t row, size_t first, size_t count, float* scale,
                   float* zero) {
  for (size_t r = 0; r < kTileRows; r += kGemvRows) {
    const size_t from = row + r < w.rows ? row + r : w.rows - 1;
    ReadScales(w, from, first, count, kTileRows, scale + r, zero + r);
  }
}

// ---- One row of x.

// Sums of a step of one row of weights.
template <int kBits>
TQ_INLINE Vec DotStep(const uint8_t* codes, const int8_t* a) {
  using S = Shape<kBits>;
  Vec parts[S::kParts];
  Simd::template Unpack<S::kCutBits>(codes, parts);
  Vec sum = Simd::Zero();
#pragma GCC unroll 4
  for (int p = 0; p < S::kParts; ++p) {
    sum = Simd::template Dot<kBits, S::kParts>(sum, parts[p], Simd::Load(a + p * kVecBytes));
  }
  return Simd::template Total<kBits, S::kParts>(sum);
}

// The groups of units (blocks or passages), counted on: where their scales are, in floats.
struct GroupWalk {
  size_t units, left, at = 0;

  GroupWalk(size_t group_units, size_t first) : units(group_units), left(units - first % units) {}
  TQ_INLINE size_t Next() {
    const size_t now = at;
    if (--left == 0) {
      left = units;
      at += kGemvRows;
    }
    return now;
  }
};

// A passage of 4 rows: adds to the totals.
// kOneGroup: all of its blocks are of one group.
template <int kBits, bool kOneGroup>
TQ_INLINE void AddPassage(const uint8_t* const (&codes)[kGemvRows], const ActivationRow& x,
                          size_t block, const float* scale, const float* zero, GroupWalk& walk,
                          VecF (&totals)[Shape<kBits>::kSteps][Shape<kBits>::kVecs]) {
  using S = Shape<kBits>;
  size_t at[S::kBlocks];
  if constexpr (kOneGroup) {
    at[0] = walk.Next();
  } else {
    for (size_t& group : at) group = walk.Next();
  }
  const int8_t* a = x.a + block * kBlockColumns;
  const float *d = x.scale + 4 * block, *a_sum = x.sum + 4 * block;
#pragma GCC unroll 4
  for (int s = 0; s < S::kSteps; ++s) {
    Vec sums[kGemvRows], whole[S::kVecs];
#pragma GCC unroll 4
    for (int r = 0; r < kGemvRows; ++r) {
      sums[r] = DotStep<kBits>(codes[r] + s * S::kStepBytes, a + s * S::kParts * kVecBytes);
    }
    if constexpr (S::kVecs == 1) {
      whole[0] = Simd::AddUpFours(sums);
    } else {
      Simd::AddUpPairs(sums, whole);
    }
#pragma GCC unroll 2
    for (int v = 0; v < S::kVecs; ++v) {
      const size_t quads = 4 * kLanes * (s * S::kVecs + v);
      VecF scales, zeros;
      if constexpr (kOneGroup) {
        scales = Simd::BroadcastQuad(scale + at[0]);
        zeros = Simd::BroadcastQuad(zero + at[0]);
      } else {
        const size_t* blocks = at + s * S::kStepBlocks + v;
        scales = Simd::template Quads<S::kVecs>(scale, blocks);
        zeros = Simd::template Quads<S::kVecs>(zero, blocks);
      }
      const VecF factor = Simd::MulF(scales, Simd::LoadF(d + quads));
      const VecF value = Simd::FnmaF(zeros, Simd::LoadF(a_sum + quads), Simd::ToFloat(whole[v]));
      totals[s][v] = Simd::FmaF(value, factor, totals[s][v]);
    }
  }
}

// The totals' floats in the order of phases, [P][4 rows].
template <int kBits>
TQ_INLINE void StoreTotals(const VecF (&totals)[Shape<kBits>::kSteps][Shape<kBits>::kVecs],
                           float* out) {
  using S = Shape<kBits>;
  for (int s = 0; s < S::kSteps; ++s) {
    for (int v = 0; v < S::kVecs; ++v) {
      float quads[4 * kLanes];
      Simd::StoreF(quads, totals[s][v]);
      for (size_t l = 0; l < kLanes; ++l) {
        const size_t phase = s * S::kStepBlocks + l * S::kVecs + v;
        __builtin_memcpy(out + phase * kGemvRows, quads + 4 * l, 16);
      }
    }
  }
}

// Blocks whose scales are read together: 16 KiB as floats where each block has its own.
constexpr size_t kScaleBlocks = 256;

template <int kBits, bool kOneGroup>
void GemvRows(const Weights& w, size_t row, const ActivationRow& x, float* y) {
  using S = Shape<kBits>;
  size_t rows[kGemvRows];
  for (size_t r = 0; r < kGemvRows; ++r) rows[r] = row + r < w.rows ? row + r : w.rows - 1;
  Passages<kBits, kGemvRows> source(w, rows, x.blocks);
  const size_t passages = x.blocks / S::kBlocks;
  constexpr size_t kChunk = kScaleBlocks / S::kBlocks;
  float scale[(kScaleBlocks + 1) * kGemvRows], zero[(kScaleBlocks + 1) * kGemvRows];
  VecF totals[S::kSteps][S::kVecs];
  for (auto& step : totals) {
    for (VecF& total : step) total = Simd::ZeroF();
  }
  for (size_t begin = 0; begin < passages; begin += kChunk) {
    const size_t end = begin + kChunk < passages ? begin + kChunk : passages;
    const size_t group = begin * S::kBlocks / w.group_blocks;
    const size_t last = (end * S::kBlocks - 1) / w.group_blocks;
    ReadScales(w, row, group, last - group + 1, kGemvRows, scale, zero);
    constexpr size_t kUnit = kOneGroup ? S::kBlocks : 1;
    GroupWalk walk(w.group_blocks / kUnit, begin * S::kBlocks / kUnit);
    for (size_t i = begin; i < end; ++i) {
      const uint8_t* codes[kGemvRows];
      source.Find(i * S::kBlocks, codes);
      if constexpr (kBits != kTrits) {
        const size_t ahead = AheadOf(w, i * S::kBytes, kGemvRows);
        for (size_t r = 0; r < kGemvRows; ++r) {
          const uint8_t* at = w.codes + rows[r] * w.code_bytes + ahead;
          for (size_t line = 0; line < S::kBytes; line += 64) __builtin_prefetch(at + line);
        }
      }
      AddPassage<kBits, kOneGroup>(codes, x, i * S::kBlocks, scale, zero, walk, totals);
    }
  }
  float phases[Phases(kBits) * kGemvRows];
  StoreTotals<kBits>(totals, phases);
  for (size_t r = 0; r < kGemvRows; ++r) y[r] = SumPhases(phases + r, kGemvRows, Phases(kBits));
}

template <int kBits>
void Gemv(const Weights& w, size_t row, const ActivationRow& x, float* y) {
  if (w.group_blocks % Shape<kBits>::kBlocks == 0) {
    GemvRows<kBits, true>(w, row, x, y);
  } else {
    GemvRows<kBits, false>(w, row, x, y);
  }
}

// ---- Many rows of x: decode once, multiply by panels.

// A matrix of 32-bit lanes, turned over.
TQ_INLINE void Transpose(Vec (&m)[4 * kLanes]) {
  Vec t[4 * kLanes];
#pragma GCC unroll 4
  for (size_t i = 0; i < 4 * kLanes; i += 4) {
    t[i] = Simd::Low32(m[i], m[i + 1]);
    t[i + 1] = Simd::High32(m[i], m[i + 1]);
    t[i + 2] = Simd::Low32(m[i + 2], m[i + 3]);
    t[i + 3] = Simd::High32(m[i + 2], m[i + 3]);
    m[i] = Simd::Low64(t[i], t[i + 2]);
    m[i + 1] = Simd::High64(t[i], t[i + 2]);
    m[i + 2] = Simd::Low64(t[i + 1], t[i + 3]);
    m[i + 3] = Simd::High64(t[i + 1], t[i + 3]);
  }
  // m[4 k + c] has, in its groups of lanes l, column 4 l + c of rows 4 k .. + 3.
  Simd::JoinFours(m);
}

template <int kBits>
using Passage = Vec[Shape<kBits>::kSteps][Shape<kBits>::kParts][4 * kLanes];

// Writes a passage of 4 * kLanes rows from `row` of the tile on: 32-bit pieces of their blocks.
template <int kBits>
TQ_INLINE void StorePassage(Passage<kBits>& parts, size_t row, uint8_t* u) {
  using S = Shape<kBits>;
  constexpr size_t kQuads = 8 / S::kParts;  // pieces of a block's part
  for (int s = 0; s < S::kSteps; ++s, u += S::kStepBlocks * kDecodedBlockBytes) {
    for (int part = 0; part < S::kParts; ++part) {
      Transpose(parts[s][part]);
      for (size_t j = 0; j < 4 * kLanes; ++j) {
        const size_t piece = part * kQuads + j % kQuads;
        Simd::Store(u + j / kQuads * kDecodedBlockBytes + (piece * kTileRows + row) * 4,
                    parts[s][part][j]);
      }
    }
  }
}

template <int kBits>
void Decode(const Weights& w, size_t row, size_t first, size_t count, uint8_t* u) {
  using S = Shape<kBits>;
  constexpr size_t kRows = 4 * kLanes;
  for (size_t r0 = 0; r0 < kTileRows; r0 += kRows) {
    size_t rows[kRows];
    for (size_t r = 0; r < kRows; ++r) rows[r] = row + r0 + r < w.rows ? row + r0 + r : w.rows - 1;
    Passages<kBits, kRows> source(w, rows, first + count);
    for (size_t p = 0; p < count / S::kBlocks; ++p) {
      const uint8_t* codes[kRows];
      source.Find(first + p * S::kBlocks, codes);
      Passage<kBits> parts;
      for (size_t r = 0; r < kRows; ++r) {
        for (int s = 0; s < S::kSteps; ++s) {
          Vec step[S::kParts];
          Simd::template Unpack<S::kCutBits>(codes[r] + s * S::kStepBytes, step);
          for (int part = 0; part < S::kParts; ++part) parts[s][part][r] = step[part];
        }
      }
      StorePassage<kBits>(parts, r0, u + p * S::kBlocks * kDecodedBlockBytes);
    }
  }
}

// kMultiplyVecs vectors of rows of weights against N rows of x.
template <int kBits, int N>
TQ_INLINE void MultiplyRows(const MultiplyArgs& args, size_t row) {
  constexpr int kVecs = Simd::kMultiplyVecs, kQuads = kBlockColumns / 4;
  constexpr size_t kRows = 4 * kLanes;
  const uint8_t* u = args.u + 4 * row;
  const int8_t* panel = args.panel;
  const float *scale = args.scale + row, *zero = args.zero + row;
  size_t left = args.group_blocks - args.into_group;
  for (size_t b = 0; b < args.blocks; ++b) {
    Vec sums[N][kVecs];
    for (auto& x : sums) {
      for (Vec& sum : x) sum = Simd::Zero();
    }
    for (int q = 0; q < kQuads; ++q, u += 4 * kTileRows, panel += 4 * N) {
      Vec weights[kVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) weights[v] = Simd::Load(u + v * kVecBytes);
#pragma GCC unroll 12
      for (int i = 0; i < N; ++i) {
        const Vec a = Simd::Broadcast(panel + 4 * i);
#pragma GCC unroll 2
        for (int v = 0; v < kVecs; ++v) {
          sums[i][v] = Simd::template Dot<kBits, kQuads>(sums[i][v], weights[v], a);
        }
      }
    }
    float* totals = args.totals + b % Phases(kBits) * N * kTileRows + row;
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      const VecF scales = Simd::LoadF(scale + v * kRows), zeros = Simd::LoadF(zero + v * kRows);
#pragma GCC unroll 12
      for (int i = 0; i < N; ++i) {
        float* at = totals + i * kTileRows + v * kRows;
        const Vec sum = Simd::template Total<kBits, kQuads>(sums[i][v]);
        const VecF a_sum = Simd::SetF(args.panel_sum[b * N + i]);
        const VecF factor = Simd::MulF(scales, Simd::SetF(args.panel_scale[b * N + i]));
        const VecF value = Simd::FnmaF(zeros, a_sum, Simd::ToFloat(sum));
        Simd::StoreF(at, Simd::FmaF(value, factor, Simd::LoadF(at)));
      }
    }
    if (--left == 0) {
      left = args.group_blocks;
      scale += kTileRows;
      zero += kTileRows;
    }
  }
}
template <int kBits, int N>
void Multiply(const MultiplyArgs& args) {
  constexpr size_t kRows = 4 * kLanes * Simd::kMultiplyVecs;
  for (size_t row = 0; row < kTileRows; row += kRows) MultiplyRows<kBits, N>(args, row);
}

// ---- The table.

template <int kBits, size_t... N>
constexpr MatmulKernels MakeKernels(std::index_sequence<N...>) {
  return {kBits,
          kLanes,
          Simd::kPanelRows,
          Gemv<kBits>,
          Decode<kBits>,
          Scales,
          {Multiply<kBits, static_cast<int>(N) + 1>...}};
}
template <int... kBits>
constexpr MatmulTable MakeTable(std::integer_sequence<int, kBits...>) {
  constexpr auto kRows = std::make_index_sequence<Simd::kPanelRows>();
  return {{MakeKernels<kBits + kMinBits>(kRows)...}};
}
