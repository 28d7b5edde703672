#include "codec/cuda_matmul.h"

#include <cstring>
#include <utility>

#include "base/checked.h"
#include "codec/rotation.h"
#include "device/device_arena.h"

namespace tq {

using cuda::kMaxGemvRows;

namespace {

constexpr size_t kNumValues = 3;  // V: 1, 2, 4

}  // namespace

uint64_t CudaMatmulScratch::Sizes::num_bytes() const {
  return DeviceArena::Aligned(floats * sizeof(float)) + DeviceArena::Aligned(activation_bytes) +
         DeviceArena::Aligned(sums * sizeof(int64_t)) +
         2 * DeviceArena::Aligned(kNumValues * kMaxGemvRows * sizeof(int64_t));
}

StatusOr<CudaMatmulScratch> CudaMatmulScratch::Create(const CudaDevice& device,
                                                      const Sizes& sizes) {
  CudaMatmulScratch scratch;
  TQ_ASSIGN_OR_RETURN(scratch.memory_, device.Allocate(sizes.num_bytes(), "scratch of products"));
  DeviceArena arena;
  auto* base = static_cast<uint8_t*>(scratch.memory_.get());
  scratch.floats_ = reinterpret_cast<float*>(base + arena.Add(sizes.floats * sizeof(float)));
  scratch.activations_ = base + arena.Add(sizes.activation_bytes);
  const uint64_t sums = arena.Add(sizes.sums * sizeof(int64_t));
  scratch.sums_ = reinterpret_cast<int64_t*>(base + sums);
  const uint64_t each = kNumValues * kMaxGemvRows;
  scratch.scales_ = reinterpret_cast<float*>(base + arena.Add(each * sizeof(int64_t)));
  scratch.sums_of_x_ = reinterpret_cast<int64_t*>(base + arena.Add(each * sizeof(int64_t)));
  TQ_RETURN_IF_ERROR(device.Fill(scratch.sums_, 0, sizes.sums * sizeof(int64_t)));
  return scratch;
}

// Where everything of a group lies on the device.
class CudaMatmul::Layout {
 public:
  explicit Layout(std::span<const PackedMatrix* const> matrices) : matrices_(matrices) {
    cols_ = matrices[0]->cols;
    for (const PackedMatrix* matrix : matrices) {
      for (const Segment& segment : matrix->segments) Place(segment);
    }
    for (Product& product : products_) {
      product.sums_begin = sum_rows_;
      sum_rows_ += product.units_down * static_cast<uint64_t>(cuda::UnitRows(product.code));
      product.units_offset = arena_.Add(product.units_down * RowBytes(product.code));
    }
    in_scale_ = arena_.Add(cols_ * sizeof(uint16_t));
    in_matrix_ = arena_.Add(MatrixBytes(InForm()));
    for (const PackedMatrix* matrix : matrices) {
      out_scales_.push_back(arena_.Add(matrix->rows * sizeof(uint16_t)));
      out_matrices_.push_back(arena_.Add(MatrixBytes(OutForm(*matrix))));
    }
  }
  uint64_t num_bytes() const { return arena_.num_bytes(); }
  CudaMatmulScratch::Sizes scratch_sizes() const {
    uint64_t activation_bytes = 0;
    for (const Operand& operand : operands_) activation_bytes += OperandBytes(operand);
    return {cuda::PrepareScratchFloats(kMaxGemvRows, cols_), activation_bytes,
            kMaxGemvRows * sum_rows_};
  }

  // Fills `group` but for its device memory, whose contents go to `host`.
  void Fill(CudaMatmul& group, uint8_t* host) const {
    group.cols_ = cols_;
    group.sum_rows_ = sum_rows_;
    group.products_ = products_;
    group.scratch_sizes_ = scratch_sizes();
    uint64_t activation_bytes = 0;
    for (const Operand& operand : operands_) {
      group.operands_.push_back({operand.values, activation_bytes});
      activation_bytes += OperandBytes(operand);
    }
    const auto* device = static_cast<const uint8_t*>(group.memory_.get());
    const InputTransform& input = *matrices_[0]->input;
    std::memcpy(host + in_scale_, input.in_scale.data(), cols_ * sizeof(uint16_t));
    group.in_scale_ = reinterpret_cast<const uint16_t*>(device + in_scale_);
    group.in_hadamard_ = Shape(InForm(), in_matrix_, device, host);
    size_t at = 0;
    uint64_t first_row = 0;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const PackedMatrix& matrix = *matrices_[i];
      cuda::FinishMatrix output;
      output.rows = matrix.rows;
      output.num_segments = static_cast<int>(matrix.segments.size());
      std::vector<size_t> operands;
      group.first_rows_.push_back(first_row);
      first_row += matrix.rows;
      for (size_t s = 0; s < matrix.segments.size(); ++s, ++at) {
        FillSegment(matrix, matrix.segments[s], places_[at], output.segments[s], host);
        operands.push_back(products_[places_[at].product].operand);
        const bool last = s + 1 == matrix.segments.size();
        const uint64_t end = last ? matrix.rows : matrix.segments[s + 1].row_begin;
        group.dense_parts_.push_back(
            {places_[at].product, places_[at].unit_row, end - matrix.segments[s].row_begin});
      }
      std::memcpy(host + out_scales_[i], matrix.out_scale.data(), matrix.rows * sizeof(uint16_t));
      output.out_scale = reinterpret_cast<const uint16_t*>(device + out_scales_[i]);
      output.hadamard = Shape(OutForm(matrix), out_matrices_[i], device, host);
      group.outputs_.push_back(output);
      group.segment_operands_.push_back(std::move(operands));
    }
    group.first_rows_.push_back(first_row);
  }

 private:
  struct Position {
    size_t product;
    uint64_t unit_row;  // of the product
    uint64_t unit_rows;
  };

  uint64_t OperandBytes(const Operand& operand) const {
    const trellis::Code any{operand.values, operand.values == 4 ? 2 : 4, 16};
    return DeviceArena::Aligned(cuda::ActivationBytes(any, kMaxGemvRows, cols_));
  }
  HadamardForm InForm() const {
    return HadamardFormOf(matrices_[0]->input->in_block, HadamardSide::kForward);
  }
  static HadamardForm OutForm(const PackedMatrix& matrix) {
    return HadamardFormOf(matrix.out_block, HadamardSide::kTransposed);
  }
  static uint64_t MatrixBytes(const HadamardForm& form) {
    return form.m == 1 ? 0 : static_cast<uint64_t>(form.m * form.m) * sizeof(float);
  }
  static cuda::HadamardShape Shape(const HadamardForm& form, uint64_t offset, const uint8_t* device,
                                   uint8_t* host) {
    cuda::HadamardShape shape{form.m, form.log2, nullptr, form.scale};
    if (form.m > 1) {
      std::memcpy(host + offset, form.matrix, MatrixBytes(form));
      shape.matrix = reinterpret_cast<const float*>(device + offset);
    }
    return shape;
  }
  uint64_t RowBytes(trellis::Code code) const {
    return cuda::UnitsAcross(code, cols_) * static_cast<uint64_t>(cuda::UnitBytes(code));
  }

  void Place(const Segment& segment) {
    size_t product = 0;
    while (product < products_.size() && products_[product].code != segment.code) ++product;
    if (product == products_.size()) {
      size_t operand = 0;
      while (operand < operands_.size() && operands_[operand].values != segment.code.values) {
        ++operand;
      }
      if (operand == operands_.size()) operands_.push_back({segment.code.values, 0});
      products_.push_back({segment.code, operand});
    }
    const uint64_t rows = cuda::UnitsDown(segment.code, TileRows(segment));
    places_.push_back({product, products_[product].units_down, rows});
    products_[product].units_down += rows;
  }

  void FillSegment(const PackedMatrix& matrix, const Segment& segment, const Position& place,
                   cuda::FinishSegment& out, uint8_t* host) const {
    const Product& product = products_[place.product];
    const auto unit_rows = static_cast<uint64_t>(cuda::UnitRows(product.code));
    cuda::PackCodes(segment.code, matrix.codes.data() + segment.byte_offset, TileRows(segment),
                    cols_, host + product.units_offset + place.unit_row * RowBytes(product.code));
    out.row_begin = segment.row_begin;
    out.sums_begin = product.sums_begin + place.unit_row * unit_rows;
    out.sum_rows = place.unit_rows * unit_rows;
    out.values = segment.code.values;
    out.weight_scale = segment.scale;
  }

  std::span<const PackedMatrix* const> matrices_;
  uint64_t cols_, sum_rows_ = 0;
  DeviceArena arena_;
  std::vector<Product> products_;
  std::vector<Operand> operands_;
  std::vector<Position> places_;  // of all segments, in their order
  uint64_t in_scale_ = 0, in_matrix_ = 0;
  std::vector<uint64_t> out_scales_, out_matrices_;
};

uint64_t CudaMatmul::NumBytes(std::span<const PackedMatrix* const> matrices) {
  return Layout(matrices).num_bytes();
}

CudaMatmulScratch::Sizes CudaMatmul::ScratchSizes(std::span<const PackedMatrix* const> matrices) {
  return Layout(matrices).scratch_sizes();
}

StatusOr<std::unique_ptr<CudaMatmul>> CudaMatmul::Create(
    const CudaDevice& device, std::span<const PackedMatrix* const> matrices) {
  TQ_CHECK(!matrices.empty() && matrices.size() <= cuda::kMaxFinishMatrices);
  for (const PackedMatrix* matrix : matrices) TQ_CHECK(matrix->input == matrices[0]->input);
  const Layout layout(matrices);
  std::unique_ptr<CudaMatmul> group(new CudaMatmul);
  TQ_ASSIGN_OR_RETURN(group->memory_, device.Allocate(layout.num_bytes(), "weights"));
  std::vector<uint8_t> host(layout.num_bytes());
  layout.Fill(*group, host.data());
  TQ_RETURN_IF_ERROR(device.Upload(host.data(), host.size(), group->memory_.get()));
  TQ_RETURN_IF_ERROR(device.Synchronize());
  return group;
}

cuda::ProductInput CudaMatmul::Input(const CudaMatmulScratch& scratch) const {
  cuda::ProductInput input;
  input.cols = cols_, input.in_scale = in_scale_, input.hadamard = in_hadamard_;
  input.num_operands = static_cast<int>(operands_.size());
  for (size_t i = 0; i < operands_.size(); ++i) {
    input.operands[i] = {operands_[i].values, scratch.activations_ + operands_[i].offset,
                         scratch.scales_ + i * kMaxGemvRows, scratch.sums_of_x_ + i * kMaxGemvRows};
  }
  return input;
}

cuda::ProductSums CudaMatmul::Sums(const CudaMatmulScratch& scratch) const {
  return {scratch.sums_, sum_rows_};
}

cuda::FinishMatrix CudaMatmul::Output(const CudaMatmulScratch& scratch, size_t i) const {
  const cuda::ProductInput input = Input(scratch);
  cuda::FinishMatrix output = outputs_[i];
  for (size_t s = 0; s < segment_operands_[i].size(); ++s) {
    const cuda::ProductInput::Operand& operand = input.operands[segment_operands_[i][s]];
    output.segments[s].scale = operand.scale;
    output.segments[s].sum = operand.sum;
  }
  return output;
}

Status CudaMatmul::StartProducts(const CudaDevice& device, const CudaMatmulScratch& scratch,
                                 uint64_t n) const {
  const cuda::DeviceShape shape{device.multiprocessors(), device.shared_bytes()};
  for (const Product& product : products_) {
    const cuda::GemvProblem problem{product.code, static_cast<int>(n), product.units_down,
                                    cuda::UnitsAcross(product.code, cols_)};
    cuda::GemvArgs args;
    args.units = static_cast<const uint8_t*>(memory_.get()) + product.units_offset;
    args.activations = scratch.activations_ + operands_[product.operand].offset;
    args.sums = scratch.sums_ + product.sums_begin;
    args.rows = product.units_down * static_cast<uint64_t>(cuda::UnitRows(product.code));
    args.sum_stride = sum_rows_;
    TQ_RETURN_IF_ERROR(CudaDevice::Check(
        cuda::LaunchGemv(problem, cuda::ChooseGemv(problem, shape), args, true, device.stream()),
        "a product"));
  }
  return OkStatus();
}

Status CudaMatmul::Run(const CudaDevice& device, const CudaMatmulScratch& scratch, const float* x,
                       uint64_t n, std::span<float* const> y) const {
  TQ_CHECK(n >= 1 && n <= kMaxGemvRows && y.size() == outputs_.size());
  const cuda::ProductInput input = Input(scratch);
  for (int i = 0; i < input.num_operands; ++i) {
    const cuda::ProductInput::Operand& operand = input.operands[i];
    cuda::PrepareArgs args;
    args.x = x, args.n = n, args.cols = cols_;
    args.in_scale = in_scale_, args.hadamard = in_hadamard_, args.values = operand.values;
    args.scratch = scratch.floats_, args.activations = operand.activations;
    args.scale = operand.scale, args.sum = operand.sum;
    TQ_RETURN_IF_ERROR(
        CudaDevice::Check(cuda::LaunchPrepare(args, device.stream()), "preparing a product"));
  }
  TQ_RETURN_IF_ERROR(StartProducts(device, scratch, n));
  cuda::FinishArgs finish;
  finish.sums = scratch.sums_, finish.n = n, finish.sum_stride = sum_rows_;
  finish.num_matrices = static_cast<int>(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) {
    finish.matrices[i] = Output(scratch, i);
    finish.matrices[i].y = y[i];
  }
  return CudaDevice::Check(cuda::LaunchFinish(finish, device.stream()), "finishing a product");
}

}  // namespace tq
