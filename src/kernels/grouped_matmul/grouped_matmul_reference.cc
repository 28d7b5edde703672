// The portable twins: every code cut out and multiplied by itself.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/bit_fields.h"
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

float ZeroOf(const Weights& w, size_t row, size_t group) {
  if (w.half_zero != nullptr) return HalfToFloat(w.half_zero[row * w.groups + group]);
  if (w.packed_zero == nullptr) return static_cast<float>(1 << (w.bits - 1));
  return static_cast<float>(
      FieldAt(w.packed_zero + row * w.packed_bytes, group, static_cast<uint32_t>(w.bits)));
}

float ScaleOf(const Weights& w, size_t row, size_t group) {
  return HalfToFloat(w.scale[row * w.groups + group]);
}

// The codes of a block of 32 columns; zeros behind the row's last column.
void UnpackTritBlock(const Weights& w, size_t row, size_t block, uint8_t (&q)[kBlockColumns]) {
  std::fill_n(q, kBlockColumns, uint8_t{0});
  const size_t first = block * kBlockColumns, begin = first / kChunkColumns * kChunkColumns;
  if (first >= w.cols) return;
  const size_t end = std::min(w.cols, begin + kChunkColumns), width = TritBytes(end - begin);
  const uint8_t* bytes = w.codes + row * w.code_bytes + begin / kTritsPerByte;
  for (size_t i = 0; i < kBlockColumns && first + i < end; ++i) {
    const size_t at = first + i - begin;
    q[i] = TritOf(bytes[at % width], at / width);
  }
}

// The codes of a block of 32 columns, part by part; zeros behind the row's last byte.
template <int kBits>
void UnpackBlock(const Weights& w, size_t row, size_t block, uint8_t (&q)[kBlockColumns]) {
  if constexpr (kBits == kTrits) return UnpackTritBlock(w, row, block, q);
  constexpr size_t kBytes = kBlockColumns * kBits / 8;
  const size_t begin = std::min(block * kBytes, w.code_bytes);
  uint8_t bytes[kBytes + 1] = {};
  std::memcpy(bytes, w.codes + row * w.code_bytes + begin, std::min(kBytes, w.code_bytes - begin));
  for (int i = 0; i < kBlockColumns; ++i) {
    const int bit = kBits * ColumnOf(kBits, i / PartBytes(kBits), i % PartBytes(kBits));
    const int pair = bytes[bit / 8] | bytes[bit / 8 + 1] << 8;
    q[i] = static_cast<uint8_t>(pair >> bit % 8 & ((1 << kBits) - 1));
  }
}

template <int kBits>
void Gemv(const Weights& w, size_t row, const ActivationRow& x, float* y) {
  constexpr int kPartBytes = PartBytes(kBits), kPhases = Phases(kBits);
  constexpr size_t kStep = kLanes * Parts(kBits) / 2;
  for (size_t r = row; r < std::min(row + kGemvRows, w.rows); ++r) {
    float totals[kPhases] = {};
    for (size_t b = 0; b < x.blocks; ++b) {
      const size_t group = b / w.group_blocks;
      if (group >= w.groups) break;  // all zeros
      uint8_t q[kBlockColumns];
      UnpackBlock<kBits>(w, r, b, q);
      const int8_t* a = x.a + b / kStep * kStep * kBlockColumns + b % kStep * kPartBytes;
      int sum = 0;
      for (int i = 0; i < kBlockColumns; ++i) {
        sum += q[i] * a[i / kPartBytes * kStep * kPartBytes + i % kPartBytes];
      }
      const size_t quad = 4 * QuadOf(kBits, kLanes, b);
      float& total = totals[b % kPhases];
      const float value = std::fma(-ZeroOf(w, r, group), x.sum[quad], static_cast<float>(sum));
      total = std::fma(value, ScaleOf(w, r, group) * x.scale[quad], total);
    }
    y[r - row] = SumPhases(totals, 1, kPhases);
  }
}

template <int kBits>
void Decode(const Weights& w, size_t row, size_t first, size_t count, uint8_t* u) {
  for (size_t b = 0; b < count; ++b, u += kDecodedBlockBytes) {
    for (size_t r = 0; r < kTileRows; ++r) {
      uint8_t q[kBlockColumns];
      UnpackBlock<kBits>(w, std::min(row + r, w.rows - 1), first + b, q);
      for (int j = 0; j < kBlockColumns; j += 4) std::memcpy(u + j * kTileRows + 4 * r, q + j, 4);
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
          Gemv<kBits>,
          Decode<kBits>,
          Scales,
          {Multiply<kBits, 1>, Multiply<kBits, 2>, Multiply<kBits, 3>, Multiply<kBits, 4>}};
}

}  // namespace

constinit const MatmulTable kMatmulTable = {
    {Make<kTrits>(), Make<2>(), Make<3>(), Make<4>(), Make<5>(), Make<6>(), Make<7>(), Make<8>()}};

}  // namespace tq::grouped::reference
