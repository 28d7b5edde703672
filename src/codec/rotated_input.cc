// The input side of packed products: rotation, quantisation to integers, layout for kernels.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/checked.h"
#include "codec/packed_matmul.h"
#include "codec/rotation.h"

namespace tq {
namespace {

using trellis::ActivationForm;

// Rows are padded to the widest tile while they are quantised.
constexpr uint64_t kPadding = 32;
// Bits of |a| from there on: an infinity or a NaN.
constexpr uint32_t kInfinityBits = 0x7f800000;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Threads pay off above about this many activations in whole rows, and in parts of one row.
constexpr uint64_t kGrainActivations = 16384, kGrainColumns = 2048;
// Columns of a single row that are prepared together: what is made of them stays in L1.
constexpr uint64_t kChunkColumns = 1024;

float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

trellis::ActivationForm FormOf(Isa isa, trellis::Code code, uint64_t n) {
  return n == 1 ? trellis::FindMatmulKernels(isa, code).gemv_form : ActivationForm::kWords;
}

// Columns [begin, end) of Hin (si * x), whole blocks.
void Rotate(const trellis::ActivationKernels& kernels, const InputTransform& input, const float* x,
            uint64_t begin, uint64_t end, float* rotated) {
  const uint16_t* scale = input.in_scale.as<uint16_t>();
  kernels.scale_by_half(x + begin, scale + begin, end - begin, rotated);
  BlockHadamard(rotated, end - begin, input.in_block, HadamardSide::kForward);
}

// Of one thread: two rows of floats and one of int16.
uint64_t ScratchFloats(uint64_t cols) { return 3 * RoundUp(cols, kPadding); }

}  // namespace

uint64_t RotatedInput::BufferBytes(uint64_t n, uint64_t cols) {
  // Operands of int16 for the codes of each V, 1, 2 and 4; on the reference path, floats alone.
  constexpr uint64_t kOperands = 3;
  const uint64_t operand =
      RoundUp(cols, kPadding) * sizeof(int16_t) + sizeof(double) + sizeof(float);
  return n * std::max(kOperands * operand, cols * sizeof(float));
}

uint64_t RotatedInput::ScratchBytes(uint64_t cols, size_t threads) {
  return threads * ScratchFloats(cols) * sizeof(float);
}

const RotatedInput::Operand* RotatedInput::FindOperand(trellis::Code code) const {
  const ActivationForm form = FormOf(isa_, code, n_);
  for (size_t i = 0; i < num_operands_; ++i) {
    if (operands_[i].values == code.values && operands_[i].form == form) return &operands_[i];
  }
  return nullptr;
}

void RotatedInput::AddOperand(trellis::Code code) {
  if (FindOperand(code) != nullptr) return;
  if (num_operands_ == operands_.size()) operands_.emplace_back();
  Operand& operand = operands_[num_operands_++];
  operand.values = code.values;
  operand.form = FormOf(isa_, code, n_);
  const uint64_t padded = RoundUp<uint64_t>(cols_, trellis::ShapeOf(code).columns);
  operand.row_bytes = padded / GroupColumns(code.values, operand.form) * GroupBytes(operand.form);
  operand.bytes.resize(std::max<uint64_t>(operand.bytes.size(), n_ * operand.row_bytes));
  operand.bias.resize(n_);
  operand.scale.resize(n_);
  operand.groups.resize(n_ == 1 ? CeilDiv<uint64_t>(cols_, trellis::kScaleColumns) : 0);
}

void RotatedInput::PrepareAt(Isa isa, const InputTransform& input, const float* x, uint64_t n,
                             uint64_t cols, std::span<const trellis::Code> codes, MatmulPath path,
                             Executor& executor) {
  isa_ = isa;
  n_ = n;
  cols_ = cols;
  num_operands_ = 0;
  rotated_.clear();
  if (path == MatmulPath::kReference) {
    rotated_.resize(n * cols);
  } else {
    for (trellis::Code code : codes) {
      panel_rows_ = n == 1 ? 1 : trellis::FindMatmulKernels(isa, code).panel_rows;
      AddOperand(code);
    }
  }
  if (n == 1 && path == MatmulPath::kFast) {
    PrepareOne(input, x, executor);
  } else {
    PrepareRows(input, x, executor);
  }
}

void RotatedInput::PrepareRows(const InputTransform& input, const float* x, Executor& executor) {
  const uint64_t per_worker = ScratchFloats(cols_);
  const uint64_t grain = std::max<uint64_t>(1, kGrainActivations / std::max<uint64_t>(cols_, 1));
  const size_t workers = n_ <= grain ? 1 : executor.threads();
  scratch_.resize(std::max<uint64_t>(scratch_.size(), workers * per_worker));
  const auto rows = [&](size_t begin, size_t end, size_t worker) {
    for (size_t row = begin; row < end; ++row) {
      PrepareRow(input, x + row * cols_, row, scratch_.data() + worker * per_worker);
    }
  };
  if (workers == 1) {
    rows(0, n_, 0);
  } else {
    executor.ParallelFor(n_, grain, rows);
  }
}

void RotatedInput::PrepareOne(const InputTransform& input, const float* x, Executor& executor) {
  // Whole blocks of the rotation and whole groups of a scale.
  const uint64_t unit = std::lcm(uint64_t{input.in_block}, kPadding);
  const uint64_t chunk = RoundUp(kChunkColumns, unit), chunks = CeilDiv(cols_, chunk);
  const uint64_t per_worker = ScratchFloats(std::min(chunk, cols_));
  scratch_.resize(std::max<uint64_t>(scratch_.size(), executor.threads() * per_worker));
  chunk_bias_.resize(chunks * num_operands_);
  std::atomic<bool> finite{true};
  executor.ParallelFor(chunks, CeilDiv(kGrainColumns, chunk),
                       [&](size_t begin, size_t end, size_t worker) {
                         float* scratch = scratch_.data() + worker * per_worker;
                         for (size_t i = begin; i < end; ++i) {
                           const uint64_t first = i * chunk, last = std::min(cols_, first + chunk);
                           double* bias = chunk_bias_.data() + i * num_operands_;
                           if (!PrepareColumns(input, x, first, last, scratch, bias))
                             finite = false;
                         }
                       });
  for (size_t o = 0; o < num_operands_; ++o) {
    Operand& operand = operands_[o];
    operand.bias[0] = 0;
    for (uint64_t i = 0; i < chunks; ++i) operand.bias[0] += chunk_bias_[i * num_operands_ + o];
    if (finite) continue;
    std::ranges::fill(operand.bytes, uint8_t{0});
    std::ranges::fill(operand.groups, trellis::ScaleGroup{{0, 0}, kNan});
    operand.bias[0] = 0;
  }
}

bool RotatedInput::PrepareColumns(const InputTransform& input, const float* x, uint64_t begin,
                                  uint64_t end, float* scratch, double* bias) {
  const trellis::ActivationKernels& kernels = trellis::FindActivationKernels(isa_);
  const uint64_t count = end - begin, padded = RoundUp(count, kPadding);
  float *rotated = scratch, *combined = rotated + padded;
  auto* q = reinterpret_cast<int16_t*>(combined + padded);
  Rotate(kernels, input, x, begin, end, rotated);
  std::fill(rotated + count, rotated + padded, 0.0f);
  for (size_t i = 0; i < num_operands_; ++i) {
    Operand& operand = operands_[i];
    if (kernels.combine(operand.values, rotated, padded, combined) >= kInfinityBits) return false;
    bias[i] = kernels.quantize_bytes(operand.values, operand.form, combined, padded,
                                     &operand.groups[begin / trellis::kScaleColumns], q);
    const auto columns = static_cast<uint64_t>(GroupColumns(operand.values, operand.form));
    const auto group_bytes = static_cast<uint64_t>(GroupBytes(operand.form));
    const uint64_t all = operand.row_bytes / group_bytes * columns;
    kernels.lay_out(operand.values, operand.form, q, std::min(padded, all - begin),
                    operand.bytes.data() + begin / columns * group_bytes, group_bytes);
  }
  return true;
}

void RotatedInput::PrepareRow(const InputTransform& input, const float* x, uint64_t row,
                              float* scratch) {
  const uint64_t padded = RoundUp(cols_, kPadding);
  float* rotated = rotated_.empty() ? scratch : rotated_.data() + row * cols_;
  const trellis::ActivationKernels& kernels = trellis::FindActivationKernels(isa_);
  Rotate(kernels, input, x, 0, cols_, rotated);
  if (!rotated_.empty()) return;
  std::fill(rotated + cols_, rotated + padded, 0.0f);
  for (size_t i = 0; i < num_operands_; ++i) {
    FillOperand(operands_[i], row, rotated, scratch + padded);
  }
}

void RotatedInput::FillOperand(Operand& operand, uint64_t row, const float* rotated,
                               float* combined) {
  const trellis::ActivationKernels& kernels = trellis::FindActivationKernels(isa_);
  const uint64_t padded = RoundUp(cols_, kPadding);
  auto* q = reinterpret_cast<int16_t*>(combined + padded);
  const uint32_t largest = kernels.combine(operand.values, rotated, padded, combined);
  if (largest >= kInfinityBits) {
    std::fill(q, q + padded, int16_t{0});
    operand.bias[row] = 0;
    operand.scale[row] = kNan;
  } else {
    const trellis::ActivationScale scale =
        trellis::ScaleOf(FloatOf(largest), trellis::kMaxActivation);
    operand.scale[row] = scale.scale;
    const int64_t sum = kernels.quantize(combined, padded, scale.inverse, q);
    operand.bias[row] = -trellis::SumCentre(operand.values) * static_cast<double>(sum);
  }

  const uint64_t panel = row / panel_rows_;
  const uint64_t rows_in_panel = std::min<uint64_t>(panel_rows_, n_ - panel * panel_rows_);
  const int group_bytes = GroupBytes(operand.form);
  uint8_t* out = operand.bytes.data() + panel * panel_rows_ * operand.row_bytes +
                 row % panel_rows_ * group_bytes;
  const uint64_t groups = operand.row_bytes / group_bytes;
  kernels.lay_out(operand.values, operand.form, q,
                  groups * GroupColumns(operand.values, operand.form), out,
                  rows_in_panel * group_bytes);
}

}  // namespace tq
