// For tests: a packed model of random codes on disk, and a dense one of the same weights.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "checkpoint/packed_model.h"
#include "codec/grouped_rounding.h"
#include "codec/rotation.h"
#include "device/executor.h"
#include "model/memory_source_for_test.h"
#include "model/transformer.h"

namespace tq {

inline InlineExecutor inline_executor;

inline ModelConfig PackedConfig(bool tied) {
  ModelConfig config = SmallConfig();
  config.vocab_size = 300;
  config.hidden_size = 128;
  config.intermediate_size = 240;  // 20 * 12: a rotation whose order is no power of two
  config.num_layers = 3;
  config.head_dim = 32;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.max_position = 512;
  config.tie_embeddings = tied;
  return config;
}

inline Tensor HalfSigns(uint64_t n, double sigma, Random& random) {
  Tensor tensor = *Tensor::Zeros(DType::kF16, {n});
  for (uint64_t i = 0; i < n; ++i) {
    tensor.mutable_as<uint16_t>()[i] =
        FloatToHalf(static_cast<float>(random.NextSign() * std::exp(sigma * random.NextNormal())));
  }
  return tensor;
}

// Random codes are weights as good as any: no encoder is needed to test decoding.
inline PackedMatrix RandomPacked(const std::string& name, uint64_t rows, uint64_t cols,
                                 size_t index, bool rotate_rows,
                                 std::shared_ptr<const InputTransform> input) {
  Random random(5, name);
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.input = std::move(input);
  matrix.out_block = rotate_rows ? LargestHadamardOrder(rows, 128) : 1;
  const float scale =
      static_cast<float>(1.0 / (trellis::kValueSigma * std::sqrt(static_cast<double>(cols))));
  const size_t native = std::size(trellis::kNativeCodes);
  const trellis::Code code = trellis::kNativeCodes[index % native];
  uint64_t bytes = 0;
  const auto add = [&](uint64_t begin, uint64_t end, trellis::Code c, float s) {
    matrix.segments.push_back({begin, end, c, s, bytes});
    bytes += SegmentBytes(matrix.segments.back(), cols);
  };
  // Every second matrix changes its rate on the way, where its height allows.
  const uint64_t split = index % 2 == 1 && rows > kSegmentRowMultiple ? kSegmentRowMultiple : rows;
  add(0, split, code, scale);
  if (split < rows) add(split, rows, trellis::kNativeCodes[(index + 1) % native], scale * 0.9f);
  matrix.codes = *Tensor::Zeros(DType::kU8, {bytes});
  for (uint64_t i = 0; i < bytes; ++i) {
    matrix.codes.mutable_data()[i] = static_cast<uint8_t>(random.NextU32());
  }
  matrix.out_scale = HalfSigns(rows, 0.2, random);
  return matrix;
}

// A packed model on disk, and a source with the same weights in float.
struct Twins {
  std::shared_ptr<const PackedModel> packed;
  MemorySource dense;
};

// `change` may change norms before the model is written.
inline Twins MakeTwins(const std::filesystem::path& folder, const ModelConfig& config,
                       const std::string& method,
                       const std::function<void(MemorySource&)>& change = nullptr) {
  MemorySource source = RandomSource(config, 3);
  if (change) change(source);
  MemorySource dense = source;
  PackedModelContents contents;
  contents.config = config;
  contents.method = method;
  std::map<std::string, std::shared_ptr<const InputTransform>> inputs;
  size_t index = 0;
  for (const TensorSpec& spec : ModelTensors(config)) {
    const std::string& tensor_name = spec.name;
    const Shape& shape = spec.shape;
    if (!spec.is_coded()) {
      contents.tensors.push_back({tensor_name, source.Get(tensor_name)});
      continue;
    }
    const std::string name = tensor_name.substr(0, tensor_name.size() - sizeof("weight"));
    const bool table = shape[0] == config.vocab_size;
    Tensor decoded = *Tensor::Zeros(DType::kF32, shape);
    if (method != "trellis") {
      const float* weights = source.Get(tensor_name).as<float>();
      GroupedMatrix matrix =
          method == "ternary"
              ? *QuantizeToTernary(weights, shape[0], shape[1], 32, inline_executor)
              : *QuantizeToNearest(weights, shape[0], shape[1], 4, 32, inline_executor);
      DecodeRows(matrix, 0, shape[0], decoded.mutable_as<float>());
      EXPECT_TRUE(AppendMatrix(name, matrix, &contents.tensors).ok());
    } else {
      auto& input = inputs[GroupName(name)];
      if (input == nullptr) {
        Random random(6, name);
        input = std::make_shared<InputTransform>(
            InputTransform{HalfSigns(shape[1], 0.2, random), LargestHadamardOrder(shape[1], 128)});
        AppendInputScale(GroupName(name), *input, &contents.tensors);
      }
      PackedMatrix matrix = RandomPacked(name, shape[0], shape[1], index++, !table, input);
      DecodeDense(matrix, inline_executor, decoded.mutable_as<float>());
      EXPECT_TRUE(AppendMatrix(name, matrix, &contents.tensors).ok());
    }
    dense.Set(tensor_name, std::move(decoded));
  }
  const Status status = WritePackedModel(folder, "", std::move(contents));
  EXPECT_TRUE(status.ok()) << status.message();
  auto packed = PackedModel::Open(folder);
  EXPECT_TRUE(packed.ok()) << packed.status().message();
  return {*std::move(packed), std::move(dense)};
}

inline std::vector<int32_t> SomeTokens(uint64_t n) {
  Random random(9, "tokens");
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.NextBelow(300));
  return tokens;
}

// Of all tokens, in runs of `run`, one after the other.
inline std::vector<float> LogitsInRuns(Transformer& model, std::span<const int32_t> tokens,
                                       uint64_t run, Executor& executor,
                                       MatmulPath path = MatmulPath::kFast) {
  const uint64_t vocab = model.config().vocab_size;
  KvCache cache = *model.NewCache(tokens.size());
  std::vector<float> logits(tokens.size() * vocab);
  for (uint64_t i = 0; i < tokens.size(); i += run) {
    const Status status = model.Forward(
        {&executor, path}, cache, tokens.subspan(i, std::min<uint64_t>(run, tokens.size() - i)),
        Logits::kAll, logits.data() + i * vocab);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return logits;
}

inline std::vector<float> AllLogits(Transformer& model, std::span<const int32_t> tokens,
                                    MatmulPath path, Executor& executor = inline_executor) {
  return LogitsInRuns(model, tokens, tokens.size(), executor, path);
}

inline double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace tq
