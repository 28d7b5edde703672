// A weight matrix as plain scalar codes in groups of columns, the form of round-to-nearest, GPTQ,
// AWQ and ternary:
//   W[r, order[i]] = scale[r, g] * (q[r, i] - zero[r, g]),  g = i / group_size
// without an order, order[i] = i.
#pragma once

#include <cstdint>
#include <vector>

#include "base/checked.h"
#include "base/status.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// What is subtracted from codes.
enum class ZeroKind : uint8_t {
  kHalf = 0,       // an F16 for each group
  kPacked = 1,     // an integer 0..2^bits - 1 for each group, packed as codes are
  kSymmetric = 2,  // 2^(bits - 1) throughout; nothing is stored
};

// The width that stands for ternary codes: q of 0, 1, 2 with zero 1, five in a byte
// (kernels/grouped_matmul/trits.h).
inline constexpr uint32_t kTernaryBits = 1;
inline constexpr double kTernaryRate = 1.6;  // bits of such a code

// What `X.layout` says.
struct GroupedLayout {
  uint64_t rows = 0, cols = 0;
  uint32_t bits = 4;         // 2..8, or kTernaryBits: then zeros are kSymmetric, and not ordered
  uint32_t group_size = 32;  // 1..65536; the last group of a row may be shorter
  ZeroKind zeros = ZeroKind::kHalf;
  bool ordered = false;  // whether columns are stored in an order of their own

  bool ternary() const { return bits == kTernaryBits; }
  double rate() const { return ternary() ? kTernaryRate : bits; }  // bits of a code
  uint64_t groups() const { return CeilDiv<uint64_t>(cols, group_size); }
  // Bytes of a row's codes, and of its zeros where they are packed.
  uint64_t code_bytes() const {
    return ternary() ? CeilDiv<uint64_t>(cols, 5) : CeilDiv<uint64_t>(cols * bits, 8);
  }
  uint64_t packed_zero_bytes() const { return CeilDiv<uint64_t>(groups() * bits, 8); }
};

// Sides of 1 to 2^31 - 1, bits and group size within their limits, so that no size computed from
// them overflows (2^31 * 2^31 halves still fit 64 bits); errors name field, value and limit.
Status CheckGroupedLayout(const GroupedLayout& layout);

struct GroupedTensors {
  Tensor codes;  // U8 [rows, code_bytes]: q of a row, least significant bit first, or trits
  Tensor scale;  // F16 [rows, groups]
  Tensor zero;   // F16 [rows, groups], U8 [rows, packed_zero_bytes], or none (kSymmetric)
  Tensor order;  // I32 [cols], a permutation of 0..cols - 1, or none
};

struct GroupedMatrix : GroupedLayout, GroupedTensors {
  uint64_t num_bytes() const;
};

// `X.layout`: [1, 2, rows, cols, bits, group_size], and for matrices with an order or with zeros
// that are not kHalf [2, 2, rows, cols, bits, group_size, zeros, ordered]; of ternary codes
// [1, 3, rows, cols, group_size]. Parse checks everything.
std::vector<int32_t> LayoutToInts(const GroupedLayout& layout);
StatusOr<GroupedLayout> GroupedLayoutFromTensor(const Tensor& layout);
// The matrix of these parts. Checks sizes, types and shapes, that scales and zeros are finite, that
// `order` is a permutation, of ternary codes that every byte is five of them and scales are above
// 0, and that nothing is there that the layout does not know of; errors name field and value.
StatusOr<GroupedMatrix> MakeGroupedMatrix(const GroupedLayout& layout, GroupedTensors tensors);

// W[begin..end), float [end - begin, cols], columns in W's own order.
void DecodeRows(const GroupedMatrix& matrix, uint64_t begin, uint64_t end, float* out);

// y [n, rows] = x W^T in float, x float [n, cols]; decodes a block of rows at a time. The twin of
// the products in grouped_matmul.h.
void GroupedMatmul(const GroupedMatrix& matrix, const float* x, uint64_t n, Executor& executor,
                   float* y);

}  // namespace tq
