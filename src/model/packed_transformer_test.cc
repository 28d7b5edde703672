// Packed models against dense ones of the same weights, through the files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/packed_model.h"
#include "codec/rotation.h"
#include "device/thread_pool.h"
#include "model/memory_source_for_test.h"
#include "model/transformer.h"

namespace tq {
namespace {

using ::testing::HasSubstr;
using testing::TempFolder;

InlineExecutor inline_executor;

ModelConfig Config(bool tied) {
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

Tensor HalfSigns(uint64_t n, double sigma, Random& random) {
  Tensor tensor = *Tensor::Zeros(DType::kF16, {n});
  for (uint64_t i = 0; i < n; ++i) {
    tensor.mutable_as<uint16_t>()[i] =
        FloatToHalf(static_cast<float>(random.NextSign() * std::exp(sigma * random.NextNormal())));
  }
  return tensor;
}

// Random codes are weights as good as any: no encoder is needed to test decoding.
PackedMatrix RandomPacked(const std::string& name, uint64_t rows, uint64_t cols, size_t index,
                          bool rotate_rows, std::shared_ptr<const InputTransform> input) {
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

Twins MakeTwins(const std::filesystem::path& folder, const ModelConfig& config,
                const std::string& method) {
  const MemorySource source = RandomSource(config, 3);
  MemorySource dense = source;
  PackedModelContents contents;
  contents.config = config;
  contents.method = method;
  std::map<std::string, std::shared_ptr<const InputTransform>> inputs;
  size_t index = 0;
  ForEachTensor(config, [&](const std::string& tensor_name, const Shape& shape) {
    if (shape.size() == 1) {
      contents.tensors.push_back({tensor_name, source.Get(tensor_name)});
      return;
    }
    const std::string name = tensor_name.substr(0, tensor_name.size() - sizeof("weight"));
    const bool table = shape[0] == config.vocab_size;
    Tensor decoded = *Tensor::Zeros(DType::kF32, shape);
    if (method == "rtn") {
      const float* weights = source.Get(tensor_name).as<float>();
      GroupedMatrix matrix =
          *QuantizeToNearest(weights, shape[0], shape[1], 4, 32, inline_executor);
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
  });
  const Status status = WritePackedModel(folder, "", std::move(contents));
  EXPECT_TRUE(status.ok()) << status.message();
  auto packed = PackedModel::Open(folder);
  EXPECT_TRUE(packed.ok()) << packed.status().message();
  return {*std::move(packed), std::move(dense)};
}

std::vector<int32_t> SomeTokens(uint64_t n) {
  Random random(9, "tokens");
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.NextBelow(300));
  return tokens;
}

// Of all tokens, in runs of `run`, one after the other.
std::vector<float> LogitsInRuns(Transformer& model, std::span<const int32_t> tokens, uint64_t run,
                                Executor& executor, MatmulPath path = MatmulPath::kFast) {
  const uint64_t vocab = model.config().vocab_size;
  KvCache cache = *KvCache::Create(model.config(), tokens.size());
  std::vector<float> logits(tokens.size() * vocab);
  for (uint64_t i = 0; i < tokens.size(); i += run) {
    const Status status = model.Forward({&executor, path}, cache, tokens.subspan(i, run),
                                        Logits::kAll, logits.data() + i * vocab);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return logits;
}

std::vector<float> AllLogits(Transformer& model, std::span<const int32_t> tokens, MatmulPath path,
                             Executor& executor = inline_executor) {
  return LogitsInRuns(model, tokens, tokens.size(), executor, path);
}

double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

class PackedTransformer : public ::testing::TestWithParam<std::tuple<const char*, bool>> {};

TEST_P(PackedTransformer, IsTheDenseModelOfItsWeights) {
  const auto& [method, tied] = GetParam();
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", Config(tied), method);
  auto packed = *Transformer::FromPacked(twins.packed);
  auto dense = *Transformer::FromSource(twins.dense);
  const auto tokens = SomeTokens(40);
  const auto expected = AllLogits(*dense, tokens, MatmulPath::kFast);
  EXPECT_LT(RelativeError(AllLogits(*packed, tokens, MatmulPath::kReference), expected), 1e-3);
  // 14-bit noise: a product's relative error is about max|x'| / (8159 sqrt(12) rms x'), some
  // 1.5e-4; twelve products one after the other, the head and the fp16 cache add up to 1e-3.
  const double fast = RelativeError(AllLogits(*packed, tokens, MatmulPath::kFast), expected);
  EXPECT_LT(fast, 2e-3);
  if (std::string_view(method) == "trellis") {
    EXPECT_GT(fast, 1e-6);
  }
}

TEST_P(PackedTransformer, ThreadsAndBatchesDoNotChangeABit) {
  const auto& [method, tied] = GetParam();
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", Config(tied), method);
  auto model = *Transformer::FromPacked(twins.packed);
  const auto tokens = SomeTokens(40);
  const auto at_once = AllLogits(*model, tokens, MatmulPath::kFast);
  auto pool = *ThreadPool::Create(2);
  EXPECT_EQ(at_once, AllLogits(*model, tokens, MatmulPath::kFast, *pool));
  EXPECT_EQ(at_once, LogitsInRuns(*model, tokens, 8, inline_executor));
  EXPECT_EQ(at_once, LogitsInRuns(*model, tokens, 2, *pool));
}

// Token by token, activations have 8 bits: a relative error of half a percent per product.
TEST_P(PackedTransformer, SingleTokensDifferByTheirActivationsAlone) {
  const auto& [method, tied] = GetParam();
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", Config(tied), method);
  auto model = *Transformer::FromPacked(twins.packed);
  const auto tokens = SomeTokens(40);
  const auto single = LogitsInRuns(*model, tokens, 1, inline_executor);
  EXPECT_EQ(single, LogitsInRuns(*model, tokens, 1, **ThreadPool::Create(2)));
  const double error = RelativeError(single, AllLogits(*model, tokens, MatmulPath::kFast));
  if (std::string_view(method) == "trellis") {
    EXPECT_LT(error, 5e-2);
    EXPECT_GT(error, 1e-3);
  } else {
    EXPECT_EQ(error, 0);
  }
}

TEST_P(PackedTransformer, CountsTheBytesOfAToken) {
  const auto& [method, tied] = GetParam();
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", Config(tied), method);
  auto model = *Transformer::FromPacked(twins.packed);
  // All of the file but its header and, with a separate head, most of the embedding.
  EXPECT_LT(model->BytesPerToken(), twins.packed->num_bytes());
  if (tied) {
    EXPECT_GT(model->BytesPerToken(), twins.packed->num_bytes() * 9 / 10 - 12000);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PackedTransformer,
                         ::testing::Combine(::testing::Values("trellis", "rtn"), ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "_tied" : "_separate");
                         });

// Robustness case 15: a file that shrinks under a running model is an error, not a SIGBUS.
TEST(PackedTransformerFiles, ATruncatedFileIsNoticed) {
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", Config(true), "trellis");
  auto model = *Transformer::FromPacked(twins.packed);
  KvCache cache = *KvCache::Create(model->config(), 4);
  const ForwardContext context{&inline_executor, MatmulPath::kFast};
  const std::vector<int32_t> tokens{1};
  ASSERT_TRUE(model->Forward(context, cache, tokens, Logits::kNone, nullptr).ok());
  for (const auto& entry : std::filesystem::directory_iterator(folder / "model")) {
    if (entry.path().extension() == ".safetensors") {
      std::filesystem::resize_file(entry.path(), entry.file_size() - 1);
    }
  }
  const Status status = model->Forward(context, cache, tokens, Logits::kNone, nullptr);
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(cache.length(), 1u);
}

// The same weights, one model: as a Hugging Face directory and as GGUF, whose q and k rows
// lie in another order.
TEST(TransformerFiles, GgufAndHuggingFaceAgree) {
  TempFolder folder;
  const testing::TinyModel tiny = testing::MakeTinyModel({.layers = 3, .tied = false});
  WriteHuggingFace(tiny, folder / "hf");
  WriteGguf(tiny, folder / "tiny.gguf", testing::kPackF32);
  auto a = Transformer::Load(folder / "hf"), b = Transformer::Load(folder / "tiny.gguf");
  ASSERT_TRUE(a.ok()) << a.status().message();
  ASSERT_TRUE(b.ok()) << b.status().message();
  const auto tokens = SomeTokens(30);
  EXPECT_EQ(AllLogits(**a, tokens, MatmulPath::kFast), AllLogits(**b, tokens, MatmulPath::kFast));
}

TEST(TransformerFiles, LoadNamesWhatIsWrong) {
  TempFolder folder;
  EXPECT_FALSE(Transformer::Load(folder / "nothing").ok());
  const testing::TinyModel tiny = testing::MakeTinyModel();
  WriteHuggingFace(tiny, folder / "hf");
  testing::WriteText(folder.path() / "hf" / "config.json", "{\"model_type\": \"llama\"}");
  const auto model = Transformer::Load(folder / "hf");
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.status().message(), HasSubstr("config.json"));
}

}  // namespace
}  // namespace tq
