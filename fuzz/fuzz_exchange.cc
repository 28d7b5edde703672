// Matrices in the layouts of GPTQ and AWQ from arbitrary bytes; what is accepted is finite, and
// comes back as it was, but for the codes of groups whose scale is 0.
//
// Bytes: format, bits, rows, cols, group size, whether there is g_idx (bit 0) and whether scales
// are BF16 (bit 1), and the tensors' bytes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "codec/exchange_layout.h"
#include "memory_file.h"

namespace {

// The next bytes as a tensor; zeros behind the last.
tq::Tensor Take(std::span<const uint8_t>& bytes, tq::DType dtype, const tq::Shape& shape) {
  tq::Tensor tensor = *tq::Tensor::Zeros(dtype, shape);
  const size_t n = std::min<size_t>(bytes.size(), tensor.num_bytes());
  if (n > 0) std::memcpy(tensor.mutable_data(), bytes.data(), n);
  bytes = bytes.subspan(n);
  return tensor;
}

std::vector<float> Decoded(const tq::GroupedMatrix& matrix) {
  std::vector<float> weights(matrix.rows * matrix.cols);
  tq::DecodeRows(matrix, 0, matrix.rows, weights.data());
  return weights;
}

void RequireSame(const tq::Tensor& a, const tq::Tensor& b) {
  if (a.shape() != b.shape() || std::memcmp(a.data(), b.data(), a.num_bytes()) != 0) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kSizes = 6;
  if (size < kSizes) return 0;
  std::span<const uint8_t> bytes(data + kSizes, size - kSizes);
  const auto format = static_cast<tq::ExchangeFormat>(data[0] % 3);
  const tq::ExchangeSizes sizes{data[2], data[3], data[1], data[4]};
  const auto shapes = tq::ShapesOf(format, sizes);
  if (!shapes.ok()) {
    tq::fuzz::RequireOneLine(shapes.status().message());
    return 0;
  }
  tq::ExchangeTensors tensors;
  const bool bfloat = (data[5] & 2) != 0;
  tensors.scales = Take(bytes, bfloat ? tq::DType::kBF16 : tq::DType::kF16, shapes->scales);
  const bool awq = format == tq::ExchangeFormat::kAwq;
  if (data[5] % 2 == 1 && !awq) tensors.g_idx = Take(bytes, tq::DType::kI32, shapes->g_idx);
  tensors.qzeros = Take(bytes, tq::DType::kI32, shapes->qzeros);
  tensors.qweight = Take(bytes, tq::DType::kI32, shapes->qweight);
  tq::InlineExecutor executor;
  const auto matrix = tq::FromExchange(format, sizes, tensors, executor);
  if (!matrix.ok()) {
    tq::fuzz::RequireOneLine(matrix.status().message());
    return 0;
  }
  const std::vector<float> weights = Decoded(*matrix);
  for (const float weight : weights) {
    if (!std::isfinite(weight)) abort();
  }
  const auto back = tq::ToExchange(format, *matrix, executor);
  if (!back.ok()) abort();
  const auto again = tq::FromExchange(format, sizes, *back, executor);
  if (!again.ok() || Decoded(*again) != weights) abort();
  const uint16_t* scales = matrix->scale.as<uint16_t>();
  const bool some_are_zero = std::any_of(scales, scales + matrix->scale.num_elements(),
                                         [](uint16_t half) { return (half & 0x7FFF) == 0; });
  if (!some_are_zero) {
    RequireSame(back->qweight, tensors.qweight);
    RequireSame(back->qzeros, tensors.qzeros);
    if (!bfloat) RequireSame(back->scales, tensors.scales);
  }
  if (tensors.g_idx.data() != nullptr) RequireSame(back->g_idx, tensors.g_idx);
  return 0;
}
