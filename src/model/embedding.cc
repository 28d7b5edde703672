#include "model/embedding.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <variant>

namespace tq {
namespace {

void Scale(float scale, float* values, uint64_t n) {
  if (scale == 1) return;
  std::transform(values, values + n, values, [scale](float value) { return scale * value; });
}

class DenseEmbedding final : public EmbeddingTable {
 public:
  DenseEmbedding(Tensor weights, float scale) : weights_(std::move(weights)), scale_(scale) {
    TQ_CHECK(weights_.dtype() == DType::kF32 || weights_.dtype() == DType::kBF16);
    TQ_CHECK(weights_.shape().size() == 2);
  }
  void Lookup(std::span<const int32_t> ids, float* out) const override {
    const uint64_t hidden = weights_.shape()[1];
    for (size_t i = 0; i < ids.size(); ++i) {
      const uint64_t row = ids[i];
      const Status converted = ConvertToFloat(
          {weights_.dtype(), {hidden}, weights_.data() + row * bytes_per_row()}, out + i * hidden);
      TQ_CHECK(converted.ok());
    }
    Scale(scale_, out, ids.size() * hidden);
  }
  uint64_t bytes_per_row() const override {
    return weights_.shape()[1] * DTypeSize(weights_.dtype());
  }

 private:
  Tensor weights_;
  float scale_;
};

class StoredEmbedding final : public EmbeddingTable {
 public:
  StoredEmbedding(const StoredMatrix* matrix, float scale, std::shared_ptr<const void> owner)
      : matrix_(matrix), scale_(scale), owner_(std::move(owner)) {}
  void Lookup(std::span<const int32_t> ids, float* out) const override {
    for (size_t i = 0; i < ids.size(); ++i) {
      const uint64_t row = ids[i];
      if (const auto* packed = std::get_if<PackedMatrix>(matrix_)) {
        DecodeRow(*packed, row, out + i * packed->cols);
      } else {
        const auto& grouped = std::get<GroupedMatrix>(*matrix_);
        DecodeRows(grouped, row, row + 1, out + i * grouped.cols);
      }
    }
    const uint64_t hidden = std::visit([](const auto& m) { return m.cols; }, *matrix_);
    Scale(scale_, out, ids.size() * hidden);
  }
  uint64_t bytes_per_row() const override {
    return std::visit([](const auto& m) { return m.num_bytes() / m.rows; }, *matrix_);
  }

 private:
  const StoredMatrix* matrix_;
  float scale_;
  std::shared_ptr<const void> owner_;
};

}  // namespace

float EmbeddingScale(const ModelConfig& config) {
  return config.scaled_embedding ? std::sqrt(static_cast<float>(config.hidden_size)) : 1;
}

std::unique_ptr<EmbeddingTable> MakeDenseEmbedding(Tensor weights, float scale) {
  return std::make_unique<DenseEmbedding>(std::move(weights), scale);
}

StatusOr<std::unique_ptr<EmbeddingTable>> MakeStoredEmbedding(const StoredMatrix* matrix,
                                                              float scale,
                                                              std::shared_ptr<const void> owner) {
  if (const auto* packed = std::get_if<PackedMatrix>(matrix);
      packed != nullptr && packed->out_block != 1) {
    return InvalidArgument("embedding: out_block {}: must be 1, so that rows stand alone",
                           packed->out_block);
  }
  return std::unique_ptr<EmbeddingTable>(
      std::make_unique<StoredEmbedding>(matrix, scale, std::move(owner)));
}

}  // namespace tq
