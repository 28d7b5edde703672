// The float operations of a GPU against their twins (kernels/transformer). Needs a device.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/checked.h"
#include "base/random.h"
#include "kernels/cuda/argmax.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/transformer.h"
#include "kernels/isa.h"
#include "kernels/transformer/attention.h"
#include "kernels/transformer/elementwise.h"

namespace tq::cuda {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> Normal(uint64_t n, std::string_view label) {
  Random random(31, label, n);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  return x;
}

void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected,
                float tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], tolerance) << "element " << i;
  }
}

class TransformerDeviceTest : public testing::Test {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

TEST_F(TransformerDeviceTest, NormAddsAndNorms) {
  for (uint64_t size : {1, 24, 576, 4096, 5000}) {
    for (uint64_t n : {1, 3}) {
      std::vector<float> x = Normal(n * size, "x");
      const std::vector<float> added = Normal(n * size, "added"), weight = Normal(size, "weight");
      const DeviceCopy<float> device_x(x), device_added(added), device_weight(weight);
      const DeviceCopy<float> y(std::vector<float>(n * size, kNan));
      const DeviceCopy<uint32_t> bad(std::vector<uint32_t>{UINT32_MAX});
      NormArgs args;
      args.x = device_x.data(), args.added = device_added.data();
      args.weight = device_weight.data(), args.y = y.data(), args.n = n, args.size = size;
      args.eps = 1e-5f, args.first_bad = bad.data(), args.place = 7;
      ASSERT_EQ(LaunchNorm(args, nullptr), cudaSuccess);
      for (size_t i = 0; i < x.size(); ++i) x[i] += added[i];
      std::vector<float> expected(n * size);
      transformer::RmsNorm(x.data(), n, size, weight.data(), 1e-5f, expected.data());
      EXPECT_EQ(device_x.Host(), x);
      ExpectNear(y.Host(), expected, 3e-6f);
      EXPECT_EQ(bad.Host()[0], UINT32_MAX);
      // The first place of a value that is not finite stays.
      x[x.size() / 2] = std::numeric_limits<float>::infinity();
      const DeviceCopy<float> infinite(x);
      args.x = infinite.data(), args.added = nullptr;
      ASSERT_EQ(LaunchNorm(args, nullptr), cudaSuccess);
      args.place = 9;
      ASSERT_EQ(LaunchNorm(args, nullptr), cudaSuccess);
      EXPECT_EQ(bad.Host()[0], 7u);
    }
  }
}

TEST_F(TransformerDeviceTest, SiluMultiply) {
  for (uint64_t size : {1, 1000, 70000}) {
    const std::vector<float> gate = Normal(size, "gate"), up = Normal(size, "up");
    std::vector<float> expected(size);
    transformer::SiluMultiply(gate.data(), up.data(), size, expected.data());
    const DeviceCopy<float> device_gate(gate), device_up(up);
    ASSERT_EQ(LaunchSiluMultiply(device_gate.data(), device_up.data(), size, nullptr), cudaSuccess);
    ExpectNear(device_gate.Host(), expected, 2e-6f);
  }
}

TEST_F(TransformerDeviceTest, ArgmaxTakesTheLowestIdOfTheLargest) {
  for (uint32_t n : {1u, 77u, 2048u, 2049u, 128256u}) {
    std::vector<float> logits = Normal(n, "logits");
    const auto run = [&] {
      const DeviceCopy<float> device_logits(logits);
      const DeviceCopy<uint8_t> result(std::vector<uint8_t>(sizeof(ArgmaxResult), 0xff));
      auto* out = reinterpret_cast<ArgmaxResult*>(result.data());
      EXPECT_EQ(LaunchArgmax(device_logits.data(), n, out, nullptr), cudaSuccess);
      ArgmaxResult host;
      std::memcpy(&host, result.Host().data(), sizeof(host));
      return host;
    };
    const auto best = std::max_element(logits.begin(), logits.end());
    EXPECT_EQ(static_cast<uint32_t>(run().best), best - logits.begin());
    EXPECT_EQ(run().first_bad, UINT32_MAX);
    logits[n - 1] = logits[n / 2] = 50;
    EXPECT_EQ(static_cast<uint32_t>(run().best), n / 2);
    std::fill(logits.begin(), logits.end(), -3.0f);
    logits[n / 3] = -0.0f, logits[n - 1] = 0.0f;
    EXPECT_EQ(static_cast<uint32_t>(run().best), n / 3);
    for (const float bad : {kNan, -std::numeric_limits<float>::infinity()}) {
      logits[n - 1] = logits[n / 2] = bad;
      EXPECT_EQ(run().first_bad, n / 2);
    }
  }
}

struct Shape {
  uint32_t heads, kv_heads, head_dim, base, n;
};
constexpr Shape kShapes[] = {{1, 1, 2, 0, 1},      {4, 2, 6, 3, 5},     {9, 3, 64, 700, 16},
                             {32, 8, 128, 255, 2}, {20, 1, 80, 511, 1}, {2, 2, 256, 256, 3},
                             {14, 2, 64, 1100, 3}, {8, 8, 128, 62, 4},  {8, 8, 128, 1500, 1},
                             {4, 1, 64, 0, 3},     {4, 2, 128, 0, 3}};

class AttentionDeviceTest : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

std::vector<float> ToFloat(const std::vector<uint16_t>& halves) {
  std::vector<float> values(halves.size());
  transformer::HalfToFloat(halves.data(), halves.size(), values.data());
  return values;
}

TEST_P(AttentionDeviceTest, RopeTurnsAndStores) {
  const auto [heads, kv_heads, d, base, n] = GetParam();
  const uint64_t half = d / 2, capacity = base + n + 1, stride = capacity * d;
  std::vector<double> frequencies(half);
  for (uint64_t i = 0; i < half; ++i) {
    frequencies[i] = std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
  }
  std::vector<float> q = Normal(uint64_t{n} * heads * d, "q");
  std::vector<float> k = Normal(uint64_t{n} * kv_heads * d, "k");
  const std::vector<float> v = Normal(uint64_t{n} * kv_heads * d, "v");
  constexpr uint16_t kPoison = 0x7e01;
  const DeviceCopy<uint16_t> keys(std::vector<uint16_t>(kv_heads * stride, kPoison));
  const DeviceCopy<uint16_t> values(std::vector<uint16_t>(kv_heads * stride, kPoison));
  const DeviceCopy<double> device_frequencies(frequencies);
  const DeviceCopy<uint32_t> device_base(std::vector<uint32_t>{base});
  const DeviceCopy<float> cosines(std::vector<float>(n * half, kNan));
  const DeviceCopy<float> sines(std::vector<float>(n * half, kNan));
  const DeviceCopy<float> device_q(q), device_k(k), device_v(v);
  ASSERT_EQ(LaunchRopeTable({device_frequencies.data(), device_base.data(), n, half, cosines.data(),
                             sines.data()},
                            nullptr),
            cudaSuccess);
  RopeArgs args;
  args.queries = device_q.data(), args.keys = device_k.data(), args.values = device_v.data();
  args.cosines = cosines.data(), args.sines = sines.data(), args.base = device_base.data();
  args.n = n, args.heads = heads, args.kv_heads = kv_heads, args.head_dim = d;
  args.cache = {keys.data(), values.data(), stride};
  ASSERT_EQ(LaunchRope(args, nullptr), cudaSuccess);

  std::vector<uint16_t> expected_keys(kv_heads * stride, kPoison), expected_values = expected_keys;
  for (uint32_t p = 0; p < n; ++p) {
    std::vector<float> cosine(half), sine(half);
    transformer::RopeTable(base + p, frequencies.data(), half, cosine.data(), sine.data());
    transformer::Rope(&q[uint64_t{p} * heads * d], heads, d, cosine.data(), sine.data());
    transformer::Rope(&k[uint64_t{p} * kv_heads * d], kv_heads, d, cosine.data(), sine.data());
    for (uint32_t h = 0; h < kv_heads; ++h) {
      const uint64_t from = (uint64_t{p} * kv_heads + h) * d, to = h * stride + (base + p) * d;
      transformer::FloatToHalf(&k[from], d, &expected_keys[to]);
      transformer::FloatToHalf(&v[from], d, &expected_values[to]);
    }
  }
  ExpectNear(device_q.Host(), q, 2e-6f);
  EXPECT_EQ(values.Host(), expected_values);
  const std::vector<uint16_t> stored = keys.Host();
  for (size_t i = 0; i < stored.size(); ++i) {
    ASSERT_EQ(stored[i] == kPoison, expected_keys[i] == kPoison) << i;
  }
  const std::vector<float> actual = ToFloat(stored), expected = ToFloat(expected_keys);
  for (size_t i = 0; i < actual.size(); ++i) {
    if (expected_keys[i] != kPoison) {
      ASSERT_NEAR(actual[i], expected[i], 4e-3f);
    }
  }
}

// Random queries and a random cache, whose positions beyond the last are no numbers.
struct Problem {
  Shape shape;
  uint64_t n, stride, row;
  std::vector<float> q;
  std::vector<uint16_t> keys, values;
  DeviceCopy<float> device_q;
  DeviceCopy<uint16_t> device_keys, device_values;
  DeviceCopy<uint32_t> device_base;

  Problem(const Shape& s, uint64_t queries)
      : shape(s),
        n(queries),
        stride((s.base + n + 300) * s.head_dim),
        row(uint64_t{s.heads} * s.head_dim),
        q(Normal(n * row, "q")),
        keys(Cache("keys")),
        values(Cache("values")),
        device_q(q),
        device_keys(keys),
        device_values(values),
        device_base(std::vector<uint32_t>{s.base}) {}

  std::vector<uint16_t> Cache(std::string_view label) const {
    std::vector<uint16_t> cache(shape.kv_heads * stride);
    transformer::FloatToHalf(Normal(cache.size(), label).data(), cache.size(), cache.data());
    for (uint32_t h = 0; h < shape.kv_heads; ++h) {
      std::fill(cache.begin() +
                    static_cast<std::ptrdiff_t>(h * stride + (shape.base + n) * shape.head_dim),
                cache.begin() + static_cast<std::ptrdiff_t>((h + 1) * stride), uint16_t{0x7e01});
    }
    return cache;
  }
  // A head's keys as the processor's kernel wants them.
  std::vector<uint16_t> KeysTogether(uint32_t head) const {
    const size_t d = shape.head_dim, length = shape.base + n;
    std::vector<uint16_t> together(RoundUp<size_t>(length, transformer::kKeysTogether) * d,
                                   uint16_t{0x7e01});
    for (size_t i = 0; i < length * d; ++i) {
      together[transformer::KeyIndex(i / d, i % d, d)] = keys[head * stride + i];
    }
    return together;
  }
  std::vector<float> Expected() const {
    std::vector<float> expected(n * row);
    for (uint32_t h = 0; h < shape.kv_heads; ++h) {
      transformer::AttentionArgs args;
      args.n = n, args.group = shape.heads / shape.kv_heads, args.head_dim = shape.head_dim;
      args.first = shape.base;
      args.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
      args.q = &q[uint64_t{h} * args.group * shape.head_dim], args.q_stride = row;
      const std::vector<uint16_t> together = KeysTogether(h);
      args.keys = together.data(), args.values = &values[h * stride];
      args.out = &expected[uint64_t{h} * args.group * shape.head_dim], args.out_stride = row;
      transformer::Attention(args, Isa::kReference);
    }
    return expected;
  }
  AttentionArgs Args() const {
    AttentionArgs args;
    args.queries = device_q.data(), args.base = device_base.data(), args.n = n;
    args.heads = shape.heads, args.kv_heads = shape.kv_heads, args.head_dim = shape.head_dim;
    args.cache = {device_keys.data(), device_values.data(), stride};
    return args;
  }
};

TEST_P(AttentionDeviceTest, AttentionEqualsItsTwin) {
  const auto [heads, kv_heads, d, base, n] = GetParam();
  const Problem problem(GetParam(), n);
  const std::vector<float> expected = problem.Expected();
  std::vector<float> first;
  const uint32_t needed = (base + n + kAttentionBlock - 1) / kAttentionBlock;
  for (uint32_t blocks : {needed, needed + 2}) {
    const DeviceCopy<float> out(std::vector<float>(n * problem.row, kNan));
    const DeviceCopy<float> scratch(
        std::vector<float>(AttentionScratchFloats(n, heads, d, blocks), kNan));
    AttentionArgs args = problem.Args();
    args.blocks = blocks, args.scratch = scratch.data(), args.out = out.data();
    ASSERT_EQ(LaunchAttention(args, nullptr), cudaSuccess);
    ExpectNear(out.Host(), expected, 1e-5f);
    // How many blocks might have been there changes nothing.
    if (first.empty()) first = out.Host();
    EXPECT_EQ(out.Host(), first);
  }
}

// In half precision: queries, and weights of positions, to 2^-11 of them.
TEST_P(AttentionDeviceTest, AttentionOfManyIsNearItsTwin) {
  const auto [heads, kv_heads, d, base, few] = GetParam();
  const Problem problem(GetParam(), few * 67);  // more than a block of queries
  const uint64_t row = uint64_t{heads} * d;
  const DeviceCopy<float> out(std::vector<float>((problem.n + 1) * row, kNan));
  AttentionArgs args = problem.Args();
  args.out = out.data();
  if (!CanAttendMany(d)) {
    EXPECT_EQ(LaunchManyAttention(args, nullptr), cudaErrorInvalidValue);
    return;
  }
  ASSERT_EQ(LaunchManyAttention(args, nullptr), cudaSuccess);
  std::vector<float> actual = out.Host();
  for (uint64_t i = problem.n * row; i < actual.size(); ++i) ASSERT_TRUE(std::isnan(actual[i]));
  actual.resize(problem.n * row);
  const std::vector<float> expected = problem.Expected();
  ExpectNear(actual, expected, 4e-3f);
  double error = 0, sum = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(actual[i] - expected[i], 2.0);
    sum += std::pow(expected[i], 2.0);
  }
  EXPECT_LT(std::sqrt(error / sum), 2e-3);
  // A key that is no number reaches whoever sees it.
  uint16_t nan = 0x7e01;
  ASSERT_EQ(
      cudaMemcpy(problem.device_keys.data() + (base + 1) * d, &nan, 2, cudaMemcpyHostToDevice),
      cudaSuccess);
  ASSERT_EQ(LaunchManyAttention(args, nullptr), cudaSuccess);
  EXPECT_TRUE(std::isnan(out.Host()[row]));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionDeviceTest, testing::ValuesIn(kShapes),
                         [](const auto& info) {
                           const Shape& s = info.param;
                           return fmt::format("{}of{}x{}at{}n{}", s.heads, s.kv_heads, s.head_dim,
                                              s.base, s.n);
                         });

}  // namespace
}  // namespace tq::cuda
