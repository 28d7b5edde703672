// Decoding rows of scalar codes in groups: out[c] = scale[g] * (q[c] - zero[g]), g = c / group.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tq {
enum class Isa;
}

namespace tq::gemm {

struct GroupedRow {
  const uint8_t* codes = nullptr;   // q, `bits` each, least significant bit first
  size_t code_bytes = 0;            // ceil(cols * bits / 8); nothing beyond is read
  const uint16_t* scale = nullptr;  // IEEE half [ceil(cols / group_size)]
  const uint16_t* zero = nullptr;   // the same
  size_t cols = 0, group_size = 0;
  int bits = 0;  // 2..8
};

// out: float [cols]. All levels give the same bits (one subtraction, one product).
void DecodeGroupedRow(const GroupedRow& row, float* out);
void DecodeGroupedRow(const GroupedRow& row, float* out, Isa isa);

}  // namespace tq::gemm
