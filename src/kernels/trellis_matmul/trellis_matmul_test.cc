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
  std::vector<std::vector<int8_t>> q;  // [n][cols], combined activations

  Problem(Code code, size_t num_tiles, size_t n)
      : shape(ShapeOf(code)), tiles(num_tiles), cols(num_tiles * shape.columns) {
    Random random(kSeed, "codes", tiles);
    codes = std::make_unique<uint8_t[]>(tiles * shape.bytes());
    for (size_t i = 0; i < tiles * shape.bytes(); ++i) codes[i] = random.NextU32() & 255;
    q.resize(n);
    for (auto& row : q) {
      row.resize(cols);
      for (auto& value : row) {
        value = static_cast<int8_t>(static_cast<int>(random.NextBelow(255)) - 127);
        if (random.NextBelow(4) == 0) value = random.NextSign() > 0 ? 127 : -127;
      }
    }
  }

  // S of every row (trellis_matmul.h), from the definition of the values: v_i are
  // Hadamard sums of the centred bytes, so sum_i v_i x_i with x = H a / V.
  std::vector<int64_t> Sums(Code code, const std::vector<int8_t>& a) const {
    std::vector<int64_t> sums(shape.rows);
    for (size_t t = 0; t < tiles; ++t) {
      for (int lane = 0; lane < kLanes; ++lane) {
        for (int j = 0; j < shape.windows; ++j) {
          int v[4] = {};
          DecodeState(code,
                      StateAt(codes.get() + t * shape.bytes(), code, lane * shape.windows + j), v);
          const int8_t* b = a.data() + t * shape.columns + TileColumn(code, lane, j);
          int64_t sum = 0;
          if (code.values == 1) {
            sum = v[0] * b[0];
          } else if (code.values == 2) {
            sum = (v[0] * (b[0] + b[1]) + v[1] * (b[0] - b[1])) / 2;
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

ActivationSums SumsOf(const std::vector<int8_t>& q) {
  ActivationSums sums;
  for (int value : q) {
    sums.plain += value;
    sums.absolute += std::abs(value);
  }
  return sums;
}

int32_t Finished(const int32_t* partial, int row, Code code, int32_t bias) {
  const uint32_t sum =
      static_cast<uint32_t>(partial[2 * row]) + static_cast<uint32_t>(partial[2 * row + 1]);
  return static_cast<int32_t>(static_cast<uint32_t>(SumFactor(code.values)) * sum +
                              static_cast<uint32_t>(bias));
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
    std::vector<int32_t> partial(2 * problem.shape.rows, 0x5a5a5a5a);
    kernels.gemv(problem.codes.get(), tiles, activations.get(), partial.data());
    const int32_t bias = SumBias(code.values, form, SumsOf(problem.q[0]));
    const std::vector<int64_t> expected = problem.Sums(code, problem.q[0]);
    for (int row = 0; row < problem.shape.rows; ++row) {
      ASSERT_EQ(Finished(partial.data(), row, code, bias), expected[row]) << "row " << row;
    }
  }
}

TEST_P(TrellisMatmulTest, DecodeAndMultiplySumExactly) {
  const auto [isa, code] = GetParam();
  const MatmulKernels& kernels = FindMatmulKernels(isa, code);
  const ActivationForm form = kernels.panel_form;
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
    std::vector<Line> decoded(problem.cols * kMaxDecodedBytesPerColumn / sizeof(Line));
    for (int fragment = 0; fragment < problem.shape.rows / kFragmentRows; ++fragment) {
      std::vector<Line> partial(n * 2);
      auto* sums = reinterpret_cast<int32_t*>(partial.data());
      auto* operands = reinterpret_cast<uint8_t*>(decoded.data());
      kernels.decode(problem.codes.get(), tiles, fragment, operands);
      kernels.multiply[n - 1](operands, panel.get(), groups, sums);
      kernels.multiply[n - 1](operands, panel.get(), groups, sums);  // adds
      for (size_t i = 0; i < n; ++i) {
        const int32_t bias = SumBias(code.values, form, SumsOf(problem.q[i]));
        const std::vector<int64_t> expected = problem.Sums(code, problem.q[i]);
        for (int row = 0; row < kFragmentRows; ++row) {
          const int32_t* at = sums + i * 2 * kFragmentRows;
          ASSERT_EQ(Finished(at, row, code, 2 * bias), 2 * expected[fragment * kFragmentRows + row])
              << "x row " << i << " fragment " << fragment << " row " << row;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllLevels, TrellisMatmulTest, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace tq::trellis
