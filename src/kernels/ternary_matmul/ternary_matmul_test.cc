// Every level and packing against sums of unpacked weights: equal, as all are integers.
#include "kernels/ternary_matmul/ternary_matmul.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "kernels/fenced_bytes_for_test.h"

namespace tq::ternary {
namespace {

using tq::testing::FencedBytes;

constexpr uint64_t kSeed = 20240227;

struct Case {
  Isa isa;
  Packing packing;
};

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (Isa isa : kAllIsas) {
    for (Packing packing : kAllPackings) {
      if (IsaSupported(isa)) cases.push_back({isa, packing});
    }
  }
  return cases;
}

std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  return fmt::format("{}_{}", IsaName(info.param.isa),
                     info.param.packing == Packing::k2Bits ? "2bits" : "base3");
}

// A row of tiles of random codes, and rows of random activations with their extremes in.
struct Problem {
  Packing packing;
  size_t tiles, groups, cols;
  FencedBytes codes;
  std::vector<std::vector<int8_t>> a;  // [n][cols]

  Problem(Packing the_packing, size_t num_tiles, size_t n)
      : packing(the_packing),
        tiles(num_tiles),
        groups(num_tiles * TileGroups(packing)),
        cols(num_tiles * TileColumns(packing)),
        codes(num_tiles * kTileBytes),
        a(n, std::vector<int8_t>(cols)) {
    Random random(kSeed, "ternary", tiles);
    for (size_t i = 0; i < tiles * kTileBytes; ++i) {
      do {
        codes.data()[i] = static_cast<uint8_t>(random.NextU32());
      } while (!IsCode(packing, codes.data()[i]));
    }
    for (auto& row : a) {
      for (int8_t& value : row) {
        value = static_cast<int8_t>(static_cast<int>(random.NextBelow(255)) - kMaxActivation);
        if (random.NextBelow(4) == 0) {
          value = random.NextSign() > 0 ? int8_t{kMaxActivation} : int8_t{-kMaxActivation};
        }
      }
    }
  }

  int32_t ActivationSum(size_t row) const {
    return std::accumulate(a[row].begin(), a[row].end(), int32_t{0});
  }
  // sum t a of every row of weights.
  std::vector<int32_t> Products(size_t row) {
    std::vector<int32_t> sums(kTileRows);
    const int columns = TileColumns(packing);
    for (size_t t = 0; t < tiles; ++t) {
      int8_t trits[kTileRows * kMaxTileColumns];
      UnpackTile(packing, codes.data() + t * kTileBytes, trits);
      for (int i = 0; i < kTileRows * columns; ++i) {
        sums[i / columns] += trits[i] * a[row][t * columns + i % columns];
      }
    }
    return sums;
  }
};

constexpr int32_t kPoison = -123456789;

class TernaryMatmulTest : public ::testing::TestWithParam<Case> {
 protected:
  const Packing packing_ = GetParam().packing;
  const MatmulKernels& kernels_ = FindMatmulKernels(GetParam().isa, packing_);
};

std::vector<int32_t> Gemv(const MatmulKernels& kernels, Problem& problem) {
  FencedBytes a(problem.cols);
  std::copy(problem.a[0].begin(), problem.a[0].end(), a.signed_data());
  std::vector<int32_t> sums(kTileRows + 1, kPoison);
  kernels.gemv(problem.codes.data(), problem.tiles, a.signed_data(), problem.ActivationSum(0),
               sums.data());
  EXPECT_EQ(sums.back(), kPoison) << "written past the end";
  sums.pop_back();
  return sums;
}

// Numbers of tiles around the blocks that sums of 16 bits, and of 32, are cut into.
TEST_P(TernaryMatmulTest, GemvSumsExactly) {
  ASSERT_EQ(kernels_.packing, packing_);
  for (size_t tiles : {0,  1,  2,  3,  5,  11,  12,  13,  15,  16,   17,   31,  33,
                       51, 52, 63, 64, 65, 103, 129, 819, 820, 1024, 1025, 2500}) {
    SCOPED_TRACE(fmt::format("tiles {} seed {}", tiles, kSeed));
    Problem problem(packing_, tiles, 1);
    ASSERT_EQ(Gemv(kernels_, problem), problem.Products(0));
  }
}

// Weights and activations that make every sum on the way as large as it becomes.
TEST_P(TernaryMatmulTest, ExtremeSumsDoNotOverflow) {
  for (int8_t trit : {-1, 1}) {
    for (int8_t activation : {-kMaxActivation, kMaxActivation}) {
      Problem problem(packing_, 2100, 1);
      const std::vector<int8_t> trits(kTileRows * TileColumns(packing_), trit);
      for (size_t t = 0; t < problem.tiles; ++t) {
        PackTile(packing_, trits.data(), TileColumns(packing_), kTileRows, TileColumns(packing_),
                 problem.codes.data() + t * kTileBytes);
      }
      problem.a[0].assign(problem.cols, activation);
      const std::vector<int32_t> expected(kTileRows,
                                          trit * activation * static_cast<int>(problem.cols));
      ASSERT_EQ(Gemv(kernels_, problem), expected);
      std::vector<uint8_t> u(problem.groups * kDecodedGroupBytes);
      kernels_.decode(problem.codes.data(), problem.tiles, u.data());
      std::vector<int32_t> sums(kTileRows, -problem.ActivationSum(0));
      kernels_.multiply[0](u.data(), problem.a[0].data(), problem.groups, sums.data());
      ASSERT_EQ(sums, expected);
    }
  }
}

TEST_P(TernaryMatmulTest, DecodeGivesEveryWeight) {
  const int columns = TileColumns(packing_);
  for (size_t tiles : {0, 1, 2, 7, 40}) {
    Problem problem(packing_, tiles, 0);
    FencedBytes u(problem.groups * kDecodedGroupBytes);
    std::fill_n(u.data(), problem.groups * kDecodedGroupBytes, uint8_t{0xee});
    kernels_.decode(problem.codes.data(), tiles, u.data());
    for (size_t t = 0; t < tiles; ++t) {
      int8_t trits[kTileRows * kMaxTileColumns];
      UnpackTile(packing_, problem.codes.data() + t * kTileBytes, trits);
      for (int row = 0; row < kTileRows; ++row) {
        for (int c = 0; c < columns; ++c) {
          const size_t group = t * TileGroups(packing_) + c / kGroupColumns;
          ASSERT_EQ(u.data()[group * kDecodedGroupBytes + row * 4 + c % 4],
                    trits[row * columns + c] + 1)
              << "tile " << t << " row " << row << " column " << c << " seed " << kSeed;
        }
      }
    }
  }
}

// All 243 fractions, and every byte that no packer writes: weights are what UnpackTile says.
TEST_P(TernaryMatmulTest, EveryByteDecodesAsTheTwinDoes) {
  Problem problem(packing_, 2, 0);
  for (int i = 0; i < 2 * kTileBytes; ++i) problem.codes.data()[i] = static_cast<uint8_t>(i);
  std::vector<uint8_t> expected(problem.groups * kDecodedGroupBytes), actual = expected;
  FindMatmulKernels(Isa::kReference, packing_).decode(problem.codes.data(), 2, expected.data());
  kernels_.decode(problem.codes.data(), 2, actual.data());
  EXPECT_EQ(actual, expected);
}

TEST_P(TernaryMatmulTest, MultiplyAddsExactSums) {
  for (size_t n = 1; n <= static_cast<size_t>(kernels_.panel_rows); ++n) {
    for (size_t tiles : {size_t{0}, size_t{1}, n % 5 + 1, 12 + n, size_t{70}}) {
      SCOPED_TRACE(fmt::format("tiles {} rows of x {} seed {}", tiles, n, kSeed));
      Problem problem(packing_, tiles, n);
      FencedBytes panel(problem.cols * n), u(problem.groups * kDecodedGroupBytes);
      for (size_t i = 0; i < n; ++i) {
        for (size_t c = 0; c < problem.cols; ++c) {
          panel.signed_data()[(c / 4 * n + i) * 4 + c % 4] = problem.a[i][c];
        }
      }
      kernels_.decode(problem.codes.data(), tiles, u.data());
      std::vector<int32_t> sums(n * kTileRows + 1, kPoison);
      for (size_t i = 0; i < n; ++i) {
        std::fill_n(sums.begin() + i * kTileRows, kTileRows, -problem.ActivationSum(i));
      }
      kernels_.multiply[n - 1](u.data(), panel.signed_data(), problem.groups, sums.data());
      EXPECT_EQ(sums.back(), kPoison) << "written past the end";
      for (size_t i = 0; i < n; ++i) {
        const auto first = sums.begin() + i * kTileRows;
        ASSERT_EQ(std::vector<int32_t>(first, first + kTileRows), problem.Products(i)) << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllLevels, TernaryMatmulTest, ::testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace tq::ternary
