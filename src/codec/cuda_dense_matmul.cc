// Dense products: what is decoded at once, and where it goes.
#include <algorithm>

#include "base/checked.h"
#include "codec/cuda_matmul.h"
#include "device/device_arena.h"
#include "kernels/cuda/dense_weights.h"

namespace tq {
namespace {

// Where the parts of a scratch lie.
struct Parts {
  uint64_t x, sums, weights, scale, num_bytes;
  explicit Parts(const CudaDenseScratch::Sizes& sizes) {
    DeviceArena arena;
    x = arena.Add(sizes.rows * sizes.x_stride * sizeof(uint16_t));
    sums = arena.Add(sizes.rows * sizes.sums_stride * sizeof(uint16_t));
    weights = arena.Add(sizes.weight_bytes);
    scale = arena.Add(sizes.rows * sizeof(float));
    num_bytes = arena.num_bytes();
  }
};

}  // namespace

uint64_t CudaDenseScratch::Sizes::num_bytes() const { return Parts(*this).num_bytes; }

StatusOr<CudaDenseScratch> CudaDenseScratch::Create(const CudaDevice& device, const Sizes& sizes) {
  const Parts parts(sizes);
  CudaDenseScratch scratch;
  scratch.sizes_ = sizes;
  TQ_ASSIGN_OR_RETURN(scratch.memory_,
                      device.Allocate(parts.num_bytes, "scratch of dense products"));
  auto* base = static_cast<uint8_t*>(scratch.memory_.get());
  scratch.x_ = reinterpret_cast<uint16_t*>(base + parts.x);
  scratch.sums_ = reinterpret_cast<uint16_t*>(base + parts.sums);
  scratch.weights_ = reinterpret_cast<uint16_t*>(base + parts.weights);
  scratch.scale_ = reinterpret_cast<float*>(base + parts.scale);
  return scratch;
}

cuda::DenseInput CudaMatmul::DenseInput(const CudaDenseScratch& scratch) const {
  return {cols_, dense_x_stride(), in_scale_, in_hadamard_, scratch.x_, scratch.scale_};
}

cuda::DenseOutput CudaMatmul::DenseOutput(const CudaDenseScratch& scratch, size_t i) const {
  const cuda::FinishMatrix& matrix = outputs_[i];
  cuda::DenseOutput output;
  output.rows = matrix.rows, output.num_segments = matrix.num_segments;
  for (int s = 0; s < matrix.num_segments; ++s) {
    output.segments[s] = {matrix.segments[s].row_begin, matrix.segments[s].weight_scale};
  }
  output.out_scale = matrix.out_scale, output.hadamard = matrix.hadamard;
  output.sums = scratch.sums_ + first_rows_[i], output.stride = dense_sums_stride();
  output.scale = scratch.scale_;
  return output;
}

Status CudaMatmul::StartDenseProducts(const CudaDevice& device, const Cublas& blas,
                                      const CudaDenseScratch& scratch, uint64_t n) const {
  const uint64_t stride = dense_x_stride();
  const uint64_t room = scratch.sizes_.weight_bytes / (stride * sizeof(uint16_t));
  TQ_CHECK(n >= 1 && n <= scratch.sizes_.rows && stride <= scratch.sizes_.x_stride &&
           dense_sums_stride() <= scratch.sizes_.sums_stride && room >= kMinDenseRows);
  uint64_t first = 0, decoded = 0;  // rows of all matrices: decoded ones are [first, + decoded)
  const auto multiply = [&]() -> Status {
    if (decoded == 0) return OkStatus();
    Cublas::Product product;
    product.n = n, product.m = decoded, product.k = stride;
    product.x = scratch.x_, product.x_stride = stride;
    product.w = scratch.weights_, product.w_stride = stride;
    product.y = scratch.sums_ + first, product.y_stride = dense_sums_stride();
    first += decoded;
    decoded = 0;
    return blas.StartProduct(product);
  };
  for (const DensePart& part : dense_parts_) {
    const Product& product = products_[part.product];
    const auto unit_rows = static_cast<uint64_t>(cuda::UnitRows(product.code));
    for (uint64_t row = 0; row < part.rows;) {
      // Whole rows of units, but for the part's end.
      uint64_t take = std::min(part.rows - row, room - decoded);
      if (take < part.rows - row) take = take / unit_rows * unit_rows;
      if (take == 0) {
        TQ_RETURN_IF_ERROR(multiply());
        continue;
      }
      cuda::DenseWeightsArgs args;
      args.units_across = cuda::UnitsAcross(product.code, cols_);
      args.units_down = CeilDiv(take, unit_rows);
      args.units = static_cast<const uint8_t*>(memory_.get()) + product.units_offset +
                   (part.unit_row + row / unit_rows) * args.units_across *
                       static_cast<uint64_t>(cuda::UnitBytes(product.code));
      args.out = scratch.weights_ + decoded * stride;
      args.rows = take, args.stride = stride;
      TQ_RETURN_IF_ERROR(CudaDevice::Check(
          cuda::LaunchDenseWeights(product.code, args, device.stream()), "decoding weights"));
      decoded += take;
      row += take;
    }
  }
  return multiply();
}

}  // namespace tq
