#include "kernels/viterbi/viterbi.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"

namespace tq::viterbi {
namespace {

using trellis::Code;

constexpr Isa kLevels[] = {Isa::kAvx2, Isa::kAvx2Vnni, Isa::kAvx512};

std::string Name(Code code) {
  return fmt::format("V {} k {} L {}", code.values, code.bits, code.state_bits);
}

std::vector<Code> AllCodes() {
  std::vector<Code> codes;
  for (Code code : trellis::kSupportedCodes) {
    for (int state_bits : {16, 12}) codes.push_back({code.values, code.bits, state_bits});
  }
  return codes;
}

struct Problem {
  Code code;
  int steps, reach, tiles;
  std::vector<int32_t> table, targets;

  Problem(Code code, int steps, int reach, int tiles, const std::function<float(int index)>& value)
      : code(code), steps(steps), reach(reach), tiles(tiles) {
    table.resize(TableSize(code));
    FillTable(code, table.data());
    targets.resize(size_t{1} * tiles * steps * Words(code.values));
    for (int n = 0; n < tiles * steps; ++n) {
      float x[4];
      for (int v = 0; v < code.values; ++v) x[v] = value(n * code.values + v);
      QuantizeTarget(code, x, targets.data() + n * Words(code.values));
    }
  }

  std::vector<uint16_t> Solve(Isa isa) const {
    std::vector<uint16_t> states(size_t{1} * tiles * steps);
    // Exactly as large as stated, so that a sanitizer sees the first byte beyond.
    const size_t bytes = ScratchBytes(code, steps, isa);
    std::unique_ptr<uint8_t, decltype(&std::free)> scratch(
        static_cast<uint8_t*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)), &std::free);
    FindPaths(
        {code, steps, reach, table.data(), targets.data(), tiles, states.data(), scratch.get()},
        isa);
    return states;
  }

  bool Circular(const std::vector<uint16_t>& states) const {
    for (int tile = 0; tile < tiles; ++tile) {
      for (int n = 0; n < steps; ++n) {
        const uint32_t low = (1u << (code.state_bits - code.bits)) - 1;
        const uint32_t here = states[tile * steps + n],
                       next = states[tile * steps + (n + 1) % steps];
        if ((here >> code.bits) != (next & low)) return false;
      }
    }
    return true;
  }
};

// Codes that square differences: table and targets are the values in units of 2^-4.
TEST(Viterbi, TargetsRoundToTheNearestAndToEven) {
  for (const float x : {0.0f, -0.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 0.49999997f, 1280.49f,
                        10239.5f, -10240.5f, 81919.5f, 2097151.5f, -2097151.5f}) {
    EXPECT_EQ(RoundToInt(x), std::lrint(x)) << x;
  }
}

TEST(Viterbi, DifferencesAreOfTheValues) {
  int codes = 0;
  for (Code code : AllCodes()) {
    if (!SquaresDifferences(code)) continue;
    ++codes;
    std::vector<int32_t> table(TableSize(code));
    FillTable(code, table.data());
    for (uint32_t state = 0; state < 1u << code.state_bits; ++state) {
      int c[4];
      trellis::DecodeState(code, state, c);
      ASSERT_EQ(table[TableIndex(code, state, 0)], (16 * c[0]) & 0xFFFF) << Name(code);
    }
    for (const auto& [value, expected] :
         {std::pair{0.0f, 0}, {1.53f, 24}, {-1.53f, -24}, {1e9f, 10240}, {-1e9f, -10240}}) {
      int32_t word = -1;
      QuantizeTarget(code, &value, &word);
      ASSERT_EQ(word, expected & 0xFFFF) << Name(code) << " " << value;
    }
  }
  EXPECT_EQ(codes, 4);
}

TEST(Viterbi, TableGivesTheSquaredError) {
  for (Code code : AllCodes()) {
    if (SquaresDifferences(code)) continue;
    std::vector<int32_t> table(TableSize(code));
    FillTable(code, table.data());
    Random random(1, "table");
    for (int i = 0; i < 2000; ++i) {
      const uint32_t state = static_cast<uint32_t>(random.NextBelow(1u << code.state_bits));
      float x[4];
      int32_t words[2];
      int c[4];
      for (float& value : x) value = static_cast<float>(random.NextUniform() * 1200 - 600);
      QuantizeTarget(code, x, words);
      trellis::DecodeState(code, state, c);
      double expected = 0;
      for (int v = 0; v < code.values; ++v) expected += c[v] * c[v] / 2.0 - c[v] * x[v];
      int64_t actual = 0;
      const auto dot = [](int32_t a, int32_t b) {
        return int64_t{static_cast<int16_t>(a)} * static_cast<int16_t>(b) +
               int64_t{a >> 16} * (b >> 16);
      };
      for (int w = 0; w < Words(code.values); ++w) {
        const int32_t a = table[TableIndex(code, state, w)];
        actual += dot(a, words[w]) + (code.values > 1 ? dot(a, a) : 0);
      }
      ASSERT_EQ(actual & ((1 << code.bits) - 1), 0) << Name(code);
      double cost = static_cast<double>(actual) / (1 << CostBits(code.values));
      if (code.values == 1) cost += 65536;  // the constant that keeps c^2 / 4 in 16 bits
      // Half a unit of the target per component of the state (at most 510 in sum, 1020
      // for V = 4), and half a unit of c^2 / 2 for odd c.
      const double unit = std::ldexp(1, std::max(code.bits, 3) - CostBits(code.values));
      const double tolerance = unit / 2 * (code.values == 4 ? 1020 : 510) + 0.5;
      ASSERT_NEAR(cost, expected, tolerance) << Name(code) << " state " << state;
    }
  }
}

TEST(Viterbi, EveryLevelFindsTheSamePaths) {
  struct Input {
    std::string name;
    std::function<float(int)> value;
  };
  const uint64_t seed = 5;
  std::vector<float> gauss(1 << 14);
  Random random(seed, "gauss");
  for (float& value : gauss) value = static_cast<float>(140 * random.NextNormal());
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<Input> inputs = {
      {"gauss", [&](int i) { return gauss[i % gauss.size()]; }},
      {"zeros", [](int) { return 0.0f; }},
      {"constant", [](int) { return 77.25f; }},
      {"huge", [](int i) { return i % 3 == 0 ? -1e30f : 1e30f; }},
      {"outliers", [&](int i) { return gauss[i % gauss.size()] * (i % 17 == 0 ? 100 : 1); }},
      {"not finite", [&](int i) { return i % 5 == 0   ? NAN
                                         : i % 7 == 0 ? -inf
                                                      : gauss[i]; }},
  };
  for (Code code : AllCodes()) {
    for (const Input& input : inputs) {
      // Enough steps for three rebasings; 32 is the least that closes the circle.
      const int steps = input.name == "gauss" ? 40 : 32;
      const Problem problem(code, steps, steps == 40 ? 17 : 16, code.state_bits == 16 ? 1 : 7,
                            input.value);
      const std::vector<uint16_t> expected = problem.Solve(Isa::kReference);
      ASSERT_TRUE(problem.Circular(expected)) << Name(code) << " " << input.name;
      for (Isa isa : kLevels) {
        if (!IsaSupported(isa)) continue;
        ASSERT_EQ(problem.Solve(isa), expected)
            << Name(code) << " " << input.name << " " << IsaName(isa) << " seed " << seed;
      }
    }
  }
}

TEST(Viterbi, BatchesAndSingleTilesAgree) {
  for (Code code : {Code{2, 4, 12}, Code{1, 3, 12}, Code{4, 2, 12}, Code{1, 8, 12}}) {
    Random random(6, "batch");
    std::vector<float> values(9 * 64 * code.values);
    for (float& value : values) value = static_cast<float>(140 * random.NextNormal());
    const Problem all(code, 64, 32, 9, [&](int i) { return values[i]; });
    for (Isa isa : kLevels) {
      if (!IsaSupported(isa)) continue;
      const std::vector<uint16_t> states = all.Solve(isa);
      for (int tile = 0; tile < 9; ++tile) {
        const Problem one(code, 64, 32, 1,
                          [&](int i) { return values[tile * 64 * code.values + i]; });
        const std::vector<uint16_t> alone = one.Solve(isa);
        for (int n = 0; n < 64; ++n) ASSERT_EQ(alone[n], states[tile * 64 + n]) << IsaName(isa);
      }
    }
  }
}

// Targets that are a path's own values: the search finds them at no error.
TEST(Viterbi, FindsAPathThatExists) {
  for (Code code : AllCodes()) {
    const int steps = 64;
    Random random(7, "path");
    std::vector<uint32_t> stream(steps * code.bits);
    for (uint32_t& bit : stream) bit = random.NextU32() & 1;
    std::vector<float> values;
    for (int n = 0; n < steps; ++n) {
      uint32_t state = 0;
      for (int b = 0; b < code.state_bits; ++b) {
        state |= stream[(n * code.bits + b) % stream.size()] << b;
      }
      int c[4];
      trellis::DecodeState(code, state, c);
      values.insert(values.end(), c, c + code.values);
    }
    const Problem problem(code, steps, 32, 1, [&](int i) { return values[i]; });
    Isa best = Isa::kReference;
    for (Isa isa : kLevels) {
      if (IsaSupported(isa)) best = isa;
    }
    const std::vector<uint16_t> states = problem.Solve(best);
    for (int n = 0; n < steps; ++n) {
      int c[4];
      trellis::DecodeState(code, states[n], c);
      for (int v = 0; v < code.values; ++v) {
        // Halved squares of V = 1 are known up to half a unit only.
        const bool halves = code.values == 1 && !SquaresDifferences(code);
        ASSERT_NEAR(c[v], values[n * code.values + v], halves ? 1 : 0)
            << Name(code) << " step " << n;
      }
    }
  }
}

}  // namespace
}  // namespace tq::viterbi
