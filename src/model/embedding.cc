#include "model/embedding.h"

#include <cstring>
#include <utility>
#include <variant>

namespace tq {
namespace {

class DenseEmbedding final : public EmbeddingTable {
 public:
  explicit DenseEmbedding(Tensor weights) : weights_(std::move(weights)) {
    TQ_CHECK(weights_.dtype() == DType::kF32 && weights_.shape().size() == 2);
  }
  void Lookup(std::span<const int32_t> ids, float* out) const override {
    const uint64_t hidden = weights_.shape()[1];
    for (size_t i = 0; i < ids.size(); ++i) {
      std::memcpy(out + i * hidden, weights_.as<float>() + ids[i] * hidden, bytes_per_row());
    }
  }
  uint64_t bytes_per_row() const override { return weights_.shape()[1] * sizeof(float); }

 private:
  Tensor weights_;
};

class StoredEmbedding final : public EmbeddingTable {
 public:
  StoredEmbedding(const StoredMatrix* matrix, std::shared_ptr<const void> owner)
      : matrix_(matrix), owner_(std::move(owner)) {}
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
  }
  uint64_t bytes_per_row() const override {
    return std::visit([](const auto& m) { return m.num_bytes() / m.rows; }, *matrix_);
  }

 private:
  const StoredMatrix* matrix_;
  std::shared_ptr<const void> owner_;
};

}  // namespace

std::unique_ptr<EmbeddingTable> MakeDenseEmbedding(Tensor weights) {
  return std::make_unique<DenseEmbedding>(std::move(weights));
}

StatusOr<std::unique_ptr<EmbeddingTable>> MakeStoredEmbedding(const StoredMatrix* matrix,
                                                              std::shared_ptr<const void> owner) {
  if (const auto* packed = std::get_if<PackedMatrix>(matrix);
      packed != nullptr && packed->out_block != 1) {
    return InvalidArgument("embedding: out_block {}: must be 1, so that rows stand alone",
                           packed->out_block);
  }
  return std::unique_ptr<EmbeddingTable>(
      std::make_unique<StoredEmbedding>(matrix, std::move(owner)));
}

}  // namespace tq
