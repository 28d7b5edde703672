// GGUF files from arbitrary bytes, down to the model's configuration and tensors.
#include <cstdint>
#include <string>

#include "checkpoint/gguf.h"
#include "checkpoint/model_source.h"
#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size == 0) return 0;
  const tq::fuzz::MemoryFile memory(bytes, size);
  const auto file = tq::GgufFile::Open(memory.path());
  if (!file.ok()) {
    tq::fuzz::RequireOneLine(file.status().message());
    return 0;
  }
  for (const tq::GgufTensor& tensor : (*file)->tensors()) {
    // Ternary codes that no encoder writes are the one thing that can be wrong still.
    const auto loaded = (*file)->LoadFloat(tensor);
    if (!loaded.ok() && loaded.status().code() != tq::StatusCode::kDataLoss) abort();
  }
  const auto source = tq::ModelSource::Open(memory.path());
  if (!source.ok()) {
    tq::fuzz::RequireOneLine(source.status().message());
    return 0;
  }
  for (const tq::SourceTensorInfo& tensor : (*source)->tensors()) {
    // Or values that are not finite.
    const auto loaded = (*source)->LoadFloat(tensor.name);
    if (!loaded.ok() && loaded.status().code() != tq::StatusCode::kDataLoss) abort();
  }
  return 0;
}
