#include "kernels/transformer/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "kernels/isa.h"
#include "kernels/transformer/elementwise.h"

namespace tq::transformer {
namespace {

constexpr uint16_t kHalfNan = 0x7E00;

// Queries of `n` positions from `first` on, and a cache of exactly their keys and values; keys that
// fill up the last group are NaN.
struct Problem {
  Problem(size_t n, size_t group, size_t dim, size_t first, double sigma = 1)
      : length(first + n), stride(group * dim + 5) {
    Random random(20240612, "attention_test", n * 1000003 + group * 1009 + dim * 31 + first);
    const auto fill = [&](std::vector<float>& values, double scale) {
      for (float& value : values) value = static_cast<float>(scale * random.NextNormal());
    };
    q.resize(n * stride);
    fill(q, sigma);
    std::vector<float> floats(length * dim);
    std::vector<uint16_t> halves(floats.size());
    fill(floats, 1);
    FloatToHalf(floats.data(), floats.size(), halves.data());
    keys.assign((length + kKeysTogether - 1) / kKeysTogether * kKeysTogether * dim, kHalfNan);
    for (size_t i = 0; i < halves.size(); ++i) keys[KeyIndex(i / dim, i % dim, dim)] = halves[i];
    fill(floats, 1);
    values.assign(length * dim, kHalfNan);
    FloatToHalf(floats.data(), floats.size(), values.data());
    args.n = n, args.group = group, args.head_dim = dim, args.first = first;
    args.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
    args.q = q.data(), args.q_stride = stride, args.out_stride = stride;
    args.keys = keys.data(), args.values = values.data();
  }
  std::vector<float> Run(Isa isa) {
    std::vector<float> out(q.size(), -77.0f);
    args.out = out.data();
    Attention(args, isa);
    return out;
  }
  // Keys as floats, [length, dim].
  std::vector<float> Keys() const {
    const size_t dim = args.head_dim;
    std::vector<float> k(length * dim);
    for (size_t i = 0; i < k.size(); ++i) {
      HalfToFloat(&keys[KeyIndex(i / dim, i % dim, dim)], 1, &k[i]);
    }
    return k;
  }
  // The bound that attention.h states.
  double Tolerance() const {
    const size_t dim = args.head_dim;
    const std::vector<float> k = Keys();
    std::vector<float> v(length * dim);
    HalfToFloat(values.data(), v.size(), v.data());
    double score = 0, value = 0;
    for (size_t t = 0; t < args.n; ++t) {
      for (size_t h = 0; h < args.group; ++h) {
        for (size_t key = 0; key < length; ++key) {
          double sum = 0;
          for (size_t i = 0; i < dim; ++i) {
            sum += std::abs(static_cast<double>(q[t * stride + h * dim + i]) * k[key * dim + i]);
          }
          score = std::max(score, sum * static_cast<double>(args.scale));
        }
      }
    }
    for (float x : v) value = std::max(value, static_cast<double>(std::abs(x)));
    const auto size = static_cast<double>(dim) + static_cast<double>(length) / 16 + 32;
    const double capped = static_cast<double>(args.softcap) * 0x1p-20;
    return (size * 0x1p-23 * (1 + 2 * score) + capped) * value;
  }

  size_t length, stride;
  std::vector<float> q;
  std::vector<uint16_t> keys, values;
  AttentionArgs args;
};

std::vector<Isa> VectorLevels() {
  std::vector<Isa> levels;
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
    if (IsaSupported(isa)) levels.push_back(isa);
  }
  return levels;
}

void CheckAgainstReference(Problem& problem) {
  const std::vector<float> expected = problem.Run(Isa::kReference);
  const double tolerance = problem.Tolerance();
  for (Isa isa : VectorLevels()) {
    const std::vector<float> out = problem.Run(isa);
    for (size_t i = 0; i < out.size(); ++i) {
      if (i % problem.stride >= problem.args.group * problem.args.head_dim) {
        ASSERT_EQ(out[i], -77.0f) << "gap written";
      } else {
        ASSERT_NEAR(out[i], expected[i], tolerance)
            << IsaName(isa) << " n " << problem.args.n << " group " << problem.args.group << " dim "
            << problem.args.head_dim << " first " << problem.args.first << " at " << i;
      }
    }
  }
}

// The equation of attention.h for three positions from 4 on, two heads of 8 values.
void CheckFormula(size_t window, float softcap) {
  Problem problem(3, 2, 8, 4, 4.0);
  problem.args.window = window;
  problem.args.softcap = softcap;
  const std::vector<float> out = problem.Run(Isa::kReference);
  const std::vector<float> k = problem.Keys();
  std::vector<float> v(7 * 8);
  HalfToFloat(problem.values.data(), v.size(), v.data());
  for (size_t t = 0; t < 3; ++t) {
    for (size_t h = 0; h < 2; ++h) {
      const float* q = problem.q.data() + t * problem.stride + h * 8;
      const size_t end = 4 + t + 1, begin = window == 0 ? 0 : end - std::min(end, window);
      double weights[7], sum = 0;
      for (size_t key = begin; key < end; ++key) {
        double score = 0;
        for (size_t i = 0; i < 8; ++i) score += static_cast<double>(q[i]) * k[key * 8 + i];
        score *= problem.args.scale;
        if (softcap != 0) score = softcap * std::tanh(score / softcap);
        sum += weights[key] = std::exp(score);
      }
      for (size_t i = 0; i < 8; ++i) {
        double expected = 0;
        for (size_t key = begin; key < end; ++key) expected += weights[key] * v[key * 8 + i];
        EXPECT_NEAR(out[t * problem.stride + h * 8 + i], expected / sum, 1e-6);
      }
    }
  }
}

TEST(Attention, ReferenceIsTheFormula) {
  CheckFormula(0, 0);
  CheckFormula(1, 0);
  CheckFormula(3, 0);
  CheckFormula(100, 0);
  CheckFormula(0, 1.5f);
  CheckFormula(5, 50.0f);
}

TEST(Attention, WindowsAndCaps) {
  for (size_t window : {1, 15, 16, 17, 63, 64, 65, 250, 256, 300}) {
    for (size_t group : {1, 4, 9}) {
      for (size_t n : {1, 3, 40}) {
        for (size_t first : {0, 20, 255, 256, 400, 700}) {
          Problem problem(n, group, 48, first);
          problem.args.window = window;
          problem.args.softcap = window % 2 == 0 ? 2.0f : 0.0f;
          ASSERT_NO_FATAL_FAILURE(CheckAgainstReference(problem)) << window;
        }
      }
    }
  }
}

TEST(Attention, OddSizes) {
  for (size_t dim : {1, 3, 8, 15, 16, 17, 48, 64, 65, 80, 128, 256}) {
    for (size_t group : {1, 3, 8}) {
      for (size_t first : {0, 1, 62, 63, 64, 130}) {
        for (size_t n : {1, 2, 5}) {
          Problem problem(n, group, dim, first);
          ASSERT_NO_FATAL_FAILURE(CheckAgainstReference(problem));
        }
      }
    }
  }
  Problem prompt(150, 3, 64, 0), spans(150, 3, 48, 450);
  CheckAgainstReference(prompt);
  CheckAgainstReference(spans);
}

TEST(Attention, SharpScores) {
  Problem problem(4, 2, 64, 300, 200.0);
  CheckAgainstReference(problem);
}

TEST(Attention, PromptAndTokenByTokenGiveTheSameBits) {
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaSupported(isa)) continue;
    for (const auto& [group, dim] : std::vector<std::pair<size_t, size_t>>{
             {1, 32}, {2, 64}, {3, 64}, {3, 20}, {4, 80}, {5, 16}, {7, 48}, {8, 64}, {9, 64}}) {
      // Into the second span of keys.
      Problem problem(201, group, dim, 100, 3.0);
      problem.args.window = group % 3 == 0 ? 70 : 0;  // some see spans that others do not
      const std::vector<float> whole = problem.Run(isa);
      std::vector<float> single(whole.size(), -77.0f);
      for (size_t t = 0; t < 201; ++t) {
        AttentionArgs one = problem.args;
        one.n = 1;
        one.first += t;
        one.q += t * one.q_stride;
        one.out = single.data() + t * one.out_stride;
        Attention(one, isa);
      }
      EXPECT_EQ(whole, single) << IsaName(isa) << " group " << group << " dim " << dim;
    }
  }
}

TEST(Attention, SpansApartGiveTheSameBits) {
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaSupported(isa)) continue;
    for (size_t first : {0, 10, 255, 256, 511, 512, 1000}) {
      for (const auto& [group, dim] :
           std::vector<std::pair<size_t, size_t>>{{1, 16}, {3, 64}, {4, 20}, {9, 64}, {33, 32}}) {
        Problem problem(1, group, dim, first, 3.0);
        problem.args.window = group % 3 == 0 ? 300 : 0;
        const std::vector<float> whole = problem.Run(isa);
        const size_t seen = FirstSpan(FirstKey(first, problem.args.window));
        const size_t spans = SpansOf(first + 1) - seen, floats = PartialFloats(group, dim);
        std::vector<float> partials(spans * floats, -77.0f), apart(whole.size(), -77.0f);
        problem.args.out = apart.data();
        for (size_t span = spans; span-- > 0;) {
          AttentionSpan(problem.args, seen + span, partials.data() + span * floats, isa);
        }
        MergeSpans(problem.args, partials.data(), isa);
        EXPECT_EQ(whole, apart) << IsaName(isa) << " first " << first << " group " << group;
      }
    }
  }
}

TEST(Attention, VectorLevelsGiveTheSameBits) {
  if (!IsaSupported(Isa::kAvx512)) GTEST_SKIP() << "needs AVX-512";
  for (size_t first : {40, 500}) {
    for (size_t dim : {20, 64, 128}) {
      Problem problem(70, 3, dim, first);
      EXPECT_EQ(problem.Run(Isa::kAvx2), problem.Run(Isa::kAvx512));
    }
  }
}

TEST(Attention, KeysBeforeTheWindowChangeNothing) {
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaSupported(isa)) continue;
    for (size_t n : {1, 5}) {
      Problem problem(n, 2, 32, 600);
      problem.args.window = 100;
      const std::vector<float> before = problem.Run(isa);
      for (size_t key = 0; key <= 500; ++key) {  // position 600 sees 501 on
        for (size_t i = 0; i < 32; ++i) problem.keys[KeyIndex(key, i, 32)] = 0x4400;  // 4
        std::fill_n(&problem.values[key * 32], 32, uint16_t{0x4400});
      }
      EXPECT_EQ(before, problem.Run(isa)) << IsaName(isa) << n;
      problem.values[501 * 32] = 0x4400;
      EXPECT_NE(before, problem.Run(isa)) << IsaName(isa) << n;
    }
  }
}

TEST(Attention, NanReachesOnlyQueriesThatSeeIt) {
  Problem problem(6, 2, 16, 10);
  problem.values[12 * 16 + 3] = kHalfNan;  // position 12: seen from t = 2 on
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaSupported(isa)) continue;
    const std::vector<float> out = problem.Run(isa);
    for (size_t t = 0; t < 6; ++t) {
      EXPECT_EQ(std::isnan(out[t * problem.stride + 3]), t >= 2) << IsaName(isa) << t;
      EXPECT_FALSE(std::isnan(out[t * problem.stride + 4]));
    }
  }
  problem.keys[KeyIndex(12, 0, 16)] = kHalfNan;
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaSupported(isa)) continue;
    const std::vector<float> out = problem.Run(isa);
    for (size_t t = 0; t < 6; ++t) {
      EXPECT_EQ(std::isnan(out[t * problem.stride + 4]), t >= 2) << IsaName(isa) << t;
    }
  }
}

}  // namespace
}  // namespace tq::transformer
