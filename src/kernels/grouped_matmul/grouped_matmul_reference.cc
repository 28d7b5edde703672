// The portable twins: every code cut out and multiplied by itself.
#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/grouped_matmul/grouped_matmul.h"
#include "kernels/transformer/elementwise.h"

namespace tq::grouped::reference {
namespace {

constexpr size_t kLanes = 1;

float HalfToFloat(uint16_t half) {
  float value;
  transformer::ElementwiseFor(Isa::kReference).half_to_float(&half, 1, &value);
  return value;
}

// The i-th integer of `bits` bits of a row of `count` of them.
int CodeAt(const uint8_t* codes, size_t i, int bits) {
  int value = 0;
  for (int b = 0; b < bits; ++b) {
    const size_t at = i * bits + b;
    value |= (codes[at / 8] >> (at % 8) & 1) << b;
  }
  return value;
}

float ZeroOf(const Weights& w, size_t row, size_t group) {
  if (w.half_zero != nullptr) return HalfToFloat(w.half_zero[row * w.groups + group]);
  if (w.packed_zero == nullptr) return static_cast<float>(1 << (w.bits - 1));
  return static_cast<float>(CodeAt(w.packed_zero + row * w.packed_bytes, group, w.bits));
}

float ScaleOf(const Weights& w, size_t row, size_t group) {
  return HalfToFloat(w.scale[row * w.groups + group]);
}

// A code, 0 behind the last column.
int CodeOf(const Weights& w, size_t row, size_t column) {
  if (column >= w.cols) return 0;
  return CodeAt(w.codes + row * w.code_bytes, column, w.bits);
}

void Gemv(const Weights& w, size_t row, const ActivationRow& x, float* y) {
  const int parts = Parts(w.bits), part_bytes = PartBytes(w.bits), phases = Phases(w.bits);
  const size_t step = kLanes * parts / 2;
  for (size_t r = row; r < std::min(row + kGemvRows, w.rows); ++r) {
    float totals[8] = {};
    for (size_t b = 0; b < x.blocks; ++b) {
      const size_t group = b / w.group_blocks;
      if (group >= w.groups) break;  // all zeros
      const int8_t* a = x.a + b / step * step * kBlockColumns + b % step * part_bytes;
      int sum = 0;
      for (int part = 0; part < parts; ++part, a += step * part_bytes) {
        for (int i = 0; i < part_bytes; ++i) {
          sum += CodeOf(w, r, b * kBlockColumns + ColumnOf(w.bits, part, i)) * a[i];
        }
      }
      const size_t quad = 4 * QuadOf(w.bits, kLanes, b);
      float& total = totals[b % phases];
      const float value = std::fma(-ZeroOf(w, r, group), x.sum[quad], static_cast<float>(sum));
      total = std::fma(value, ScaleOf(w, r, group) * x.scale[quad], total);
    }
    y[r - row] = SumPhases(totals, 1, phases);
  }
}

void Decode(const Weights& w, size_t row, size_t first, size_t count, uint8_t* u) {
  for (size_t b = 0; b < count; ++b, u += kDecodedBlockBytes) {
    for (int j = 0; j < kBlockColumns; ++j) {
      const int column = ColumnOf(w.bits, j / PartBytes(w.bits), j % PartBytes(w.bits));
      for (size_t r = 0; r < kTileRows; ++r) {
        const size_t source = std::min(row + r, w.rows - 1);
        u[j / 4 * 4 * kTileRows + 4 * r + j % 4] =
            static_cast<uint8_t>(CodeOf(w, source, (first + b) * kBlockColumns + column));
      }
    }
  }
}

void Scales(const Weights& w, size_t row, size_t first, size_t count, float* scale, float* zero) {
  for (size_t g = 0; g < count; ++g) {
    for (size_t r = 0; r < kTileRows; ++r) {
      const size_t source = std::min(row + r, w.rows - 1);
      const bool behind = first + g >= w.groups;
      scale[g * kTileRows + r] = behind ? 0 : ScaleOf(w, source, first + g);
      zero[g * kTileRows + r] = behind ? 0 : ZeroOf(w, source, first + g);
    }
  }
}

template <int kBits, int N>
void Multiply(const MultiplyArgs& args) {
  const uint8_t* u = args.u;
  const int8_t* panel = args.panel;
  for (size_t b = 0; b < args.blocks; ++b, panel += kBlockColumns * N, u += kDecodedBlockBytes) {
    const size_t group = (args.into_group + b) / args.group_blocks * kTileRows;
    float* totals = args.totals + b % Phases(kBits) * N * kTileRows;
    for (int i = 0; i < N; ++i) {
      const float d = args.panel_scale[b * N + i], a_sum = args.panel_sum[b * N + i];
      for (int r = 0; r < kTileRows; ++r) {
        int sum = 0;
        for (int j = 0; j < kBlockColumns; ++j) {
          sum += u[j / 4 * 4 * kTileRows + 4 * r + j % 4] * panel[j / 4 * 4 * N + 4 * i + j % 4];
        }
        const float value = std::fma(-args.zero[group + r], a_sum, static_cast<float>(sum));
        float& total = totals[i * kTileRows + r];
        total = std::fma(value, args.scale[group + r] * d, total);
      }
    }
  }
}

template <int kBits>
constexpr MatmulKernels Make() {
  return {kBits,
          kLanes,
          4,
          Gemv,
          Decode,
          Scales,
          {Multiply<kBits, 1>, Multiply<kBits, 2>, Multiply<kBits, 3>, Multiply<kBits, 4>}};
}

}  // namespace

constinit const MatmulTable kMatmulTable = {
    {Make<2>(), Make<3>(), Make<4>(), Make<5>(), Make<6>(), Make<7>(), Make<8>()}};

}  // namespace tq::grouped::reference
