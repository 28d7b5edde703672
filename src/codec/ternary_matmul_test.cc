// Products with ternary matrices against sums made weight by weight: equal to the bit at every
// level, for any number of rows of x and of threads.
#include "codec/ternary_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>

#include "base/random.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

using ternary::Packing;

constexpr uint64_t kSeed = 158;
constexpr float kPoison = -12345.0f;

std::vector<Isa> Levels() {
  std::vector<Isa> levels;
  for (Isa isa : kAllIsas) {
    if (IsaSupported(isa)) levels.push_back(isa);
  }
  return levels;
}

// Random codes in an allocation of exactly their number, so that the address sanitizer sees a read
// past them; what fills up the last tiles is random too, and must not matter.
TernaryMatrix RandomMatrix(Packing packing, uint64_t rows, uint64_t cols, bool row_scales) {
  const uint64_t bytes = TernaryBytes(packing, rows, cols);
  std::shared_ptr<uint8_t[]> codes(new uint8_t[bytes]);
  Random random(kSeed, "codes", bytes);
  for (uint64_t i = 0; i < bytes; ++i) {
    do {
      codes[i] = static_cast<uint8_t>(random.NextU32());
    } while (!ternary::IsCode(packing, codes[i]));
  }
  std::vector<float> scales(row_scales ? rows : 1);
  for (float& scale : scales) scale = static_cast<float>(0.01 + random.NextUniform());
  return *TernaryMatrixFromCodes(packing, rows, cols,
                                 Tensor({DType::kU8, {bytes}, codes.get()}, codes), scales);
}

std::vector<float> RandomInput(uint64_t n, uint64_t cols) {
  std::vector<float> x(n * cols);
  Random random(kSeed, "x", cols);
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  return x;
}

// y from a poisoned buffer whose end is watched.
std::vector<float> Multiply(const TernaryMatrix& matrix, const std::vector<float>& x, uint64_t n,
                            Isa isa, Executor& executor) {
  TernaryInput input;
  input.PrepareAt(isa, x.data(), n, matrix.cols, executor);
  std::vector<float> y(n * matrix.rows + 16, kPoison);
  TernaryMatmul(matrix, input, executor, y.data());
  for (uint64_t i = n * matrix.rows; i < y.size(); ++i) {
    EXPECT_EQ(y[i], kPoison) << "written past the end";
  }
  y.resize(n * matrix.rows);
  return y;
}

// The product's definition, from one decoded weight and one integer after the other.
std::vector<float> Expected(const TernaryMatrix& matrix, const std::vector<float>& x, uint64_t n) {
  std::vector<float> y(n * matrix.rows), w(matrix.rows * matrix.cols);
  DecodeRows(matrix, 0, matrix.rows, w.data());
  std::vector<int8_t> a(matrix.cols);
  for (uint64_t i = 0; i < n; ++i) {
    const auto activations =
        ternary::reference::Quantize(x.data() + i * matrix.cols, matrix.cols, a.data());
    for (uint64_t row = 0; row < matrix.rows; ++row) {
      int64_t sum = 0;
      for (uint64_t c = 0; c < matrix.cols; ++c) {
        const float weight = w[row * matrix.cols + c];
        sum += weight == 0 ? 0 : weight > 0 ? a[c] : -a[c];
      }
      y[i * matrix.rows + row] =
          static_cast<float>(static_cast<double>(sum) * (static_cast<double>(activations.scale) *
                                                         static_cast<double>(matrix.scale(row))));
    }
  }
  return y;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(TernaryMatmulTest, EveryLevelGivesTheDefinitionsBits) {
  InlineExecutor executor;
  struct Shape {
    uint64_t rows, cols, n;
  };
  for (Packing packing : ternary::kAllPackings) {
    for (const auto& [rows, cols, n] : {Shape{1, 1, 1},
                                        {1, 1, 2},
                                        {1, 79, 3},
                                        {2, 3, 1},
                                        {31, 16, 5},
                                        {32, 17, 6},
                                        {33, 20, 7},
                                        {33, 21, 1},
                                        {40, 81, 12},
                                        {64, 100, 13},
                                        {65, 511, 25},
                                        {96, 513, 2},
                                        {300, 130, 4},
                                        {70, 1100, 11},
                                        {5, 2049, 1},
                                        {35, 40, 530}}) {
      const TernaryMatrix matrix = RandomMatrix(packing, rows, cols, rows % 2 == 0);
      const std::vector<float> x = RandomInput(n, cols), expected = Expected(matrix, x, n);
      for (Isa isa : Levels()) {
        ASSERT_TRUE(SameBits(Multiply(matrix, x, n, isa, executor), expected))
            << IsaName(isa) << " packing " << static_cast<int>(packing) << ": " << rows << " x "
            << cols << ", " << n << " rows of x, seed " << kSeed;
      }
    }
  }
}

TEST(TernaryMatmulTest, NeitherThreadsNorCompanyChangeARow) {
  auto pool = *ThreadPool::Create(3);
  InlineExecutor executor;
  const uint64_t cols = 1300, n = 29;
  const std::vector<float> x = RandomInput(n, cols);
  for (Packing packing : ternary::kAllPackings) {
    const TernaryMatrix matrix = RandomMatrix(packing, 1000, cols, true);
    const std::vector<float> y = Multiply(matrix, x, n, CurrentIsa(), executor);
    EXPECT_TRUE(SameBits(Multiply(matrix, x, n, CurrentIsa(), *pool), y));
    for (uint64_t i : {0, 7, 28}) {
      const std::vector<float> row(x.begin() + i * cols, x.begin() + (i + 1) * cols);
      const std::vector<float> of_row(y.begin() + i * 1000, y.begin() + (i + 1) * 1000);
      EXPECT_TRUE(SameBits(Multiply(matrix, row, 1, CurrentIsa(), *pool), of_row)) << i;
    }
  }
}

TEST(TernaryMatmulTest, MatricesShareAnInput) {
  auto pool = *ThreadPool::Create(2);
  const uint64_t cols = 650;
  const TernaryMatrix q = RandomMatrix(Packing::k2Bits, 130, cols, false);
  const TernaryMatrix k = RandomMatrix(Packing::kBase3, 33, cols, true);
  const TernaryMatrix v = RandomMatrix(Packing::k2Bits, 1, cols, false);
  const TernaryMatrix* const matrices[] = {&q, &k, &v};
  TernaryInput input;
  for (uint64_t n : {30, 1, 2}) {  // buffers of the larger one are reused
    const std::vector<float> x = RandomInput(n, cols);
    input.Prepare(x.data(), n, cols, *pool);
    std::vector<std::vector<float>> y;
    std::vector<float*> outputs;
    for (const TernaryMatrix* matrix : matrices) y.emplace_back(n * matrix->rows, kPoison);
    for (auto& output : y) outputs.push_back(output.data());
    TernaryMatmul(matrices, input, *pool, outputs);
    for (size_t i = 0; i < std::size(matrices); ++i) {
      EXPECT_TRUE(SameBits(y[i], Expected(*matrices[i], x, n))) << "matrix " << i << " n " << n;
    }
  }
}

TEST(TernaryMatmulTest, RowsThatAreNotFiniteGiveNanAlone) {
  InlineExecutor executor;
  const uint64_t cols = 50, n = 3;
  const TernaryMatrix matrix = RandomMatrix(Packing::kBase3, 40, cols, false);
  std::vector<float> x = RandomInput(n, cols);
  const std::vector<float> clean = Expected(matrix, x, n);
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    x[cols + 49] = bad;
    for (Isa isa : Levels()) {
      const std::vector<float> y = Multiply(matrix, x, n, isa, executor);
      for (uint64_t i = 0; i < y.size(); ++i) {
        if (i / 40 == 1) {
          EXPECT_TRUE(std::isnan(y[i])) << IsaName(isa);
        } else {
          EXPECT_EQ(y[i], clean[i]) << IsaName(isa);
        }
      }
    }
  }
}

TEST(TernaryMatmulTest, NoRowsOfXAreNoWork) {
  InlineExecutor executor;
  const TernaryMatrix matrix = RandomMatrix(Packing::k2Bits, 40, 50, false);
  EXPECT_TRUE(Multiply(matrix, {}, 0, CurrentIsa(), executor).empty());
}

// With float activations the product is that of W, but for the rounding to 8 bits.
TEST(TernaryMatmulTest, ApproximatesTheFloatProduct) {
  InlineExecutor executor;
  const uint64_t rows = 64, cols = 2000;
  const TernaryMatrix matrix = RandomMatrix(Packing::kBase3, rows, cols, false);
  const std::vector<float> x = RandomInput(1, cols);
  std::vector<float> w(rows * cols);
  DecodeRows(matrix, 0, rows, w.data());
  const std::vector<float> y = Multiply(matrix, x, 1, CurrentIsa(), executor);
  float largest = 0;
  for (float value : x) largest = std::fmax(largest, std::fabs(value));
  for (uint64_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (uint64_t c = 0; c < cols; ++c) sum += static_cast<double>(w[row * cols + c]) * x[c];
    // Errors of a are uniform within half a step: 6 standard deviations of their sum.
    const double step = largest / 127.0 * matrix.scales[0];
    EXPECT_NEAR(y[row], sum, 6 * step * std::sqrt(static_cast<double>(cols) / 12));
  }
}

}  // namespace
}  // namespace tq
