// Drawing tokens on a device against the twin in plain code. Needs a device.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_twin_for_test.h"

namespace tq::cuda {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// One slice, its neighbours, several, the sizes of today's vocabularies.
constexpr uint32_t kSizes[] = {1,    2,    3,    31,   32,   33,    255,    256,   257,
                               1023, 1024, 1025, 2049, 5003, 49152, 128256, 262145};

std::vector<float> Normal(uint32_t n, float scale, uint64_t seed = 5) {
  Random random(seed, "logits", n);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = scale * static_cast<float>(random.NextNormal());
  return logits;
}

// Draws with the same scratch, over which and over the logits nothing may be written.
class Sampling {
 public:
  explicit Sampling(uint32_t n)
      : n_(n), scratch_(std::vector<uint8_t>(SamplingScratchBytes(n) + kGuard, 0)) {
    const std::vector<uint8_t> guard(kGuard, 0xA5);
    EXPECT_EQ(cudaMemcpy(scratch_.data() + SamplingScratchBytes(n), guard.data(), kGuard,
                         cudaMemcpyHostToDevice),
              cudaSuccess);
  }

  ArgmaxResult Draw(const std::vector<float>& logits, SamplingParams params,
                    const std::vector<int32_t>& recent) const {
    EXPECT_EQ(logits.size(), n_);
    std::vector<float> padded = logits;
    padded.resize(n_ + kGuard, kNan);
    params.num_recent = static_cast<uint32_t>(recent.size());
    const DeviceCopy<float> device_logits(padded);
    const DeviceCopy<SamplingParams> device_params({params});
    const DeviceCopy<int32_t> device_recent(recent);
    const DeviceCopy<uint8_t> result(std::vector<uint8_t>(sizeof(ArgmaxResult), 0xff));
    SamplingArgs args;
    args.logits = device_logits.data(), args.n = n_;
    args.top_k = params.top_k > 0, args.top_p = params.top_p < 1;
    args.params = device_params.data(), args.recent = device_recent.data();
    args.scratch = scratch_.data();
    args.result = reinterpret_cast<ArgmaxResult*>(result.data());
    const bool penalty = params.repetition_penalty != 1;
    if (penalty) {
      EXPECT_EQ(LaunchPenalise(args, nullptr), cudaSuccess);
    }
    EXPECT_EQ(LaunchArgmax(args.logits, n_, args.result, nullptr), cudaSuccess);
    EXPECT_EQ(LaunchDraw(args, nullptr), cudaSuccess);
    ArgmaxResult host;
    std::memcpy(&host, result.Host().data(), sizeof(host));

    if (penalty) {
      for (uint32_t i = 0; i < n_; ++i) {
        if (!std::isfinite(padded[i])) return host;
      }
      padded.resize(n_);
      TwinPenalise(params, recent, padded);
      padded.resize(n_ + kGuard, kNan);
    }
    const std::vector<float> after = device_logits.Host();
    EXPECT_EQ(std::memcmp(after.data(), padded.data(), padded.size() * sizeof(float)), 0);
    const std::vector<uint8_t> scratch = scratch_.Host();
    for (size_t i = SamplingScratchBytes(n_); i < scratch.size(); ++i) EXPECT_EQ(scratch[i], 0xA5);
    return host;
  }

  // Whether the device draws what the twin draws.
  testing::AssertionResult Agrees(const std::vector<float>& logits, const SamplingParams& params,
                                  const std::vector<int32_t>& recent = {}) const {
    const ArgmaxResult drawn = Draw(logits, params, recent);
    const TwinDraw twin = DrawTwin(logits, params, recent);
    if (drawn.first_bad == twin.first_bad &&
        (twin.first_bad != UINT32_MAX || drawn.best == twin.token)) {
      return testing::AssertionSuccess();
    }
    return testing::AssertionFailure()
           << "n " << n_ << " temperature " << params.temperature << " k " << params.top_k << " p "
           << params.top_p << " min-p " << params.min_p << " penalty " << params.repetition_penalty
           << " uniform " << params.uniform << ": " << drawn.best << ", bad " << drawn.first_bad
           << ", not " << twin.token << ", bad " << twin.first_bad;
  }

 private:
  static constexpr uint32_t kGuard = 16;
  uint32_t n_;
  DeviceCopy<uint8_t> scratch_;
};

std::vector<int32_t> SomeIds(uint32_t n, Random& random) {
  std::set<int32_t> ids{-1, static_cast<int32_t>(n)};  // strangers
  for (int i = 0; i < 60; ++i) ids.insert(static_cast<int32_t>(random.NextBelow(n)));
  return {ids.begin(), ids.end()};
}

SamplingParams RandomParams(uint32_t n, Random& random) {
  const auto one_of = [&](auto... values) {
    const std::common_type_t<decltype(values)...> all[] = {values...};
    return all[random.NextBelow(sizeof...(values))];
  };
  SamplingParams params;
  params.repetition_penalty = one_of(1.0f, 1.1f, 0.01f, 100.0f);
  params.temperature = one_of(1.0f, 0.7f, 50.0f, 1e-3f, 1e-30f);
  params.top_k = one_of(0u, 1u, 2u, 50u, n / 2 + 1, n, n + 7, UINT32_MAX);
  params.top_p = one_of(1.0f, 0.95f, 0.5f, 1e-30f, 1e-45f, 0.99999994f);
  params.min_p = one_of(0.0f, 0.05f, 1e-9f, 1.0f);
  params.uniform = one_of(0.0, 1 - 0x1p-53, random.NextUniform(), random.NextUniform());
  return params;
}

class SamplingDeviceTest : public testing::Test {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

TEST_F(SamplingDeviceTest, DrawsWhatTheTwinDraws) {
  for (const uint32_t n : kSizes) {
    const Sampling sampling(n);
    Random random(7, "params", n);
    // Weights apart, near each other, and of logits whose differences overflow.
    for (const float scale : {2.0f, 8.0f, 1e-3f, 1e38f}) {
      const std::vector<float> logits = Normal(n, scale);
      for (int i = 0; i < (n > 10000 ? 8 : 30); ++i) {
        const SamplingParams params = RandomParams(n, random);
        const bool penalty = params.repetition_penalty != 1;
        ASSERT_TRUE(
            sampling.Agrees(logits, params, penalty ? SomeIds(n, random) : std::vector<int32_t>()));
      }
    }
  }
}

TEST_F(SamplingDeviceTest, TiesGoToTheLowestIds) {
  for (const uint32_t n : kSizes) {
    const Sampling sampling(n);
    Random random(8, "params", n);
    std::vector<float> steps = Normal(n, 2), zeros(n);
    for (float& logit : steps) logit = std::round(logit);
    for (uint32_t i = 0; i < n; i += 2) zeros[i] = -0.0f;
    for (const auto& logits : {steps, zeros, std::vector<float>(n, 1.25f)}) {
      for (int i = 0; i < (n > 10000 ? 8 : 30); ++i) {
        SamplingParams params = RandomParams(n, random);
        params.repetition_penalty = 1;
        ASSERT_TRUE(sampling.Agrees(logits, params));
      }
    }
  }
}

TEST_F(SamplingDeviceTest, DrawsCoverWhatIsKeptAndNothingElse) {
  constexpr uint32_t kN = 3000;
  const Sampling sampling(kN);
  std::vector<float> logits(kN, -5.0f);
  for (const uint32_t id : {7u, 1500u, 2999u}) logits[id] = 1;
  SamplingParams params;
  params.top_k = 3;
  std::set<uint64_t> seen;
  for (int i = 0; i < 30; ++i) {
    params.uniform = i / 30.0;
    seen.insert(sampling.Draw(logits, params, {}).best);
  }
  EXPECT_EQ(seen, (std::set<uint64_t>{7, 1500, 2999}));
  params.top_p = 0.6f;  // two of three
  seen.clear();
  for (int i = 0; i < 30; ++i) {
    params.uniform = i / 30.0;
    seen.insert(sampling.Draw(logits, params, {}).best);
  }
  EXPECT_EQ(seen, (std::set<uint64_t>{7, 1500}));
}

// Robustness case 73.
TEST_F(SamplingDeviceTest, RefusesWhatIsNotFinite) {
  for (const uint32_t n : {1u, 77u, 2049u, 128256u}) {
    const Sampling sampling(n);
    const std::vector<float> good = Normal(n, 2);
    for (const float bad : {kNan, kInfinity, -kInfinity}) {
      std::vector<float> logits = good;
      logits[n - 1] = logits[n / 2] = bad;
      SamplingParams params;
      params.top_k = 5, params.top_p = 0.9f;
      // A recent token that is not finite stays so.
      params.repetition_penalty = 1.5f;
      const std::vector<int32_t> recent{static_cast<int32_t>(n / 2)};
      EXPECT_EQ(sampling.Draw(logits, params, recent).first_bad, n / 2);
      // The next draw with the same scratch is as any other.
      ASSERT_TRUE(sampling.Agrees(good, params, recent));
    }
  }
}

}  // namespace
}  // namespace tq::cuda
