// Small models in directories with a quantization_config, before they are written: tests change
// them. Link tq_checkpoint.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "tiny_model.h"

namespace tq::testing {

// Whether it is the weight of a layer's projection.
inline bool IsTinyLinear(std::string_view name) { return name.ends_with("_proj.weight"); }

struct TinyDirectory {
  nlohmann::json config;
  std::vector<OutputTensor> tensors;
  TinyTokenizer tokenizer;

  OutputTensor& Get(std::string_view name) {
    for (OutputTensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    tq::internal::CheckFailed(__FILE__, __LINE__, name);
  }
  void Remove(std::string_view name) {
    std::erase_if(tensors, [&](const OutputTensor& tensor) { return tensor.name == name; });
  }
  nlohmann::json& quantization() { return config["quantization_config"]; }
};

// Without tensors.
inline TinyDirectory MakeTinyDirectory(const TinyModel& model) {
  TinyDirectory directory;
  directory.tokenizer = model.tokenizer;
  directory.config = nlohmann::json::parse(ModelConfigToJson(model.config));
  return directory;
}

inline void WriteDirectory(const TinyDirectory& directory, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  WriteText(folder / "config.json", directory.config.dump());
  TQ_CHECK(WriteSafetensors(folder / "model.safetensors", directory.tensors).ok());
  if (directory.tokenizer.tokens.empty()) return;
  WriteText(folder / "tokenizer.json", TokenizerJson(directory.tokenizer));
  WriteText(folder / "tokenizer_config.json", TokenizerConfigJson(directory.tokenizer));
}

}  // namespace tq::testing
