// Our model directory (docs/format.md): reading it by memory map, and writing it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "codec/grouped_matrix.h"
#include "codec/packed_matrix.h"
#include "tensor/tensor.h"

namespace tq {

// Names: a matrix is its Hugging Face name without ".weight" ("model.layers.0.mlp.up_proj",
// "model.embed_tokens", "lm_head"); an input group is GroupName() of it.
//   model.layers.N.self_attn.{q,k,v}_proj -> model.layers.N.self_attn.qkv
//   model.layers.N.self_attn.o_proj       -> model.layers.N.self_attn.o
//   model.layers.N.mlp.{gate,up}_proj     -> model.layers.N.mlp.gate_up
//   model.layers.N.mlp.down_proj          -> model.layers.N.mlp.down
//   ....experts.E.{gate_proj,w1}, {up_proj,w3}, {down_proj,w2}: the same of every expert
//   model.embed_tokens, lm_head           -> themselves
std::string GroupName(std::string_view matrix);

// A stored matrix: trellis-coded, or grouped scalar, ternary among them.
using StoredMatrix = std::variant<PackedMatrix, GroupedMatrix>;

// Version of the directory's format that is written and read.
inline constexpr uint64_t kPackedFormat = 1;

class PackedModel {
 public:
  // Opens config.json and all shards; checks quantization_config (method, format), every
  // layout, and that all matrices and norms of the architecture, and no other tensors, are
  // there with their shapes. Codes stay in the map; everything small is copied.
  static StatusOr<std::unique_ptr<PackedModel>> Open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  const std::string& method() const { return method_; }  // one of PackedModelContents'
  StatusOr<const StoredMatrix*> Matrix(std::string_view name) const;
  // Norm weights and other plain tensors, as float32.
  StatusOr<Tensor> LoadFloat(std::string_view name) const;
  const std::map<std::string, StoredMatrix, std::less<>>& matrices() const { return matrices_; }

  uint64_t num_parameters() const;
  uint64_t num_bytes() const;  // of all weight files, headers included
  // DataLoss if a shard changed its length since it was opened.
  Status VerifyFiles() const;
  // Begins to read all weights into the system's cache: for callers that run the model.
  void ReadAhead() const;

 private:
  class Loader;

  std::filesystem::path path_;
  ModelConfig config_;
  std::string method_;
  std::map<std::string, StoredMatrix, std::less<>> matrices_;
  std::shared_ptr<const SafetensorsDirectory> files_;
};

// What the compress pipeline hands over to be written.
struct PackedModelContents {
  ModelConfig config;
  // "trellis"; or "rtn", "gptq", "awq", "ternary", whose decoder is of grouped matrices, embedding
  // and head of either kind.
  std::string method;
  // Further fields of quantization_config (bits, seed, ...): what was asked for, never times.
  std::map<std::string, std::variant<bool, int64_t, double, std::string>> options;
  // Tokenizer and other plain files, name -> contents: ReadTokenizerFiles() of a Hugging Face
  // source, or texts made from GGUF metadata.
  std::map<std::string, std::string> files;
  // Made by AppendMatrix and AppendInputScale; norms as ModelSource::LoadStored gives them.
  std::vector<OutputTensor> tensors;
  uint64_t max_shard_bytes = kDefaultShardBytes;
  std::filesystem::path staging;  // as of ModelDirectory
};

// Appends X.codes, X.out_scale, X.layout (trellis) or X.codes, X.scale, X.zero, X.order, X.layout
// (grouped; zero and order where the matrix has them).
Status AppendMatrix(std::string_view name, const StoredMatrix& matrix,
                    std::vector<OutputTensor>* tensors);
// Appends G.in_scale of an input group.
void AppendInputScale(std::string_view group, const InputTransform& input,
                      std::vector<OutputTensor>* tensors);

// Writes the directory (see WriteModelDirectory). Codes are stored first, so that they start at
// multiples of 64 bytes; otherwise the order is that of `contents.tensors`.
Status WritePackedModel(const std::filesystem::path& output, const std::filesystem::path& source,
                        PackedModelContents contents);

}  // namespace tq
