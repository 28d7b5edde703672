// The unquantised model, whatever file it is in: a Hugging Face directory
// (safetensors) or a GGUF file, under Hugging Face's tensor names.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "checkpoint/model_config.h"
#include "codec/grouped_matrix.h"
#include "codec/ternary_matrix.h"
#include "tensor/tensor.h"

namespace tq {

enum class ModelKind { kHuggingFace, kGguf, kPacked };

// Which of the three `path` is, or an error saying what was looked for. Pickle files
// (.bin, .pt, by name and by magic) are refused by name.
StatusOr<ModelKind> DetectModelKind(const std::filesystem::path& path);

struct SourceTensorInfo {
  std::string name;    // Hugging Face's name, e.g. "model.layers.0.self_attn.q_proj.weight"
  std::string type;    // as stored: "BF16", "Q4_1", ...
  Shape shape;         // [out, in] for matrices
  uint64_t bytes = 0;  // as stored
};

// A matrix that runs packed: ternary (ternary_matmul.h), or grouped scalar (grouped_matmul.h).
using CodedMatrix = std::variant<TernaryMatrix, GroupedMatrix>;
enum class MatrixForm { kFloats, kTernary, kGrouped };

class ModelSource {
 public:
  // kHuggingFace or kGguf. All headers are checked here; tensors are read on demand.
  // Also checks that every tensor that a llama model needs is there with its shape, and that
  // no other is that would change the result.
  static StatusOr<std::unique_ptr<ModelSource>> Open(const std::filesystem::path& path);
  virtual ~ModelSource() = default;

  virtual ModelKind kind() const = 0;
  const std::filesystem::path& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  // In the order of ModelTensors(config()).
  const std::vector<SourceTensorInfo>& tensors() const { return tensors_; }
  const SourceTensorInfo* Find(std::string_view name) const;
  bool Has(std::string_view name) const { return Find(name) != nullptr; }
  // Parameters of the model: elements of all weight tensors, tied ones once.
  uint64_t num_parameters() const;
  // Bytes of all tensors as stored.
  uint64_t num_bytes() const;

  // The tensor as float32 [shape], freshly allocated (GGUF: dequantised, llama's q and k
  // rows un-permuted to Hugging Face's order; coded matrices: decoded). NaN and infinity are an
  // error naming tensor and index.
  virtual StatusOr<Tensor> LoadFloat(std::string_view name) const = 0;
  // Rows of a matrix as float32 [rows, columns], any number of times and in any order. Memory
  // is that of `out` alone where the format allows it. Checked as by LoadFloat, these rows only.
  virtual Status LoadRows(std::string_view name, std::span<const int32_t> rows, float* out) const;
  // The tensor with the dtype it is stored in if that is F32, F16 or BF16, else as float32:
  // for what is copied into the compressed model (norms). Checked as by LoadFloat.
  virtual StatusOr<Tensor> LoadStored(std::string_view name) const = 0;
  // What LoadCoded has of this name; kFloats: nothing. May read the tensor.
  virtual StatusOr<MatrixForm> FormOf(std::string_view name) const;
  // A matrix that runs packed: those that quantization_config says are codes, and those of GGUF's
  // ternary types whose rows have one scale each. Nothing for all others, and for names that the
  // model has not. `packing` is that of ternary ones. Checked as by LoadFloat; an error names the
  // tensor.
  virtual StatusOr<std::optional<CodedMatrix>> LoadCoded(std::string_view name,
                                                         ternary::Packing packing) const;
  // The stored bytes of a tensor, and all else that its values depend on, for fingerprints.
  virtual Status HashTensor(std::string_view name, Hasher& hasher) const = 0;

  // GGUF only: the open file (for the tokenizer); null for directories.
  virtual const GgufFile* gguf() const { return nullptr; }

 protected:
  StatusOr<const SourceTensorInfo*> Get(std::string_view name) const;
  // The columns of a matrix that has these rows.
  StatusOr<uint64_t> CheckRows(std::string_view name, const Shape& shape,
                               std::span<const int32_t> rows) const;

  std::filesystem::path path_;
  ModelConfig config_;
  std::vector<SourceTensorInfo> tensors_;
};

}  // namespace tq
