// Dispatch and the portable level of grouped_codes.h.
#include "kernels/gemm/grouped_codes.h"

#include "kernels/gemm/gemm_f32_levels.h"
#include "kernels/isa.h"
#include "kernels/transformer/elementwise.h"

namespace tq::gemm {
namespace reference {

void DecodeGroupedRow(const GroupedRow& row, float* out) {
  const auto& convert = transformer::ElementwiseFor(Isa::kReference);
  const uint32_t mask = (1u << row.bits) - 1;
  size_t bit = 0;
  for (size_t begin = 0, g = 0; begin < row.cols; begin += row.group_size, ++g) {
    float scale = 0, zero = 0;
    convert.half_to_float(row.scale + g, 1, &scale);
    convert.half_to_float(row.zero + g, 1, &zero);
    for (size_t c = begin; c < row.cols && c < begin + row.group_size; ++c, bit += row.bits) {
      const size_t byte = bit / 8;
      const uint32_t next = byte + 1 < row.code_bytes ? row.codes[byte + 1] : 0;
      const uint32_t q = ((row.codes[byte] | next << 8) >> (bit % 8)) & mask;
      out[c] = scale * (static_cast<float>(q) - zero);
    }
  }
}

}  // namespace reference

void DecodeGroupedRow(const GroupedRow& row, float* out, Isa isa) {
  // The vector levels take 16 codes, which begin at whole bytes, from one group.
  if (row.group_size % 16 != 0) isa = Isa::kReference;
  TQ_AT_LEVEL(isa, DecodeGroupedRow)(row, out);
}
void DecodeGroupedRow(const GroupedRow& row, float* out) {
  DecodeGroupedRow(row, out, CurrentIsa());
}

}  // namespace tq::gemm
