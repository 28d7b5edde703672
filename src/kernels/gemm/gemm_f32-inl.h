// The blocked product in terms of simd::Vec. A file of one level includes its simd header,
// defines kTileRows and kTileVecs (the accumulators of the inner loop: what fits the
// registers) in tq::gemm and includes this.
//
// One panel of kPanel columns of b, kDepth deep, is packed as [depth][kPanel] in the first
// or second level of cache; tiles of kTileRows rows of a run over it, their accumulators
// starting from c. Rows of a are read where they are: eight (or six) streams.
#pragma once

#include <cstddef>

#include "kernels/gemm/gemm_f32_levels.h"

namespace tq::gemm {
namespace {

using simd::Vec;

constexpr size_t kLanes = 16;
constexpr size_t kPanel = kLanes * kTileVecs;
// Depth of a packed panel: 192 x 48 floats are 36 KiB, of the 48 KiB first-level caches;
// multiples of it fill the usual hidden sizes (576, 1536).
constexpr size_t kDepth = 192;
static_assert(kSyrkBlock == kDepth);

constexpr size_t MinOf(size_t a, size_t b) { return a < b ? a : b; }

// Columns of a tile: vectors, and values in the last of them.
struct Width {
  size_t vecs, last;
};
inline Width WidthOf(size_t columns) {
  const size_t vecs = (columns + kLanes - 1) / kLanes;
  return {vecs, columns - (vecs - 1) * kLanes};
}

// acc[i][v] <- chains over `depth` packed rows of b. kByColumns: a holds element (i, p) at
// a[p * lda + i], else at a[i * lda + p].
template <bool kByColumns, int kRows, int kVecs>
inline void RunChains(const float* a, size_t lda, const float* b, size_t depth,
                      Vec (&acc)[kRows][kVecs]) {
  for (size_t p = 0; p < depth; ++p) {
    Vec right[kVecs];
    for (int v = 0; v < kVecs; ++v) right[v] = simd::Load(b + p * kPanel + v * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const Vec left = simd::Set1(kByColumns ? a[p * lda + i] : a[i * lda + p]);
      for (int v = 0; v < kVecs; ++v) acc[i][v] = simd::Fma(left, right[v], acc[i][v]);
    }
  }
}

struct TileArgs {
  const float* a;
  size_t lda;
  const float* b;
  size_t depth;
  float* c;
  size_t ldc;
  size_t last;  // columns in the last vector
  bool from_c;
};

template <int kRows, int kVecs>
void Tile(const TileArgs& t) {
  Vec acc[kRows][kVecs];
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVecs; ++v) {
      acc[i][v] =
          t.from_c ? simd::LoadFirst(t.c + i * t.ldc + v * kLanes, v + 1 < kVecs ? kLanes : t.last)
                   : simd::Zero();
    }
  }
  RunChains<false, kRows, kVecs>(t.a, t.lda, t.b, t.depth, acc);
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v + 1 < kVecs; ++v) simd::Store(t.c + i * t.ldc + v * kLanes, acc[i][v]);
    simd::StoreFirst(t.c + i * t.ldc + (kVecs - 1) * kLanes, t.last, acc[i][kVecs - 1]);
  }
}

// Calls f.template operator()<rows, vecs>() for run-time sizes within the tile's.
template <int kRows, int kVecs, class F>
inline void WithSizes(size_t rows, size_t vecs, const F& f) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return WithSizes<kRows - 1, kVecs>(rows, vecs, f);
  }
  if constexpr (kVecs > 1) {
    if (vecs < kVecs) return WithSizes<kRows, kVecs - 1>(rows, vecs, f);
  }
  f.template operator()<kRows, kVecs>();
}

// packed[p][j] = b[j * ldb + p] for j < columns, p < depth; the rest of the last vector of
// columns is 0.
inline void PackTransposed(const float* b, size_t ldb, size_t columns, size_t depth,
                           float* packed) {
  for (size_t j = 0; j < columns; j += kLanes) {
    const size_t rows = MinOf(kLanes, columns - j);
    for (size_t p = 0; p < depth; p += kLanes) {
      const size_t count = MinOf(kLanes, depth - p);
      Vec block[kLanes];
      for (size_t i = 0; i < kLanes; ++i) {
        if (i >= rows) {
          block[i] = simd::Zero();
        } else if (count == kLanes) {
          block[i] = simd::Load(b + (j + i) * ldb + p);
        } else {
          block[i] = simd::LoadFirst(b + (j + i) * ldb + p, count);
        }
      }
      simd::Transpose16(block);
      for (size_t i = 0; i < count; ++i) simd::Store(packed + (p + i) * kPanel + j, block[i]);
    }
  }
}

// packed[p][j] = b[p * ldb + j], the rest of the last vector 0.
inline void PackRows(const float* b, size_t ldb, size_t columns, size_t depth, float* packed) {
  const Width width = WidthOf(columns);
  for (size_t p = 0; p < depth; ++p) {
    for (size_t v = 0; v + 1 < width.vecs; ++v) {
      simd::Store(packed + p * kPanel + v * kLanes, simd::Load(b + p * ldb + v * kLanes));
    }
    const size_t at = (width.vecs - 1) * kLanes;
    simd::Store(packed + p * kPanel + at, simd::LoadFirst(b + p * ldb + at, width.last));
  }
}

template <bool kTransposedB>
void Matmul(const Args& args) {
  alignas(64) float packed[kDepth * kPanel];
  for (size_t j = 0; j < args.m; j += kPanel) {
    const size_t columns = MinOf(kPanel, args.m - j);
    const Width width = WidthOf(columns);
    // One round even for k = 0, which stores zeros.
    for (size_t p = 0; p == 0 || p < args.k; p += kDepth) {
      const size_t depth = MinOf(kDepth, args.k - p);
      if constexpr (kTransposedB) {
        PackTransposed(args.b + j * args.ldb + p, args.ldb, columns, depth, packed);
      } else {
        PackRows(args.b + p * args.ldb + j, args.ldb, columns, depth, packed);
      }
      TileArgs tile = {args.a + p, args.lda, packed,     depth,
                       args.c + j, args.ldc, width.last, args.accumulate || p > 0};
      for (size_t i = 0; i < args.n; i += kTileRows) {
        WithSizes<kTileRows, kTileVecs>(MinOf(kTileRows, args.n - i), width.vecs,
                                        [&]<int kRows, int kVecs>() { Tile<kRows, kVecs>(tile); });
        tile.a += kTileRows * args.lda;
        tile.c += kTileRows * args.ldc;
      }
    }
  }
}

// One tile of SyrkUpper: rows i.. of h, columns j..; only j >= i is stored.
template <int kRows, int kVecs>
void SyrkTile(const float* a, const float* b, size_t depth, const SyrkArgs& args, size_t i,
              size_t j, size_t last) {
  Vec acc[kRows][kVecs];
  for (auto& row : acc) {
    for (Vec& sum : row) sum = simd::Zero();
  }
  RunChains<true, kRows, kVecs>(a, kTileRows, b, depth, acc);
  for (int r = 0; r < kRows; ++r) {
    float* h = args.h + (i + r) * args.ldh + j;
    for (int v = 0; v < kVecs; ++v) {
      const size_t begin = j + v * kLanes, count = v + 1 < kVecs ? kLanes : last;
      if (begin >= i + r && count == kLanes) {
        simd::Store(h + v * kLanes, simd::Add(simd::Load(h + v * kLanes), acc[r][v]));
        continue;
      }
      float part[kLanes];
      simd::Store(part, acc[r][v]);
      const size_t skipped = begin >= i + r ? 0 : MinOf(count, i + r - begin);
      for (size_t t = skipped; t < count; ++t) h[v * kLanes + t] += part[t];
    }
  }
}

// Rows of h whose factors are packed together, so that a panel's packing is
// spread over them.
constexpr size_t kSyrkRows = 96;
static_assert(kSyrkRows % kTileRows == 0);

void Syrk(const SyrkArgs& args) {
  alignas(64) float left[kDepth * kSyrkRows];  // per tile [depth][kTileRows]
  alignas(64) float right[kDepth * kPanel];
  for (size_t row = args.row_begin; row < args.row_end; row += kSyrkRows) {
    const size_t rows = MinOf(kSyrkRows, args.row_end - row);
    for (size_t p = 0; p < args.n; p += kDepth) {
      const size_t depth = MinOf(kDepth, args.n - p);
      const float* x = args.x + p * args.ldx;
      for (size_t i = 0; i < rows; ++i) {
        float* to = left + i / kTileRows * kTileRows * kDepth + i % kTileRows;
        for (size_t q = 0; q < depth; ++q) to[q * kTileRows] = x[q * args.ldx + row + i];
      }
      for (size_t j = row; j < args.k; j += kPanel) {
        const size_t columns = MinOf(kPanel, args.k - j);
        const Width width = WidthOf(columns);
        PackRows(x + j, args.ldx, columns, depth, right);
        for (size_t i = 0; i < rows && row + i < j + columns; i += kTileRows) {
          WithSizes<kTileRows, kTileVecs>(MinOf(kTileRows, rows - i), width.vecs,
                                          [&]<int kRows, int kVecs>() {
                                            SyrkTile<kRows, kVecs>(left + i * kDepth, right, depth,
                                                                   args, row + i, j, width.last);
                                          });
        }
      }
    }
  }
}

}  // namespace
}  // namespace tq::gemm
