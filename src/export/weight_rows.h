// The weights of a model in float32, some rows at a time, whichever of the three kinds it is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "codec/grouped_matrix.h"
#include "device/executor.h"

namespace tq {

class GgufFile;

class WeightRows {
 public:
  // A Hugging Face directory, a GGUF file, or a directory of ours.
  static StatusOr<std::unique_ptr<WeightRows>> Open(const std::filesystem::path& path);
  virtual ~WeightRows() = default;

  virtual const ModelConfig& config() const = 0;
  // The open file of a GGUF model (for its tokenizer), else null.
  virtual const GgufFile* gguf() const = 0;
  // Rows of a matrix come in blocks of this many.
  virtual StatusOr<uint64_t> RowBlock(const TensorSpec& spec) const = 0;
  // Rows [begin, end) of a matrix, float [end - begin, columns]; both are multiples of RowBlock. A
  // tensor of rank 1 is one row. NaN and infinity are errors naming tensor and place.
  virtual Status Read(const TensorSpec& spec, uint64_t begin, uint64_t end, Executor& executor,
                      float* out) const = 0;
  // A matrix of grouped codes as such; nothing for all others.
  virtual StatusOr<std::optional<GroupedMatrix>> LoadGrouped(const TensorSpec& spec) const = 0;
};

// Takes rows [begin, end) of a tensor, float [end - begin, columns].
using RowConsumer = std::function<Status(const float* rows, uint64_t begin, uint64_t end)>;

// Large enough that a call costs nothing beside the work on its rows.
inline constexpr uint64_t kRowBlockBytes = 16 << 20;

// Hands over all rows in order, about `block_bytes` of floats at a time; all blocks begin at
// multiples of `multiple` rows, which divides the tensor's. Stops with kCancelled between blocks
// when asked to.
Status ForEachRowBlock(const WeightRows& weights, const TensorSpec& spec, uint64_t multiple,
                       Executor& executor, const RowConsumer& consume,
                       uint64_t block_bytes = kRowBlockBytes);

// Rows (1 for rank 1) and columns of a tensor.
struct Extent {
  uint64_t rows = 1, cols = 0;
};
Extent ExtentOf(const TensorSpec& spec);

// Elements of all tensors of a model.
uint64_t NumParameters(const ModelConfig& config);

}  // namespace tq
