// Models in the layouts of GPTQ and AWQ run packed, against their equations in double.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "../../tests/support/tiny_exchange.h"
#include "../../tests/support/tiny_transformer.h"
#include "device/thread_pool.h"
#include "model/packed_twins_for_test.h"
#include "model/reference_forward_for_test.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support

const std::vector<int32_t> kTokens = {3, 17, 58, 0, 21, 21, 9, 44, 30, 5};

std::vector<float> Expected(const TinyModel& model) {
  const MemorySource source = InMemory(model);
  const ReferenceForward reference(source, nullptr);
  std::vector<float> logits;
  for (const auto& row : reference.Run(kTokens)) {
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

void ExpectRunsLike(Transformer& model, const std::vector<float>& expected) {
  const auto floats = LogitsInRuns(model, kTokens, 10, inline_executor, MatmulPath::kReference);
  EXPECT_LT(RelativeError(floats, expected), 1e-4);  // float against double
  // What 8 bits of activations cost; a matrix in the wrong place would cost more than 1.
  const std::vector<float> logits = LogitsInRuns(model, kTokens, 10, inline_executor);
  EXPECT_LT(RelativeError(logits, expected), 0.05);
  EXPECT_GT(RelativeError(logits, expected), 1e-5);
  // A token's logits depend neither on its company nor on the number of threads.
  EXPECT_EQ(LogitsInRuns(model, kTokens, 1, inline_executor), logits);
  auto pool = *ThreadPool::Create(3);
  EXPECT_EQ(LogitsInRuns(model, kTokens, 4, *pool), logits);
}

class ExchangeModelTest : public ::testing::TestWithParam<TinyExchangeOptions> {};

TEST_P(ExchangeModelTest, AgreesWithTheEquations) {
  for (const char* architecture : {"llama", "qwen2"}) {
    SCOPED_TRACE(architecture);
    TinyModel model = MakeTinyModel({.architecture = architecture, .vocab = 60});
    const auto running = LoadDirectory(MakeTinyExchange(model, GetParam()));
    ASSERT_NE(running, nullptr);
    ExpectRunsLike(*running, Expected(model));
  }
}

// Matrices stay packed: what a token reads, and what the file holds.
TEST_P(ExchangeModelTest, CountsBytes) {
  TinyModel model = MakeTinyModel({.vocab = 60});
  const TinyDirectory files = MakeTinyExchange(model, GetParam());
  const auto running = LoadDirectory(files);
  ASSERT_NE(running, nullptr);
  uint64_t stored = 0, weights = 0, floats = 0;
  for (const OutputTensor& tensor : files.tensors) stored += tensor.tensor.num_bytes();
  for (const TinyTensor& tensor : model.tensors) {
    (IsTinyLinear(tensor.name) ? weights : floats) += tensor.values.size();
  }
  EXPECT_EQ(running->file_bytes(), stored);
  EXPECT_EQ(running->num_parameters(), weights + floats);
  // Scales of 2 bytes, zeros of at most as many, and the order of columns.
  const uint64_t codes = weights * GetParam().bits / 8;
  EXPECT_GT(running->BytesPerToken(), codes + floats * 4);
  EXPECT_LT(running->BytesPerToken(), codes + weights / 32 * 4 + floats * 4 + 14 * 128 * 4 + 256);
}

INSTANTIATE_TEST_SUITE_P(
    Forms, ExchangeModelTest,
    ::testing::Values(TinyExchangeOptions{}, TinyExchangeOptions{.bits = 8, .ordered = true},
                      TinyExchangeOptions{.format = ExchangeFormat::kGptqV2, .symmetric = true},
                      TinyExchangeOptions{.format = ExchangeFormat::kGptqV2, .group_size = -1},
                      TinyExchangeOptions{.format = ExchangeFormat::kAwq},
                      TinyExchangeOptions{.format = ExchangeFormat::kAwq, .group_size = 64}));

// Of one group, some matrices are packed and others floats.
TEST(ExchangeModel, ModulesThatStayFloats) {
  const TinyModel floats = MakeTinyModel({.vocab = 60});
  TinyModel model = floats;
  TinyDirectory files = MakeTinyExchange(model, {});
  for (TinyTensor& tensor : model.tensors) {
    if (!tensor.name.ends_with("k_proj.weight") && !tensor.name.ends_with("down_proj.weight")) {
      continue;
    }
    tensor.values = floats.Get(tensor.name).values;
    const std::string stem = tensor.name.substr(0, tensor.name.size() - 6);
    for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) files.Remove(stem + part);
    files.tensors.push_back(
        {tensor.name, *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values)});
  }
  const auto running = LoadDirectory(files);
  ASSERT_NE(running, nullptr);
  ExpectRunsLike(*running, Expected(model));
}

}  // namespace
}  // namespace tq
