// Dispatch, the portable twin and the layouts.
#include "kernels/grouped_matmul/grouped_activations.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tq::grouped {
namespace {

template <int kBits>
void LayOutBlock(const int8_t* a, int8_t* out, size_t part_stride) {
  for (int part = 0; part < Parts(kBits); ++part) {
    for (int i = 0; i < PartBytes(kBits); ++i) {
      out[part * part_stride + i] = a[ColumnOf(kBits, part, i)];
    }
  }
}

// The parts of one block, `part_stride` bytes apart.
void LayOutBlock(int bits, const int8_t* a, int8_t* out, size_t part_stride) {
  switch (bits) {
    case 2:
      return LayOutBlock<2>(a, out, part_stride);
    case 4:
      return LayOutBlock<4>(a, out, part_stride);
    default:
      return LayOutBlock<8>(a, out, part_stride);
  }
}

}  // namespace

QuantizeFn& FindQuantize([[maybe_unused]] Isa isa) {
#if TQ_X86
  if (isa != Isa::kReference) return avx2::Quantize;
#endif
  return reference::Quantize;
}

void LayOutRow(int bits, size_t lanes, size_t blocks, const int8_t* a, const float* scale,
               const float* sum, int8_t* out_a, float* out_scale, float* out_sum) {
  const size_t part_bytes = PartBytes(bits), step = lanes * Parts(bits) / 2;
  for (size_t b = 0; b < blocks; ++b) {
    int8_t* out = out_a + b / step * step * kBlockColumns + b % step * part_bytes;
    LayOutBlock(bits, a + b * kBlockColumns, out, step * part_bytes);
    const size_t quad = 4 * QuadOf(bits, lanes, b);
    std::fill_n(out_scale + quad, 4, scale[b]);
    std::fill_n(out_sum + quad, 4, sum[b]);
  }
}

void LayOutPanelRow(int bits, size_t blocks, size_t i, size_t rows, const int8_t* a,
                    const float* scale, const float* sum, int8_t* out_a, float* out_scale,
                    float* out_sum) {
  for (size_t b = 0; b < blocks; ++b) {
    int8_t bytes[kBlockColumns];
    LayOutBlock(bits, a + b * kBlockColumns, bytes, PartBytes(bits));
    int8_t* out = out_a + b * kBlockColumns * rows + 4 * i;
    for (int j = 0; j < kBlockColumns; j += 4) std::memcpy(out + j * rows, bytes + j, 4);
    out_scale[b * rows + i] = scale[b];
    out_sum[b * rows + i] = sum[b];
  }
}

namespace reference {

void Quantize(const float* x, size_t blocks, int8_t* a, float* scale, float* sum) {
  for (size_t b = 0; b < blocks; ++b, x += kBlockColumns, a += kBlockColumns) {
    float largest = 0;
    bool finite = true;
    for (int i = 0; i < kBlockColumns; ++i) {
      finite = finite && std::isfinite(x[i]);
      largest = std::max(largest, std::abs(x[i]));
    }
    const BlockScale block = ScaleOf(finite ? largest : 0);
    int total = 0;
    for (int i = 0; i < kBlockColumns; ++i) {
      a[i] = finite ? static_cast<int8_t>(std::nearbyint(x[i] * block.inverse)) : int8_t{0};
      total += a[i];
    }
    scale[b] = finite ? block.scale : std::numeric_limits<float>::quiet_NaN();
    sum[b] = static_cast<float>(total);
  }
}

}  // namespace reference
}  // namespace tq::grouped
