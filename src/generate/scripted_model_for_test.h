// Models for tests of sessions and conversations, with the vocabulary of
// tests/support/tiny_tokenizer.h.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "model/memory_source_for_test.h"
#include "model/transformer.h"

namespace tq {

inline constexpr uint32_t kVocab = 300;
inline constexpr int32_t kEnd = 1;
// Ids of single bytes start at 2.
inline int32_t ByteId(uint8_t byte) { return 2 + byte; }

inline ModelConfig Config(uint32_t vocab = kVocab) {
  ModelConfig config = SmallConfig();
  config.vocab_size = vocab;
  config.max_position = 64;
  return config;
}

// A model without layers' influence that always says token next[id] after token id: its
// attention and MLP output nothing, embeddings are one-hot, the head maps id to next[id].
inline std::unique_ptr<Transformer> ScriptedModel(const std::map<int32_t, int32_t>& next,
                                                  uint32_t max_position = 64) {
  ModelConfig config = Config();
  config.hidden_size = kVocab;
  config.num_layers = 1;
  config.tie_embeddings = false;
  config.max_position = max_position;
  MemorySource source(config);
  ForEachTensor(config, [&](const std::string& name, const Shape& shape) {
    Tensor tensor = *Tensor::Zeros(DType::kF32, shape);
    if (shape.size() == 1) {
      for (uint64_t i = 0; i < shape[0]; ++i) tensor.mutable_as<float>()[i] = 1;
    }
    source.Set(name, std::move(tensor));
  });
  for (uint32_t id = 0; id < kVocab; ++id) {
    source.Mutable("model.embed_tokens.weight")[id * kVocab + id] = 1;
  }
  for (const auto& [from, to] : next) source.Mutable("lm_head.weight")[to * kVocab + from] = 1;
  return *Transformer::FromSource(source);
}

}  // namespace tq
