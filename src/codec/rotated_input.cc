// The input side of packed products: rotation, quantisation to integers, layout for kernels.
#include <algorithm>
#include <cstring>
#include <limits>

#include "base/checked.h"
#include "codec/packed_matmul.h"
#include "codec/rotation.h"

namespace tq {
namespace {

using trellis::ActivationForm;

// Rows are padded to the widest tile while they are quantised.
constexpr uint64_t kPadding = 32;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Threads pay off above about this many activations.
constexpr uint64_t kGrainActivations = 16384;

float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

trellis::ActivationForm FormOf(Isa isa, trellis::Code code, uint64_t n) {
  return n == 1 ? trellis::FindMatmulKernels(isa, code).gemv_form : ActivationForm::kWords;
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
  const uint64_t per_worker = ScratchFloats(cols);
  const uint64_t grain = std::max<uint64_t>(1, kGrainActivations / std::max<uint64_t>(cols, 1));
  const size_t workers = n <= grain ? 1 : executor.threads();
  scratch_.resize(std::max<uint64_t>(scratch_.size(), workers * per_worker));
  const auto rows = [&](size_t begin, size_t end, size_t worker) {
    for (size_t row = begin; row < end; ++row) {
      PrepareRow(input, x + row * cols, row, scratch_.data() + worker * per_worker);
    }
  };
  if (workers == 1) {
    rows(0, n, 0);
  } else {
    executor.ParallelFor(n, grain, rows);
  }
}

void RotatedInput::PrepareRow(const InputTransform& input, const float* x, uint64_t row,
                              float* scratch) {
  const uint64_t padded = RoundUp(cols_, kPadding);
  float* rotated = rotated_.empty() ? scratch : rotated_.data() + row * cols_;
  const trellis::ActivationKernels& kernels = trellis::FindActivationKernels(isa_);
  kernels.scale_by_half(x, input.in_scale.as<uint16_t>(), cols_, rotated);
  BlockHadamard(rotated, cols_, input.in_block, HadamardSide::kForward);
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
  if (largest >= 0x7f800000u) {  // a NaN or an infinity
    std::fill(q, q + padded, int16_t{0});
    operand.bias[row] = 0;
    operand.scale[row] = kNan;
    std::ranges::fill(operand.groups, trellis::ScaleGroup{{0, 0}, kNan});
  } else if (n_ == 1) {
    operand.bias[0] = kernels.quantize_bytes(operand.values, operand.form, combined, padded,
                                             operand.groups.data(), q);
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
