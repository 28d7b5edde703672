// Our model directory (docs/format.md): reading it by memory map, and writing it.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
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
//   model.embed_tokens, lm_head           -> themselves
std::string GroupName(std::string_view matrix);

// A stored matrix: trellis-coded, or grouped scalar (round-to-nearest).
using StoredMatrix = std::variant<PackedMatrix, GroupedMatrix>;

class PackedModel {
 public:
  // Opens config.json and all shards; checks quantization_config (method, format), every
  // layout, and that all matrices and norms of the architecture are there with their shapes.
  static StatusOr<std::unique_ptr<PackedModel>> Open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  const std::string& method() const { return method_; }  // "trellis", "rtn"
  StatusOr<const StoredMatrix*> Matrix(std::string_view name) const;
  // Norm weights and other plain tensors, as float32.
  StatusOr<Tensor> LoadFloat(std::string_view name) const;
  const std::map<std::string, StoredMatrix, std::less<>>& matrices() const { return matrices_; }

  uint64_t num_parameters() const;
  uint64_t num_bytes() const;  // of all weight files, headers included
  // DataLoss if a shard changed its length since it was opened.
  Status VerifyFiles() const;

 private:
  struct Files;
  std::filesystem::path path_;
  ModelConfig config_;
  std::string method_;
  std::map<std::string, StoredMatrix, std::less<>> matrices_;
  std::shared_ptr<Files> files_;
};

}  // namespace tq
