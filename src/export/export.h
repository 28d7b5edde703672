// A model of any kind as a file that other programs read: GGUF, or a Hugging Face directory. Packed
// weights are decoded, but for grouped codes in the layouts of GPTQ and AWQ. Memory is that of some
// rows, or in those layouts of one matrix, and the tokenizer, whatever the model's size; the bytes
// depend on the model and the options alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "checkpoint/gguf_encode.h"
#include "checkpoint/model_directory.h"
#include "codec/exchange_layout.h"
#include "device/executor.h"

namespace tq {

// What the matrices of a GGUF file become; norms are F32. kQ4_K: head (or tied embedding) in Q6_K.
enum class GgufFileType { kF32, kF16, kBF16, kQ8_0, kQ4_K };

struct ExportOptions {
  std::filesystem::path model, output;
  GgufFileType type = GgufFileType::kF16;         // GGUF only
  uint64_t max_shard_bytes = kDefaultShardBytes;  // Hugging Face only
  // Hugging Face only: matrices of the decoder stay the grouped codes that they are.
  std::optional<ExchangeFormat> format = std::nullopt;
};

// Tensors whose rows no block of the wanted type divides, and the type that they have instead.
struct TypeFallback {
  GgufEncoding wanted = GgufEncoding::kF32, type = GgufEncoding::kF32;
  uint64_t tensors = 0;
};

struct ExportReport {
  uint64_t parameters = 0;
  uint64_t bytes = 0;  // of the weight files
  uint64_t tensors = 0;
  std::vector<TypeFallback> fallbacks;
  // What the format cannot say of this model, a line each.
  std::vector<std::string> notes;
};

// Writes a GGUF file. Architectures and tokenizers that have no place in it are Unimplemented;
// magnitudes that the type does not hold are InvalidArgument naming tensor, row and element.
StatusOr<ExportReport> ExportGguf(const ExportOptions& options, Executor& executor,
                                  Progress& progress);

// Writes a directory of safetensors, with config.json and the tokenizer's files: all of bfloat16,
// or with grouped codes and the rest of float16, as programs that read those compute. Models that
// have no such codes, or codes that the format has no word for, are Unimplemented, naming the
// matrix.
StatusOr<ExportReport> ExportHuggingFace(const ExportOptions& options, Executor& executor,
                                         Progress& progress);

}  // namespace tq
