// A weight matrix compressed by rotation and trellis code:
//
//   W [rows, cols] = diag(so) Hout^T W' Hin diag(si),   W' = scale * decoded integers
//
// so = out_scale and si = in_scale are signed fp16 channel scales (random signs folded
// in), Hout and Hin block Hadamards of orders out_block and in_block (1: no rotation).
// `in_scale` belongs to the input group (q,k,v share theirs), so x' = Hin (si * x) is
// computed once per group; y = so * (Hout^T (W' x')).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "device/executor.h"
#include "kernels/trellis/trellis_code.h"
#include "tensor/tensor.h"

namespace tq {

// The input side of a group of matrices.
struct InputTransform {
  Tensor in_scale;        // F16 [cols]
  uint32_t in_block = 1;  // order of Hin's blocks; divides cols
};

// Rows [row_begin, row_end) of a matrix at one native rate. Tiles are stored row of
// tiles by row of tiles, along the columns inside; the last tiles are padded, and what
// the padding decodes to is never used.
struct Segment {
  uint64_t row_begin = 0, row_end = 0;
  trellis::Code code;
  float scale = 1;           // W' per decoded integer
  uint64_t byte_offset = 0;  // of the first tile in `codes`
};

// Rows of different rates meet only at multiples of this (every tile height divides it).
inline constexpr uint64_t kSegmentRowMultiple = 64;
// Segments of a matrix, at most.
inline constexpr size_t kMaxSegments = 8;

struct PackedMatrix {
  uint64_t rows = 0, cols = 0;
  std::vector<Segment> segments;  // adjacent, covering all rows
  Tensor codes;                   // U8 [bytes]
  Tensor out_scale;               // F16 [rows]
  uint32_t out_block = 1;         // order of Hout's blocks; divides rows
  std::shared_ptr<const InputTransform> input;

  // All bytes stored for this matrix, without the group's in_scale.
  uint64_t num_bytes() const;
};

// Tiles of a segment along the rows and along the columns, the padded last ones
// included, and the bytes of all its tiles.
uint64_t TileRows(const Segment& segment);
uint64_t TileColumns(trellis::Code code, uint64_t cols);
uint64_t SegmentBytes(const Segment& segment, uint64_t cols);
// Segments for `rows` rows: the first `split` rows at `first`, the others at `second`
// (split == rows: one segment). Offsets are set, scales are 1. `split` is rounded up to
// kSegmentRowMultiple.
std::vector<Segment> MakeSegments(uint64_t rows, uint64_t cols, trellis::Code first,
                                  trellis::Code second, uint64_t split);

// `X.layout` as stored (int32; docs/format.md):
//   [format = 1, code = 1, L, rows, cols, out_block, in_block, number of segments,
//    then per segment: row_end, V, k, bits of the float scale]
// Parse checks every field and that codes/out_scale have exactly the sizes it implies;
// errors name field, value and limit.
std::vector<int32_t> LayoutToInts(const PackedMatrix& matrix);
StatusOr<PackedMatrix> PackedMatrixFromTensors(const Tensor& layout, Tensor codes, Tensor out_scale,
                                               std::shared_ptr<const InputTransform> input);
// Numbers in the layout of a matrix with so many segments.
uint64_t LayoutSize(size_t segments);

// W' in the rotated basis: rows [begin, end), float [end - begin, cols].
void DecodeRotatedRows(const PackedMatrix& matrix, uint64_t begin, uint64_t end, float* out);
// Row `row` of W in the original basis, float [cols]. Needs out_block == 1 (embeddings,
// heads), where a row stands alone; reads only that row's windows.
void DecodeRow(const PackedMatrix& matrix, uint64_t row, float* out);
// Rows [begin, end) of W in the original basis, float [end - begin, cols]; both multiples of
// out_block.
void DecodeDenseRows(const PackedMatrix& matrix, uint64_t begin, uint64_t end, Executor& executor,
                     float* out);
// All of W in the original basis, float [rows, cols].
void DecodeDense(const PackedMatrix& matrix, Executor& executor, float* out);

}  // namespace tq
