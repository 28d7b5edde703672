// A small model in a directory with a quantization_config, which tests of its reader spoil in one
// place at a time. Link tq_checkpoint.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "checkpoint/model_source.h"
#include "tiny_directory.h"

namespace tq::testing {

inline std::vector<float> Values(const Tensor& tensor) {
  return {tensor.as<float>(), tensor.as<float>() + tensor.num_elements()};
}

class DirectorySourceTest : public ::testing::Test {
 protected:
  StatusOr<std::unique_ptr<ModelSource>> Open() {
    WriteDirectory(directory_, folder_ / "hf");
    return ModelSource::Open(folder_ / "hf");
  }
  // With one field of quantization_config set.
  StatusOr<std::unique_ptr<ModelSource>> With(const std::string& field,
                                              const nlohmann::json& value) {
    const TinyDirectory sound = directory_;
    directory_.quantization()[field] = value;
    auto source = Open();
    directory_ = sound;
    return source;
  }
  // With one tensor in the place of another.
  StatusOr<std::unique_ptr<ModelSource>> WithTensor(const std::string& name, Tensor tensor) {
    const TinyDirectory sound = directory_;
    directory_.Get(name).tensor = std::move(tensor);
    auto source = Open();
    directory_ = sound;
    return source;
  }
  std::string HashOf(const std::string& name) {
    const auto source = Open();
    Hasher hasher;
    EXPECT_TRUE((*source)->HashTensor(name, hasher).ok());
    return hasher.Digest().Hex();
  }

  TempFolder folder_;
  TinyModel model_;
  TinyDirectory directory_;
};

}  // namespace tq::testing
