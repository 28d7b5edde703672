// Every level and code against sums made from StateAt and DecodeState alone.
#include "kernels/trellis_matmul/trellis_matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "kernels/trellis_matmul/activations.h"

namespace tq::trellis {
namespace {

constexpr uint64_t kSeed = 20240611;

struct Case {
  Isa isa;
  Code code;
};

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (Isa isa : kAllIsas) {
    for (Code code : kMatmulCodes) {
      if (IsaSupported(isa)) cases.push_back({isa, code});
    }
  }
  return cases;
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  const Code code = info.param.code;
  return fmt::format("{}_V{}_k{}_L{}", IsaName(info.param.isa), code.values, code.bits,
                     code.state_bits);
}

// A row of tiles in a buffer of exactly its size, and quantised activations with their
// extremes in.
struct Problem {
  TileShape shape;
  size_t tiles, cols;
  std::unique_ptr<uint8_t[]> codes;
  std::vector<std::vector<int16_t>> q;  // [n][cols], combined activations

  Problem(Code code, size_t num_tiles, size_t n, int largest = kMaxActivation)
      : shape(ShapeOf(code)), tiles(num_tiles), cols(num_tiles * shape.columns) {
    Random random(kSeed, "codes", tiles);
    codes = std::make_unique<uint8_t[]>(tiles * shape.bytes());
    for (size_t i = 0; i < tiles * shape.bytes(); ++i) codes[i] = random.NextU32() & 255;
    q.resize(n);
    for (auto& row : q) {
      row.resize(cols);
      for (auto& value : row) {
        const auto range = 2 * static_cast<uint64_t>(largest) + 1;
        value = static_cast<int16_t>(static_cast<int>(random.NextBelow(range)) - largest);
        if (random.NextBelow(4) == 0) {
          value = static_cast<int16_t>(random.NextSign() > 0 ? largest : -largest);
        }
      }
    }
  }

  // Twice the product of every row (trellis_matmul.h), from the definition of the values:
  // v_i are Hadamard sums of the centred bytes, so sum_i v_i x_i with x = H a / V.
  std::vector<int64_t> TwiceProducts(Code code, const std::vector<int16_t>& a) const {
    std::vector<int64_t> sums(shape.rows);
    for (size_t t = 0; t < tiles; ++t) {
      for (int lane = 0; lane < kLanes; ++lane) {
        for (int j = 0; j < shape.windows; ++j) {
          int v[4] = {};
          DecodeState(code,
                      StateAt(codes.get() + t * shape.bytes(), code, lane * shape.windows + j), v);
          const int16_t* b = a.data() + t * shape.columns + TileColumn(code, lane, j);
          int64_t sum = 0;
          if (code.values == 1) {
            sum = 2 * v[0] * b[0];
          } else if (code.values == 2) {
            sum = v[0] * (b[0] + b[1]) + v[1] * (b[0] - b[1]);
          } else {
            sum = (v[0] * (b[0] + b[1] + b[2] + b[3]) + v[1] * (b[0] - b[1] + b[2] - b[3]) +
                   v[2] * (b[0] + b[1] - b[2] - b[3]) + v[3] * (b[0] - b[1] - b[2] + b[3])) /
                  2;
          }
          sums[TileRow(code, lane, j)] += sum;
        }
      }
    }
    return sums;
  }
};

// Twice the product of a row, from a sum and the row's activations: of bytes, or of bytes less
// their ByteCentre.
int64_t Finished(int64_t sum, Code code, const std::vector<int16_t>& q, int centre = 0) {
  const int64_t activations = std::accumulate(q.begin(), q.end(), int64_t{0});
  return 2 * sum + (2 * centre - static_cast<int64_t>(2 * SumCentre(code.values))) * activations;
}

class TrellisMatmulTest : public testing::TestWithParam<Case> {};

// Scale groups of 8-bit activations, as activations.h makes them.
std::vector<ScaleGroup> Groups(Code code, ActivationForm form, const std::vector<int16_t>& q,
                               const std::vector<float>& scales) {
  std::vector<ScaleGroup> groups(scales.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    groups[g] = {{0, 0}, scales[g]};
    for (size_t i = kScaleColumns * g; i < std::min(q.size(), kScaleColumns * (g + 1)); ++i) {
      const size_t lane = i / static_cast<size_t>(code.values) % 4;
      groups[g].start[lane / 2] -= form == ActivationForm::kMagnitudes
                                       ? BytesPerActivation(code.values) * std::min<int>(q[i], 0)
                                       : ByteCentre(code.values) * q[i];
    }
  }
  return groups;
}

// The sums of a row of tiles against 8-bit activations.
std::vector<float> Gemv(const MatmulKernels& kernels, const Problem& problem,
                        const std::vector<float>& scales) {
  const ActivationForm form = kernels.gemv_form;
  const std::vector<ScaleGroup> groups = Groups(kernels.code, form, problem.q[0], scales);
  const int values = kernels.code.values;
  const size_t bytes = problem.cols / GroupColumns(values, form) * GroupBytes(form);
  const auto activations = std::make_unique<uint8_t[]>(bytes);
  FindActivationKernels(Isa::kReference)
      .lay_out(values, form, problem.q[0].data(), problem.cols, activations.get(),
               GroupBytes(form));
  std::vector<float> sums(problem.shape.rows, -1.0f);
  kernels.gemv(problem.codes.get(), problem.tiles, activations.get(), groups.data(), sums.data());
  return sums;
}

// With one scale, a power of two, for all columns the sums are exact as long as they are below
// 2^24: a column adds at most 510 * 127.
TEST_P(TrellisMatmulTest, GemvSumsExactlyWhereScalesAreEqual) {
  const auto [isa, code] = GetParam();
  const MatmulKernels& kernels = FindMatmulKernels(isa, code);
  ASSERT_EQ(kernels.code, code);
  for (size_t columns : {32, 64, 96, 112, 128}) {
    const size_t tiles = columns / static_cast<size_t>(ShapeOf(code).columns);
    SCOPED_TRACE(fmt::format("tiles {} seed {}", tiles, kSeed));
    const Problem problem(code, tiles, 1, kMaxByteActivation);
    const std::vector<float> sums =
        Gemv(kernels, problem, std::vector<float>(columns / kScaleColumns + 1, 0.5f));
    const std::vector<int64_t> expected = problem.TwiceProducts(code, problem.q[0]);
    for (int row = 0; row < problem.shape.rows; ++row) {
      const auto sum = static_cast<int64_t>(sums[row] * 2);
      ASSERT_EQ(Finished(sum, code, problem.q[0], ByteCentre(code.values)), expected[row])
          << "row " << row;
    }
  }
}

// Any scales: the plain twin's sums to the bit, and the sum of the columns of each scale alone.
TEST_P(TrellisMatmulTest, GemvScalesEvery32Columns) {
  const auto [isa, code] = GetParam();
  const MatmulKernels& kernels = FindMatmulKernels(isa, code);
  const auto tile_columns = static_cast<size_t>(ShapeOf(code).columns);
  for (size_t tiles : {1, 2, 3, 7, 33}) {
    SCOPED_TRACE(fmt::format("tiles {} seed {}", tiles, kSeed));
    const Problem problem(code, tiles, 1, kMaxByteActivation);
    Random random(kSeed, "scales", tiles);
    std::vector<float> scales((tiles * tile_columns + kScaleColumns - 1) / kScaleColumns);
    for (float& scale : scales) scale = static_cast<float>(random.NextUniform());
    const std::vector<float> sums = Gemv(kernels, problem, scales);
    ASSERT_EQ(sums, Gemv(FindMatmulKernels(Isa::kReference, code), problem, scales));
    std::vector<double> expected(problem.shape.rows);
    for (size_t s = 0; s < scales.size(); ++s) {
      std::vector<int16_t> alone(problem.cols);
      for (size_t i = kScaleColumns * s; i < std::min(problem.cols, kScaleColumns * (s + 1)); ++i) {
        alone[i] = problem.q[0][i];
      }
      const std::vector<int64_t> twice = problem.TwiceProducts(code, alone);
      const double rest = (SumCentre(code.values) - ByteCentre(code.values)) *
                          std::accumulate(alone.begin(), alone.end(), 0.0);
      for (int row = 0; row < problem.shape.rows; ++row) {
        expected[row] += scales[s] * (static_cast<double>(twice[row]) / 2 + rest);
      }
    }
    // The last bit of the largest partial sum, some times.
    for (int row = 0; row < problem.shape.rows; ++row) ASSERT_NEAR(sums[row], expected[row], 0.5);
  }
}

TEST_P(TrellisMatmulTest, DecodeAndMultiplySumExactly) {
  const auto [isa, code] = GetParam();
  const MatmulKernels& kernels = FindMatmulKernels(isa, code);
  const ActivationForm form = ActivationForm::kWords;
  const size_t group_bytes = GroupBytes(form);
  for (size_t n = 1; n <= static_cast<size_t>(kernels.panel_rows); ++n) {
    const size_t tiles = n % 5 + 1;
    SCOPED_TRACE(fmt::format("tiles {} rows of x {} seed {}", tiles, n, kSeed));
    const Problem problem(code, tiles, n);
    const size_t groups = problem.cols / GroupColumns(code.values, form);
    const auto panel = std::make_unique<uint8_t[]>(groups * n * group_bytes);
    for (size_t i = 0; i < n; ++i) {
      FindActivationKernels(Isa::kReference)
          .lay_out(code.values, form, problem.q[i].data(), problem.cols,
                   panel.get() + i * group_bytes, n * group_bytes);
    }
    struct alignas(64) Line {
      uint8_t bytes[64];
    };
    std::vector<Line> decoded(problem.cols * kDecodedBytesPerColumn / sizeof(Line));
    for (int fragment = 0; fragment < problem.shape.rows / kFragmentRows; ++fragment) {
      std::vector<Line> lines(n * kFragmentRows * sizeof(int64_t) / sizeof(Line));
      auto* sums = reinterpret_cast<int64_t*>(lines.data());
      auto* operands = reinterpret_cast<uint8_t*>(decoded.data());
      kernels.decode(problem.codes.get(), tiles, fragment, operands);
      kernels.multiply[n - 1](operands, panel.get(), groups, sums);
      const std::vector<int64_t> once(sums, sums + n * kFragmentRows);
      kernels.multiply[n - 1](operands, panel.get(), groups, sums);
      for (size_t i = 0; i < n; ++i) {
        const std::vector<int64_t> expected = problem.TwiceProducts(code, problem.q[i]);
        for (int row = 0; row < kFragmentRows; ++row) {
          const int64_t sum = once[i * kFragmentRows + row];
          ASSERT_EQ(Finished(sum, code, problem.q[i]), expected[fragment * kFragmentRows + row])
              << "x row " << i << " fragment " << fragment << " row " << row;
          ASSERT_EQ(sums[i * kFragmentRows + row], 2 * sum) << "not added";
        }
      }
    }
  }
}

// A tile with the same state in every step, by period of the stream.
std::vector<uint8_t> PeriodicTile(Code code, uint32_t pattern) {
  const TileShape shape = ShapeOf(code);
  std::vector<uint8_t> tile(shape.bytes());
  for (int bit = 0; bit < 8 * shape.bytes(); ++bit) {
    const int word = bit / 16;
    const int at = 64 * (word % shape.words) + 2 * (word / shape.words) + bit % 16 / 8;
    tile[at] |= ((pattern >> (bit % code.bits)) & 1) << (bit % 8);
  }
  return tile;
}

// The tile of one state whose value is largest.
std::vector<uint8_t> LargestTile(Code code) {
  std::vector<uint8_t> best;
  int largest = -1000;
  for (uint32_t pattern = 0; pattern < 1u << code.bits; ++pattern) {
    const std::vector<uint8_t> tile = PeriodicTile(code, pattern);
    int v[4] = {};
    DecodeState(code, StateAt(tile.data(), code, 7), v);
    if (v[0] > largest) largest = v[0], best = tile;
  }
  return best;
}

// The largest sum of bytes that one state everywhere gives, against equal activations, over
// as many columns as an int32 may cover.
TEST_P(TrellisMatmulTest, ExtremeSumsDoNotOverflow) {
  const auto [isa, code] = GetParam();
  const MatmulKernels& kernels = FindMatmulKernels(isa, code);
  const std::vector<uint8_t> best = LargestTile(code);
  Problem one(code, 1, 1);  // tile
  std::copy(best.begin(), best.end(), one.codes.get());
  const size_t tiles = kMaxWordColumns / static_cast<size_t>(one.shape.columns);
  Problem many(code, tiles, 1);
  for (size_t t = 0; t < tiles; ++t) {
    std::copy(best.begin(), best.end(), many.codes.get() + t * best.size());
  }
  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  std::vector<Line> decoded(kMaxWordColumns * kDecodedBytesPerColumn / sizeof(Line));
  auto* operands = reinterpret_cast<uint8_t*>(decoded.data());
  kernels.decode(many.codes.get(), tiles, 0, operands);
  for (int extreme : {kMaxActivation, -kMaxActivation}) {
    one.q[0].assign(one.shape.columns, static_cast<int16_t>(extreme));
    many.q[0].assign(kMaxWordColumns, static_cast<int16_t>(extreme));
    const std::vector<int64_t> of_tile = one.TwiceProducts(code, one.q[0]);
    std::vector<int64_t> sums(kFragmentRows);
    kernels.multiply[0](operands, reinterpret_cast<const uint8_t*>(many.q[0].data()),
                        kMaxWordColumns / 4, sums.data());
    for (int row = 0; row < kFragmentRows; ++row) {
      ASSERT_EQ(Finished(sums[row], code, many.q[0]), of_tile[row] * static_cast<int64_t>(tiles));
    }
  }
  for (int extreme : {kMaxByteActivation, -kMaxByteActivation}) {
    many.q[0].assign(kMaxWordColumns, static_cast<int16_t>(extreme));
    const std::vector<float> scales(kMaxWordColumns / kScaleColumns, 1.0f);
    ASSERT_EQ(Gemv(kernels, many, scales),
              Gemv(FindMatmulKernels(Isa::kReference, code), many, scales));
  }
}

INSTANTIATE_TEST_SUITE_P(AllLevels, TrellisMatmulTest, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace tq::trellis
