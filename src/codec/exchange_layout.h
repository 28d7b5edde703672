// The tensors in which AutoGPTQ, GPTQModel and AutoAWQ store matrices of grouped codes, to and from
// GroupedMatrix. All hold the transposed matrix: an input is a row, an output a column.
//
// GPTQ, 2, 3, 4 and 8 bits:
//   qweight I32 [cols * bits / 32, rows]  codes of an output one behind the other down its column
//                                         of words, least significant bit first
//   qzeros  I32 [groups, rows * bits / 32]  zeros of a group along its row in the same way; in the
//                                           first version of the format each is less by one
//   scales  F16 or BF16 [groups, rows]
//   g_idx   I32 [cols]                    the group of each input; none: input / group_size
// AWQ ("gemm"), 4 bits:
//   qweight I32 [cols, rows / 8], qzeros I32 [groups, rows / 8]  nibble i of a word, the least
//       significant first, belongs to output 8 w + {0, 2, 4, 6, 1, 3, 5, 7}[i]
//   scales  F16 or BF16 [groups, rows]
#pragma once

#include <cstdint>
#include <string_view>

#include "base/status.h"
#include "codec/grouped_matrix.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

enum class ExchangeFormat {
  kGptqV1,  // zeros are stored less by one
  kGptqV2,
  kAwq,
};

// "gptq", "gptq_v2" (as in quantization_config.checkpoint_format), "awq".
std::string_view NameOf(ExchangeFormat format);

struct ExchangeTensors {
  Tensor qweight, qzeros, scales;
  Tensor g_idx;  // none for AWQ
};

// What quantization_config says of a matrix.
struct ExchangeSizes {
  uint64_t rows = 0, cols = 0;
  uint32_t bits = 4;
  uint32_t group_size = 128;  // inputs; cols: one group
};

// The shapes of a matrix's tensors; AWQ has no g_idx. Errors: unsupported bits, sides and groups
// beyond those of GroupedLayout, sizes that words do not divide.
struct ExchangeShapes {
  Shape qweight, qzeros, scales, g_idx;
};
StatusOr<ExchangeShapes> ShapesOf(ExchangeFormat format, const ExchangeSizes& sizes);

// The same matrix: codes, scales (as halves) and zeros are kept as they are. Inputs whose groups do
// not lie together are ordered by group. Zeros that are 2^(bits - 1) throughout are not stored. A
// scale of 0 makes a group of zeros. Errors, naming tensor and value: those of ShapesOf, wrong
// types and shapes, groups out of range or of another size than group_size (the last may be
// smaller), scales that are not finite or that no half holds, and zeros of the first version that
// are stored as 2^bits - 1, about which programs differ.
StatusOr<GroupedMatrix> FromExchange(ExchangeFormat format, const ExchangeSizes& sizes,
                                     const ExchangeTensors& tensors, Executor& executor);

// The way back. A group whose scale is 0, all of whose weights are 0, gets a scale of 1 and codes
// in the middle, as other programs have it. Errors: what the format cannot say (bits, an order of
// columns in AWQ, zeros that are no integers from 0, or 1 in the first version, to 2^bits - 1;
// sizes that words do not divide).
StatusOr<ExchangeTensors> ToExchange(ExchangeFormat format, const GroupedMatrix& matrix,
                                     Executor& executor);

}  // namespace tq
