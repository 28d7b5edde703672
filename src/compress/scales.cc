#include "compress/scales.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "codec/rotation.h"

namespace tq {
namespace {

// The largest scale of a matrix is at most this multiple of 1, the smallest this part of
// it: fp16 is exact to 11 bits down to 2^-14, and a channel that is smaller still is
// rounded with noise that nobody sees.
constexpr double kLargestRatio = 8192;
// The magnitude of a matrix of zeros, and the smallest of any: its inverse is still a float.
constexpr double kSmallestMagnitude = 1e-30;
// Columns that are rotated together along the rows: one cache line.
constexpr uint64_t kColumnsAtOnce = 16;

// Scales proportional to `wanted`, about 1 (geometric mean), zeros put to the smallest;
// random signs, fp16.
StatusOr<Tensor> MakeScale(std::span<const double> wanted, Random signs) {
  double log_sum = 0, largest = 0;
  uint64_t used = 0;
  for (double value : wanted) {
    largest = std::max(largest, value);
    if (value > 0) {
      log_sum += std::log(value);
      ++used;
    }
  }
  double one = used > 0 ? std::exp(log_sum / static_cast<double>(used)) : 1.0;
  one = std::max(one, largest / kLargestRatio);
  TQ_ASSIGN_OR_RETURN(Tensor scale, Tensor::Zeros(DType::kF16, {wanted.size()}));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double ratio = std::clamp(wanted[i] / one, 1 / kLargestRatio, kLargestRatio);
    scale.mutable_as<uint16_t>()[i] = FloatToHalf(static_cast<float>(ratio * signs.NextSign()));
  }
  return scale;
}

// Row rms of w diag(1/si), and sums over rows of (w_ij / row rms_i)^2 by column.
std::vector<double> RowRms(const NamedWeights& m, std::span<const float> in_scale,
                           Executor& executor) {
  std::vector<double> rms(m.rows);
  executor.ParallelFor(m.rows, 64, [&](size_t begin, size_t end, size_t) {
    for (uint64_t i = begin; i < end; ++i) {
      double sum = 0;
      for (uint64_t j = 0; j < m.cols; ++j) {
        const double w = m.values[i * m.cols + j];
        const double scaled = in_scale.empty() ? w : w / in_scale[j];
        sum += scaled * scaled;
      }
      rms[i] = std::sqrt(sum / static_cast<double>(m.cols));
    }
  });
  return rms;
}

// Mean over all rows of the group of (w_ij / row rms_i)^2, its square root by column:
// the magnitude of a column once every row has been scaled to 1.
std::vector<double> ColumnRms(std::span<const NamedWeights> matrices, Executor& executor) {
  const uint64_t cols = matrices[0].cols;
  std::vector<double> sums(cols);
  uint64_t rows = 0;
  for (const NamedWeights& m : matrices) {
    const std::vector<double> row_rms = RowRms(m, {}, executor);
    executor.ParallelFor(cols, 64, [&](size_t begin, size_t end, size_t) {
      for (uint64_t i = 0; i < m.rows; ++i) {
        if (row_rms[i] <= 0) continue;
        const double inverse = 1 / row_rms[i];
        for (uint64_t j = begin; j < end; ++j) {
          const double w = m.values[i * cols + j] * inverse;
          sums[j] += w * w;
        }
      }
    });
    rows += m.rows;
  }
  for (double& sum : sums) sum = std::sqrt(sum / static_cast<double>(rows));
  return sums;
}

// Hout (or Hout^T) along the rows, on columns [begin, end).
void RotateColumns(float* w, uint64_t rows, uint64_t cols, uint64_t begin, uint64_t end,
                   uint32_t block, HadamardSide side, std::vector<float>& buffer) {
  buffer.resize(block * kColumnsAtOnce);
  for (uint64_t j = begin; j < end; j += kColumnsAtOnce) {
    const uint64_t width = std::min(kColumnsAtOnce, end - j);
    for (uint64_t row = 0; row < rows; row += block) {
      for (uint64_t i = 0; i < block; ++i) {
        for (uint64_t c = 0; c < width; ++c) buffer[c * block + i] = w[(row + i) * cols + j + c];
      }
      for (uint64_t c = 0; c < width; ++c) {
        BlockHadamard(buffer.data() + c * block, block, block, side);
      }
      for (uint64_t i = 0; i < block; ++i) {
        for (uint64_t c = 0; c < width; ++c) w[(row + i) * cols + j + c] = buffer[c * block + i];
      }
    }
  }
}

void RotateAllColumns(float* w, uint64_t rows, uint64_t cols, uint32_t block, HadamardSide side,
                      Executor& executor) {
  if (block == 1) return;
  executor.ParallelFor(cols, kColumnsAtOnce, [&](size_t begin, size_t end, size_t) {
    std::vector<float> buffer;
    RotateColumns(w, rows, cols, begin, end, block, side, buffer);
  });
}

}  // namespace

std::vector<float> HalfToFloats(const Tensor& half) {
  std::vector<float> values(half.num_elements());
  for (size_t i = 0; i < values.size(); ++i) values[i] = HalfToFloat(half.as<uint16_t>()[i]);
  return values;
}

StatusOr<GroupScales> ChooseScales(std::string_view group, std::span<const NamedWeights> matrices,
                                   std::span<const float> hessian_diagonal, const ScaleRule& rule,
                                   uint64_t seed, Executor& executor) {
  const uint64_t cols = matrices[0].cols;
  double mean_h = 0;
  for (float h : hessian_diagonal) mean_h += h / static_cast<double>(cols);
  std::vector<double> wanted = ColumnRms(matrices, executor);
  for (uint64_t j = 0; j < cols; ++j) {
    wanted[j] = std::pow(wanted[j], rule.weight_power);
    if (mean_h > 0) {
      // A dead input must not blow its column up.
      const double h = std::max<double>(hessian_diagonal[j] / mean_h, 1e-6);
      wanted[j] *= std::pow(h, -rule.input_power);
    }
  }
  GroupScales scales;
  TQ_ASSIGN_OR_RETURN(scales.in_scale,
                      MakeScale(wanted, Random(seed, std::string(group) + ".in_scale")));
  const std::vector<float> in_scale = HalfToFloats(scales.in_scale);
  for (const NamedWeights& m : matrices) {
    const std::vector<double> rms = RowRms(m, in_scale, executor);
    std::vector<double> powers(rms);
    for (double& value : powers) value = std::pow(value, rule.row_power);
    TQ_ASSIGN_OR_RETURN(Tensor out_scale, MakeScale(powers, Random(seed, m.name + ".out_scale")));
    double power = 0;
    for (uint64_t i = 0; i < m.rows; ++i) {
      const double scaled = rms[i] / HalfToFloat(out_scale.as<uint16_t>()[i]);
      power += scaled * scaled / static_cast<double>(m.rows);
    }
    scales.magnitude.push_back(std::max(std::sqrt(power), kSmallestMagnitude));
    scales.out_scale.push_back(std::move(out_scale));
  }
  return scales;
}

void RotateWeights(const WeightTransform& t, Executor& executor, float* w) {
  const uint64_t rows = t.out_scale.size(), cols = t.in_scale.size();
  executor.ParallelFor(rows, 16, [&](size_t begin, size_t end, size_t) {
    for (uint64_t i = begin; i < end; ++i) {
      float* row = w + i * cols;
      // In double: magnitudes may be near the ends of float's range.
      const double inverse = 1 / (t.magnitude * t.out_scale[i]);
      for (uint64_t j = 0; j < cols; ++j) {
        row[j] = static_cast<float>(row[j] * inverse / t.in_scale[j]);
      }
      BlockHadamard(row, cols, t.in_block, HadamardSide::kForward);
    }
  });
  RotateAllColumns(w, rows, cols, t.out_block, HadamardSide::kForward, executor);
}

void UnrotateWeights(const WeightTransform& t, Executor& executor, float* w) {
  const uint64_t rows = t.out_scale.size(), cols = t.in_scale.size();
  RotateAllColumns(w, rows, cols, t.out_block, HadamardSide::kTransposed, executor);
  executor.ParallelFor(rows, 16, [&](size_t begin, size_t end, size_t) {
    for (uint64_t i = begin; i < end; ++i) {
      float* row = w + i * cols;
      BlockHadamard(row, cols, t.in_block, HadamardSide::kTransposed);
      const double factor = t.magnitude * t.out_scale[i];
      for (uint64_t j = 0; j < cols; ++j) {
        row[j] = static_cast<float>(row[j] * factor * t.in_scale[j]);
      }
    }
  });
}

}  // namespace tq
