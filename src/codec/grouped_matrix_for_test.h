// Grouped matrices of random codes, and what they mean, one weight at a time.
#pragma once

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "codec/grouped_matrix.h"

namespace tq::testing {

inline GroupedLayout MakeLayout(uint64_t rows, uint64_t cols, uint32_t bits, uint32_t group_size,
                                ZeroKind zeros = ZeroKind::kHalf, bool ordered = false) {
  if (bits == kTernaryBits) {  // which have but one kind
    zeros = ZeroKind::kSymmetric;
    ordered = false;
  }
  GroupedLayout layout;
  layout.rows = rows;
  layout.cols = cols;
  layout.bits = bits;
  layout.group_size = group_size;
  layout.zeros = zeros;
  layout.ordered = ordered;
  return layout;
}

// Any codes, scales of both signs around 0.01 (of ternary codes above 0), any zeros (halves are not
// whole) and any order.
inline GroupedTensors RandomTensors(const GroupedLayout& layout, uint64_t seed) {
  Random random(seed, "grouped matrix");
  const auto bytes = [&](uint64_t across) {
    Tensor tensor = *Tensor::Zeros(DType::kU8, {layout.rows, across});
    uint8_t* data = tensor.mutable_data();
    for (uint64_t i = 0; i < tensor.num_bytes(); ++i) {
      data[i] = static_cast<uint8_t>(random.NextU32());
    }
    return tensor;
  };
  const auto halves = [&](double low, double high) {
    Tensor tensor = *Tensor::Zeros(DType::kF16, {layout.rows, layout.groups()});
    for (uint64_t i = 0; i < tensor.num_elements(); ++i) {
      const double part = random.NextUniform();
      tensor.mutable_as<uint16_t>()[i] = FloatToHalf(static_cast<float>(low + part * (high - low)));
    }
    return tensor;
  };
  GroupedTensors tensors;
  tensors.codes = bytes(layout.code_bytes());
  if (layout.ternary()) {
    uint8_t* data = tensors.codes.mutable_data();
    for (uint64_t i = 0; i < tensors.codes.num_bytes(); ++i) {
      data[i] = static_cast<uint8_t>((data[i] % 243 * 256 + 242) / 243);
    }
  }
  tensors.scale = halves(layout.ternary() ? 0.001 : -0.02, 0.02);
  if (layout.zeros == ZeroKind::kPacked) tensors.zero = bytes(layout.packed_zero_bytes());
  if (layout.zeros == ZeroKind::kHalf) tensors.zero = halves(-2, (1 << layout.bits) + 1);
  if (layout.ordered) {
    std::vector<int32_t> order(layout.cols);
    std::iota(order.begin(), order.end(), 0);
    for (uint64_t i = layout.cols; i > 1; --i) {
      std::swap(order[i - 1], order[random.NextBelow(i)]);
    }
    tensors.order = *Tensor::FromValues<int32_t>(DType::kI32, {layout.cols}, order);
  }
  return tensors;
}

inline GroupedMatrix RandomGrouped(const GroupedLayout& layout, uint64_t seed) {
  auto matrix = MakeGroupedMatrix(layout, RandomTensors(layout, seed));
  TQ_CHECK(matrix.ok());
  return *std::move(matrix);
}

// `bits` bits from bit i * bits on.
inline uint32_t BitsAt(const uint8_t* bytes, uint64_t i, uint32_t bits) {
  uint32_t value = 0;
  for (uint32_t b = 0; b < bits; ++b) {
    const uint64_t at = i * bits + b;
    value |= (bytes[at / 8] >> (at % 8) & 1u) << b;
  }
  return value;
}

// Ternary code i of a row of `cols`, by the definition in docs/format.md.
inline uint32_t TritAt(const uint8_t* bytes, uint64_t i, uint64_t cols) {
  const uint64_t chunk = i / 320, n = std::min<uint64_t>(320, cols - 320 * chunk);
  const uint64_t width = (n + 4) / 5, at = i % 320;
  uint32_t v = bytes[64 * chunk + at % width] * 243u / 256;
  for (uint64_t place = 4; place > at / width; --place) v /= 3;
  return v % 3;
}

// scale * (q - zero) of row r, place i.
inline float StoredWeight(const GroupedMatrix& m, uint64_t r, uint64_t i) {
  const uint64_t g = i / m.group_size;
  const uint32_t middle = (1u << m.bits) / 2;
  float zero = static_cast<float>(middle);
  if (m.zeros == ZeroKind::kHalf) zero = HalfToFloat(m.zero.as<uint16_t>()[r * m.groups() + g]);
  if (m.zeros == ZeroKind::kPacked) {
    zero = static_cast<float>(BitsAt(m.zero.data() + r * m.packed_zero_bytes(), g, m.bits));
  }
  const uint8_t* codes = m.codes.data() + r * m.code_bytes();
  const uint32_t q = m.ternary() ? TritAt(codes, i, m.cols) : BitsAt(codes, i, m.bits);
  return HalfToFloat(m.scale.as<uint16_t>()[r * m.groups() + g]) * (static_cast<float>(q) - zero);
}

// W [rows, cols].
inline std::vector<float> Weights(const GroupedMatrix& m) {
  std::vector<float> w(m.rows * m.cols);
  for (uint64_t r = 0; r < m.rows; ++r) {
    for (uint64_t i = 0; i < m.cols; ++i) {
      const uint64_t column = m.ordered ? static_cast<uint64_t>(m.order.as<int32_t>()[i]) : i;
      w[r * m.cols + column] = StoredWeight(m, r, i);
    }
  }
  return w;
}

}  // namespace tq::testing
