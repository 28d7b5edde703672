// What GGUF calls the fields and tensors of a model, and the order of its rows. What a single
// architecture has beside them is in checkpoint/architectures.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "checkpoint/config_member.h"
#include "checkpoint/model_config.h"

namespace tq {

// A field that all architectures have, and its key without the architecture's name before it.
struct GgufConfigKey {
  std::string_view key;
  ConfigMember field;
};
std::span<const GgufConfigKey> GgufCommonKeys();

// GGUF's name of a tensor that Hugging Face calls `name` (one of ModelTensors). An expert's matrix
// is a slice (SliceOf) of the tensor of that name: those of all experts of a layer are stacked.
std::string GgufTensorName(std::string_view name, const ModelConfig& config);

// Whether a tensor (Hugging Face's name) is a norm: of architectures whose norms add 1, GGUF stores
// the sum.
bool IsGgufNorm(std::string_view name);

// Whether a tensor (Hugging Face's name) has rows that GGUF stores in another order: ggml rotates
// neighbouring pairs, where Hugging Face rotates a head's halves, so Hugging Face's row
// j * head_dim / 2 + i (j = 0, 1) of a head is GGUF's row 2 * i + j.
bool HasRotaryRows(std::string_view name, const ModelConfig& config);
uint64_t GgufRow(uint64_t huggingface_row, uint64_t head_dim);
uint64_t HuggingFaceRow(uint64_t gguf_row, uint64_t head_dim);

}  // namespace tq
