// Every level and code against sums made from StateAt and DecodeState alone.
#include "kernels/trellis_matmul/trellis_matmul.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/random.h"
#include "kernels/trellis_matmul/activations.h"

namespace tq::trellis {
namespace {

constexpr Isa kLevels[] = {Isa::kReference, Isa::kAvx2, Isa::kAvx2Vnni, Isa::kAvx512};
constexpr uint64_t kSeed = 20240611;

struct Case {
  Isa isa;
  Code code;
};

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (Isa isa : kLevels) {
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

  Problem(Code code, size_t num_tiles, size_t n)
      : shape(ShapeOf(code)), tiles(num_tiles), cols(num_tiles * shape.columns) {
    Random random(kSeed, "codes", tiles);
    codes = std::make_unique<uint8_t[]>(tiles * shape.bytes());
    for (size_t i = 0; i < tiles * shape.bytes(); ++i) codes[i] = random.NextU32() & 255;
    q.resize(n);
    for (auto& row : q) {
      row.resize(cols);
      for (auto& value : row) {
        value = static_cast<int16_t>(static_cast<int>(random.NextBelow(2 * kMaxActivation + 1)) -
                                     kMaxActivation);
        if (random.NextBelow(4) == 0) {
          value = static_cast<int16_t>(random.NextSign() > 0 ? kMaxActivation : -kMaxActivation);
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

// Twice the product of a row, from a kernel's sum and the row's activations.
int64_t Finished(int64_t sum, Code code, const std::vector<int16_t>& q) {
  int64_t activations = 0;
  for (int value : q) activations += value;
  return 2 * sum - static_cast<int64_t>(2 * SumCentre(code.values)) * activations;
}

class TrellisMatmulTest : public testing::TestWithParam<Case> {};

TEST_P(TrellisMatmulTest, GemvSumsExactly) {
  const auto [isa, code] = GetParam();
  const MatmulKernels& kernels = FindMatmulKernels(isa, code);
  ASSERT_EQ(kernels.code, code);
  for (size_t tiles : {1, 2, 3, 7, 33}) {
    SCOPED_TRACE(fmt::format("tiles {} seed {}", tiles, kSeed));
    const Problem problem(code, tiles, 1);
    const ActivationForm form = kernels.gemv_form;
    const size_t bytes = problem.cols / GroupColumns(code.values, form) * GroupBytes(form);
    const auto activations = std::make_unique<uint8_t[]>(bytes);
    FindActivationKernels(Isa::kReference)
        .lay_out(code.values, form, problem.q[0].data(), problem.cols, activations.get(),
                 GroupBytes(form));
    std::vector<int64_t> sums(problem.shape.rows, 0x5a5a5a5a);
    kernels.gemv(problem.codes.get(), tiles, activations.get(), sums.data());
    const std::vector<int64_t> expected = problem.TwiceProducts(code, problem.q[0]);
    for (int row = 0; row < problem.shape.rows; ++row) {
      ASSERT_EQ(Finished(sums[row], code, problem.q[0]), expected[row]) << "row " << row;
    }
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

// The largest sum of bytes that one state everywhere gives, against equal activations, over
// as many columns as an int32 may cover and some more.
TEST_P(TrellisMatmulTest, ExtremeSumsDoNotOverflow) {
  const Isa isa = GetParam().isa;
  const Code code = GetParam().code;
  const MatmulKernels& kernels = FindMatmulKernels(isa, code);
  const ActivationKernels& activations = FindActivationKernels(Isa::kReference);
  std::vector<uint8_t> best;
  int largest = -1000;
  for (uint32_t pattern = 0; pattern < 1u << code.bits; ++pattern) {
    const std::vector<uint8_t> tile = PeriodicTile(code, pattern);
    int v[4] = {};
    DecodeState(code, StateAt(tile.data(), code, 7), v);
    if (v[0] > largest) largest = v[0], best = tile;
  }
  Problem one(code, 1, 1);  // tile
  std::copy(best.begin(), best.end(), one.codes.get());
  const size_t most = (kMaxByteColumns + kMaxWordColumns) / one.shape.columns;
  std::vector<uint8_t> codes;
  for (size_t t = 0; t < most; ++t) codes.insert(codes.end(), best.begin(), best.end());
  for (int extreme : {kMaxActivation, -kMaxActivation}) {
    const std::vector<int16_t> q(most * one.shape.columns, static_cast<int16_t>(extreme));
    one.q[0].assign(one.shape.columns, static_cast<int16_t>(extreme));
    const std::vector<int64_t> of_tile = one.TwiceProducts(code, one.q[0]);
    const auto lay_out = [&](ActivationForm form) {
      std::vector<uint8_t> bytes(q.size() / GroupColumns(code.values, form) * GroupBytes(form));
      activations.lay_out(code.values, form, q.data(), q.size(), bytes.data(), GroupBytes(form));
      return bytes;
    };
    std::vector<int64_t> sums(one.shape.rows);
    kernels.gemv(codes.data(), most, lay_out(kernels.gemv_form).data(), sums.data());
    for (int row = 0; row < one.shape.rows; ++row) {
      ASSERT_EQ(Finished(sums[row], code, q), of_tile[row] * static_cast<int64_t>(most));
    }
    struct alignas(64) Line {
      uint8_t bytes[64];
    };
    const size_t tiles = kMaxWordColumns / one.shape.columns;
    std::vector<Line> decoded(kMaxWordColumns * kDecodedBytesPerColumn / sizeof(Line));
    auto* operands = reinterpret_cast<uint8_t*>(decoded.data());
    kernels.decode(codes.data(), tiles, 0, operands);
    sums.assign(kFragmentRows, 0);
    kernels.multiply[0](operands, lay_out(ActivationForm::kWords).data(), kMaxWordColumns / 4,
                        sums.data());
    const std::vector<int16_t> some(q.begin(), q.begin() + kMaxWordColumns);
    for (int row = 0; row < kFragmentRows; ++row) {
      ASSERT_EQ(Finished(sums[row], code, some), of_tile[row] * static_cast<int64_t>(tiles));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllLevels, TrellisMatmulTest, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace tq::trellis
