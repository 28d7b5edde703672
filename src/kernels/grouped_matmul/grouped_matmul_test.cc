// Every level and width against the portable twin, bit for bit, with all that is read between pages
// without access. That the twin is right is shown by src/codec/grouped_matmul_test.cc.
#include "kernels/grouped_matmul/grouped_matmul.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "base/random.h"
#include "kernels/fenced_bytes_for_test.h"
#include "kernels/grouped_matmul/grouped_activations.h"

namespace tq::grouped {
namespace {

using tq::testing::FencedBytes;

constexpr uint64_t kSeed = 496;
constexpr float kPoison = -12345.0f;

enum class Zeros { kHalf, kPacked, kSymmetric };
constexpr Zeros kAllZeros[] = {Zeros::kHalf, Zeros::kPacked, Zeros::kSymmetric};

struct Case {
  Isa isa;
  int bits;
};

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (Isa isa : kAllIsas) {
    for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
      if (IsaSupported(isa)) cases.push_back({isa, bits});
    }
  }
  return cases;
}

std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  return info.param.bits == kTrits
             ? fmt::format("{}_trits", IsaName(info.param.isa))
             : fmt::format("{}_{}bits", IsaName(info.param.isa), info.param.bits);
}

// A fenced copy of values.
template <class T>
class Fenced {
 public:
  explicit Fenced(const std::vector<T>& values) : bytes_(values.size() * sizeof(T)) {
    std::memcpy(bytes_.data(), values.data(), values.size() * sizeof(T));
  }
  T* data() const { return reinterpret_cast<T*>(bytes_.data()); }

 private:
  FencedBytes bytes_;
};

struct Problem {
  Weights weights;
  size_t blocks = 0;  // padded
  std::unique_ptr<FencedBytes> codes, packed;
  std::unique_ptr<Fenced<uint16_t>> scale, zero;

  Problem(int bits, size_t rows, size_t cols, size_t group, Zeros zeros) {
    Random random(kSeed, "grouped", cols * 131 + rows);
    blocks = RoundUp((cols + 31) / 32, kBlockMultiple);
    weights.bits = bits;
    weights.rows = rows;
    weights.cols = cols;
    weights.groups = (cols + group - 1) / group;
    weights.group_blocks = weights.groups == 1 ? blocks : group / kBlockColumns;
    weights.code_bytes = CodeBytes(bits, cols);
    weights.packed_bytes = (weights.groups * bits + 7) / 8;
    codes = std::make_unique<FencedBytes>(rows * weights.code_bytes);
    for (size_t i = 0; i < rows * weights.code_bytes; ++i) {
      codes->data()[i] = static_cast<uint8_t>(random.NextBelow(3) == 0 ? 255 : random.NextU32());
    }
    weights.codes = codes->data();
    std::vector<uint16_t> halves(rows * weights.groups);
    const auto fill = [&] {
      for (uint16_t& half : halves) half = static_cast<uint16_t>(random.NextBelow(0x5000));
      return std::make_unique<Fenced<uint16_t>>(halves);
    };
    scale = fill();
    weights.scale = scale->data();
    if (zeros == Zeros::kHalf) {
      zero = fill();
      weights.half_zero = zero->data();
    } else if (zeros == Zeros::kPacked) {
      packed = std::make_unique<FencedBytes>(rows * weights.packed_bytes);
      for (size_t i = 0; i < rows * weights.packed_bytes; ++i) {
        packed->data()[i] = static_cast<uint8_t>(random.NextU32());
      }
      weights.packed_zero = packed->data();
    }
  }
};

// n rows of random activations with their extremes in, zeros behind `cols`.
struct Activations {
  size_t blocks;
  std::vector<std::vector<int8_t>> a;
  std::vector<std::vector<float>> scale, sum;

  Activations(size_t n, const Problem& problem) : blocks(problem.blocks) {
    Random random(kSeed, "x", blocks);
    for (size_t i = 0; i < n; ++i) {
      a.emplace_back(blocks * kBlockColumns);
      scale.emplace_back(blocks);
      sum.emplace_back(blocks);
      for (size_t b = 0; b < blocks; ++b) {
        const bool extreme = random.NextBelow(4) == 0;
        int total = 0;
        for (size_t c = b * kBlockColumns; c < (b + 1) * kBlockColumns; ++c) {
          if (c >= problem.weights.cols) break;
          const int value = static_cast<int>(random.NextBelow(255)) - kMaxActivation;
          a[i][c] = static_cast<int8_t>(extreme ? (value < 0 ? -127 : 127) : value);
          total += a[i][c];
          scale[i][b] = static_cast<float>(1 + random.NextBelow(1000)) / 777;
        }
        sum[i][b] = static_cast<float>(total);
      }
    }
  }
};

std::vector<float> Gemv(const MatmulKernels& kernels, const Problem& problem, const Activations& x,
                        size_t i) {
  const Weights& w = problem.weights;
  std::vector<int8_t> a(x.blocks * kBlockColumns);
  std::vector<float> scale(4 * x.blocks), sum(4 * x.blocks), y;
  LayOutRow(w.bits, kernels.lanes, x.blocks, x.a[i].data(), x.scale[i].data(), x.sum[i].data(),
            a.data(), scale.data(), sum.data());
  const Fenced<int8_t> fenced_a(a);
  const Fenced<float> fenced_scale(scale), fenced_sum(sum);
  for (size_t row = 0; row < w.rows; row += kGemvRows) {
    float four[kGemvRows + 1] = {kPoison, kPoison, kPoison, kPoison, kPoison};
    kernels.gemv(w, row, {x.blocks, fenced_a.data(), fenced_scale.data(), fenced_sum.data()}, four);
    EXPECT_EQ(four[kGemvRows], kPoison) << "written past the end";
    y.insert(y.end(), four, four + std::min<size_t>(kGemvRows, w.rows - row));
  }
  return y;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class GroupedMatmulTest : public ::testing::TestWithParam<Case> {
 protected:
  const int bits_ = GetParam().bits;
  const MatmulKernels& kernels_ = FindMatmulKernels(GetParam().isa, bits_);
  const MatmulKernels& twin_ = FindMatmulKernels(Isa::kReference, bits_);
};

struct Sizes {
  size_t rows, cols, group;
};
// Around blocks, steps, passages and chunks of trits of every level; groups of one block to all.
constexpr Sizes kSizes[] = {
    {1, 1, 32},      {2, 31, 32},     {3, 32, 64},    {4, 33, 32},   {5, 63, 64},    {6, 64, 32},
    {7, 65, 32},     {8, 127, 128},   {9, 128, 32},   {3, 129, 64},  {5, 255, 128},  {4, 256, 256},
    {6, 257, 96},    {2, 383, 160},   {2, 160, 32},   {3, 161, 32},  {5, 319, 64},   {9, 320, 128},
    {3, 321, 32},    {1, 640, 320},   {33, 511, 128}, {32, 512, 32}, {31, 513, 512}, {1, 700, 1024},
    {5, 1027, 96},   {4, 2048, 128},  {3, 8191, 32},  {4, 8192, 64}, {2, 8230, 32},  {1, 8230, 128},
    {3, 16400, 128}, {2, 16400, 8192}};

TEST_P(GroupedMatmulTest, GemvGivesTheTwinsBits) {
  ASSERT_EQ(kernels_.bits, bits_);
  for (const auto& [rows, cols, group] : kSizes) {
    for (Zeros zeros : kAllZeros) {
      SCOPED_TRACE(fmt::format("{} x {}, groups of {}, zeros {}, seed {}", rows, cols, group,
                               static_cast<int>(zeros), kSeed));
      const Problem problem(bits_, rows, cols, group, zeros);
      const Activations x(1, problem);
      ASSERT_TRUE(SameBits(Gemv(kernels_, problem, x, 0), Gemv(twin_, problem, x, 0)));
    }
  }
}

TEST_P(GroupedMatmulTest, DecodeGivesEveryCode) {
  for (const auto& [rows, cols, group] : kSizes) {
    SCOPED_TRACE(fmt::format("{} x {}, seed {}", rows, cols, kSeed));
    const Problem problem(bits_, rows, cols, group, Zeros::kSymmetric);
    for (size_t row = 0; row < rows; row += kTileRows) {
      // All, and the last blocks alone.
      for (size_t first : {size_t{0}, problem.blocks - kBlockMultiple}) {
        const size_t count = problem.blocks - first;
        const FencedBytes u(count * kDecodedBlockBytes), expected(count * kDecodedBlockBytes);
        kernels_.decode(problem.weights, row, first, count, u.data());
        twin_.decode(problem.weights, row, first, count, expected.data());
        for (size_t i = 0; i < count * kDecodedBlockBytes; ++i) {
          const size_t block = first + i / kDecodedBlockBytes, r = i / 4 % kTileRows;
          const int byte = static_cast<int>(i % kDecodedBlockBytes / (4 * kTileRows) * 4 + i % 4);
          const size_t column = block * kBlockColumns +
                                ColumnOf(bits_, byte / PartBytes(bits_), byte % PartBytes(bits_));
          if (row + r >= rows || column >= cols) continue;
          ASSERT_EQ(u.data()[i], expected.data()[i]) << "row " << row + r << " column " << column;
        }
      }
    }
  }
}

TEST_P(GroupedMatmulTest, ScalesAndZerosOfAllGroups) {
  for (const auto& [rows, cols, group] : kSizes) {
    for (Zeros zeros : kAllZeros) {
      const Problem problem(bits_, rows, cols, group, zeros);
      const size_t groups = problem.weights.groups;
      for (size_t first : {size_t{0}, groups / 3, groups - 1}) {
        for (size_t count : {size_t{1}, size_t{2}, size_t{7}, groups - first + 2}) {
          const std::vector<float> poison(count * kTileRows, kPoison);
          const Fenced<float> scale(poison), zero(poison), scale2(poison), zero2(poison);
          kernels_.scales(problem.weights, 0, first, count, scale.data(), zero.data());
          twin_.scales(problem.weights, 0, first, count, scale2.data(), zero2.data());
          for (size_t i = 0; i < count * kTileRows; ++i) {
            if (i % kTileRows >= rows) continue;
            ASSERT_EQ(scale.data()[i], scale2.data()[i]) << first << " + " << i / kTileRows;
            ASSERT_EQ(zero.data()[i], zero2.data()[i]) << first << " + " << i / kTileRows;
          }
        }
      }
    }
  }
}

// Panels of every height give each row of x what gemv gives it, in one call or in two.
TEST_P(GroupedMatmulTest, MultiplyGivesGemvsBits) {
  for (size_t n = 1; n <= static_cast<size_t>(kernels_.panel_rows); ++n) {
    for (const auto& [rows, cols, group] :
         {Sizes{32, 30, 32}, {29, 510, 128}, {5, 513, 96}, {3, 700, 1024}, {1, 1600, 32}}) {
      SCOPED_TRACE(fmt::format("{} x {}, groups of {}, n {}", rows, cols, group, n));
      const Problem problem(bits_, rows, cols, group, n % 2 == 0 ? Zeros::kHalf : Zeros::kPacked);
      const Weights& w = problem.weights;
      const Activations x(n, problem);
      std::vector<int8_t> panel(n * x.blocks * kBlockColumns);
      std::vector<float> d(n * x.blocks), sum(n * x.blocks);
      for (size_t i = 0; i < n; ++i) {
        LayOutPanelRow(bits_, x.blocks, i, n, x.a[i].data(), x.scale[i].data(), x.sum[i].data(),
                       panel.data(), d.data(), sum.data());
      }
      const Fenced<int8_t> fenced_panel(panel);
      const Fenced<float> fenced_d(d), fenced_sum(sum);
      const int phases = Phases(bits_);
      const Fenced<float> totals(std::vector<float>(phases * n * kTileRows));
      const size_t half = x.blocks / 2 / kBlockMultiple * kBlockMultiple;
      for (const auto& [first, count] : {std::pair{size_t{0}, half}, {half, x.blocks - half}}) {
        if (count == 0) continue;
        const size_t from = first / w.group_blocks;
        const size_t groups = (first + count - 1) / w.group_blocks - from + 1;
        const FencedBytes u(count * kDecodedBlockBytes);
        const Fenced<float> scale(std::vector<float>(groups * kTileRows));
        const Fenced<float> zero(std::vector<float>(groups * kTileRows));
        kernels_.decode(w, 0, first, count, u.data());
        kernels_.scales(w, 0, from, groups, scale.data(), zero.data());
        kernels_.multiply[n - 1]({u.data(), fenced_panel.data() + first * kBlockColumns * n,
                                  fenced_d.data() + first * n, fenced_sum.data() + first * n,
                                  scale.data(), zero.data(), count, first % w.group_blocks,
                                  w.group_blocks, totals.data()});
      }
      for (size_t i = 0; i < n; ++i) {
        std::vector<float> y(rows);
        for (size_t r = 0; r < rows; ++r) {
          y[r] = SumPhases(totals.data() + i * kTileRows + r, n * kTileRows, phases);
        }
        ASSERT_TRUE(SameBits(y, Gemv(twin_, problem, x, i))) << "row " << i;
      }
    }
  }
}

// Codes and activations that make every sum on the way as large as it becomes.
TEST_P(GroupedMatmulTest, ExtremeSumsDoNotOverflow) {
  for (int8_t activation : {-kMaxActivation, kMaxActivation}) {
    Problem problem(bits_, 32, 512, 512, Zeros::kSymmetric);
    std::fill_n(problem.codes->data(), 32 * problem.weights.code_bytes, uint8_t{255});
    std::vector<uint16_t> ones(32, 0x3C00);
    problem.scale = std::make_unique<Fenced<uint16_t>>(ones);
    problem.weights.scale = problem.scale->data();
    Activations x(1, problem);
    x.a[0].assign(512, activation);
    x.scale[0].assign(16, 1.0f);
    x.sum[0].assign(16, static_cast<float>(32 * activation));
    const auto expected =
        static_cast<float>(512 * activation * (LargestCode(bits_) - (1 << (bits_ - 1))));
    EXPECT_EQ(Gemv(kernels_, problem, x, 0), std::vector<float>(32, expected));

    const FencedBytes u(16 * kDecodedBlockBytes);
    kernels_.decode(problem.weights, 0, 0, 16, u.data());
    std::vector<float> scale(kTileRows), zero(kTileRows);
    std::vector<float> totals(Phases(bits_) * kTileRows);
    kernels_.scales(problem.weights, 0, 0, 1, scale.data(), zero.data());
    kernels_.multiply[0]({u.data(), x.a[0].data(), x.scale[0].data(), x.sum[0].data(), scale.data(),
                          zero.data(), 16, 0, 16, totals.data()});
    for (size_t r = 0; r < kTileRows; ++r) {
      EXPECT_EQ(SumPhases(totals.data() + r, kTileRows, Phases(bits_)), expected);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllLevels, GroupedMatmulTest, ::testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace tq::grouped
