// Small models in memory and loaded from a directory. Link tq_model.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "model/memory_source_for_test.h"
#include "model/transformer.h"
#include "tiny_directory.h"

namespace tq::testing {

inline MemorySource InMemory(const TinyModel& model) {
  MemorySource source(model.config);
  for (const TinyTensor& tensor : model.tensors) {
    source.Set(tensor.name, *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values));
  }
  return source;
}

// Null, and a failure, where it cannot be loaded.
inline std::unique_ptr<Transformer> LoadDirectory(const TinyDirectory& files) {
  const TempFolder folder;
  WriteDirectory(files, folder / "hf");
  auto model = Transformer::Load(folder / "hf");
  EXPECT_TRUE(model.ok()) << model.status().message();
  return model.ok() ? *std::move(model) : nullptr;
}

}  // namespace tq::testing
