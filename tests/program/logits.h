// What models on disk compute, for end-to-end tests that compare them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <vector>

#include "model/transformer.h"

namespace tq::testing {

// Logits of some tokens in floating point, [tokens, vocab].
inline std::vector<float> LogitsOf(const std::filesystem::path& path) {
  auto model = Transformer::Load(path);
  EXPECT_TRUE(model.ok()) << model.status().message();
  const std::vector<int32_t> tokens = {0, 70, 12, 290, 101, 5, 33, 260};
  InlineExecutor executor;
  KvCache cache = *(*model)->NewCache(tokens.size());
  std::vector<float> logits(tokens.size() * (*model)->config().vocab_size);
  const Status status = (*model)->Forward({&executor, MatmulPath::kReference}, cache, tokens,
                                          Logits::kAll, logits.data());
  EXPECT_TRUE(status.ok()) << status.message();
  return logits;
}

inline double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, power = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    power += double{a[i]} * a[i];
  }
  return std::sqrt(error / power);
}

}  // namespace tq::testing
