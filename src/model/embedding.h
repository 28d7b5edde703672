// Token ids to vectors: single rows of the embedding matrix, dense or packed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/packed_model.h"
#include "tensor/tensor.h"

namespace tq {

class EmbeddingTable {
 public:
  virtual ~EmbeddingTable() = default;
  // out: float [ids, hidden], times the scale. The ids must have been checked against the
  // vocabulary.
  virtual void Lookup(std::span<const int32_t> ids, float* out) const = 0;
  // Bytes that one look-up reads, about.
  virtual uint64_t bytes_per_row() const = 0;
};

// What an architecture multiplies embeddings by.
float EmbeddingScale(const ModelConfig& config);

// From a tensor [vocab, hidden] of float32 or bfloat16.
std::unique_ptr<EmbeddingTable> MakeDenseEmbedding(Tensor weights, float scale);
// From a packed matrix, which `owner` keeps alive. Rows must stand alone (out_block == 1).
StatusOr<std::unique_ptr<EmbeddingTable>> MakeStoredEmbedding(const StoredMatrix* matrix,
                                                              float scale,
                                                              std::shared_ptr<const void> owner);

}  // namespace tq
