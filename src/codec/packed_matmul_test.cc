// The fast path against sums made from the definition of the layout, on every level: for many
// rows of x bit for bit, for one row within the rounding of floats and bit for bit between levels;
// its independence of threads and batch; and the float twin.
#include "codec/packed_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "base/random.h"
#include "codec/rotation.h"
#include "device/thread_pool.h"
#include "kernels/fenced_bytes_for_test.h"
#include "kernels/trellis_matmul/trellis_matmul.h"

namespace tq {
namespace {

using tq::testing::FencedBytes;
using trellis::Code;

constexpr uint64_t kSeed = 31337;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<Isa> Levels() {
  std::vector<Isa> levels;
  for (Isa isa : kAllIsas) {
    if (IsaSupported(isa)) levels.push_back(isa);
  }
  return levels;
}

Tensor RandomScale(uint64_t n, std::string_view name) {
  Random random(kSeed, name, n);
  std::vector<uint16_t> halves(n);
  for (uint16_t& half : halves) {
    half = FloatToHalf(static_cast<float>(random.NextSign() * (0.5 + random.NextUniform())));
  }
  return *Tensor::FromValues<uint16_t>(DType::kF16, {n}, halves);
}

// Random bytes (any are valid codes) in an allocation of exactly their number, so that the
// address sanitizer sees a read past them. `second` fills the rows from `split` on.
PackedMatrix RandomMatrix(uint64_t rows, uint64_t cols, Code first, Code second, uint64_t split,
                          uint32_t out_limit, uint32_t in_limit) {
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.segments = MakeSegments(rows, cols, first, second, split);
  uint64_t bytes = 0;
  float scale = 0.013f;
  for (Segment& segment : matrix.segments) {
    segment.scale = scale;
    scale *= 3;
    bytes += SegmentBytes(segment, cols);
  }
  std::shared_ptr<uint8_t[]> codes(new uint8_t[bytes]);
  Random random(kSeed, "codes", bytes);
  for (uint64_t i = 0; i < bytes; ++i) codes[i] = static_cast<uint8_t>(random.NextU32());
  matrix.codes = Tensor({DType::kU8, {bytes}, codes.get()}, codes);
  matrix.out_scale = RandomScale(rows, "out");
  matrix.out_block = LargestHadamardOrder(rows, out_limit);
  matrix.input = std::make_shared<InputTransform>(
      InputTransform{RandomScale(cols, "in"), LargestHadamardOrder(cols, in_limit)});
  return matrix;
}

std::vector<float> RandomInput(uint64_t n, uint64_t cols) {
  std::vector<float> x(n * cols);
  Random random(kSeed, "x", cols);
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  return x;
}

std::vector<Code> CodesOf(const PackedMatrix& matrix) {
  std::vector<Code> codes;
  for (const Segment& segment : matrix.segments) codes.push_back(segment.code);
  return codes;
}

constexpr size_t kGuard = 16;

// y of `path` at `isa`, from a poisoned buffer whose end is watched.
std::vector<float> Multiply(const PackedMatrix& matrix, const std::vector<float>& x, uint64_t n,
                            MatmulPath path, Isa isa, Executor& executor) {
  RotatedInput input;
  input.PrepareAt(isa, *matrix.input, x.data(), n, matrix.cols, CodesOf(matrix), path, executor);
  std::vector<float> y(n * matrix.rows + kGuard, -12345.0f);
  PackedMatmul(matrix, input, path, executor, y.data());
  for (size_t i = 0; i < kGuard; ++i) {
    EXPECT_EQ(y[n * matrix.rows + i], -12345.0f) << "written past the end";
  }
  y.resize(n * matrix.rows);
  return y;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Columns up to the next whole 4: the last block of V may reach over the matrix's edge, where
// its x is zero but the rounding of its combinations is not.
uint64_t PaddedCols(const PackedMatrix& matrix) { return (matrix.cols + 3) / 4 * 4; }

// The integers of W' [rows, PaddedCols], from the layout's definition.
std::vector<int> DecodeIntegers(const PackedMatrix& matrix) {
  const uint64_t cols = PaddedCols(matrix);
  std::vector<int> w(matrix.rows * cols);
  for (const Segment& segment : matrix.segments) {
    const Code code = segment.code;
    const trellis::TileShape shape = trellis::ShapeOf(code);
    const uint8_t* tile = matrix.codes.data() + segment.byte_offset;
    for (uint64_t r0 = segment.row_begin; r0 < segment.row_end; r0 += shape.rows) {
      for (uint64_t c0 = 0; c0 < matrix.cols; c0 += shape.columns, tile += shape.bytes()) {
        for (int step = 0; step < shape.steps(); ++step) {
          const int lane = step / shape.windows, window = step % shape.windows;
          const uint64_t row = r0 + trellis::TileRow(code, lane, window);
          const uint64_t column = c0 + trellis::TileColumn(code, lane, window);
          int values[4] = {};
          trellis::DecodeState(code, trellis::StateAt(tile, code, step), values);
          for (int v = 0; v < code.values; ++v) {
            if (row < segment.row_end && column + v < cols) {
              w[row * cols + column + v] = values[v];
            }
          }
        }
      }
    }
  }
  return w;
}

// Integer activations of a rotated row, combined for V, and what one is worth: one scale for all
// columns, or one for every 32.
struct Quantised {
  size_t columns;  // of a scale
  std::vector<int> q;
  std::vector<float> scale;

  Quantised(std::vector<float> x, int values, bool one_row) {
    x.resize((x.size() + 3) / 4 * 4, 0.0f);
    std::vector<float> a = x;
    for (size_t i = 0; i < x.size(); i += values) {
      if (values == 2) {
        a[i] = x[i] + x[i + 1];
        a[i + 1] = x[i] - x[i + 1];
      } else if (values == 4) {
        const float s0 = x[i] + x[i + 1], d0 = x[i] - x[i + 1];
        const float s1 = x[i + 2] + x[i + 3], d1 = x[i + 2] - x[i + 3];
        a[i] = s0 + s1, a[i + 1] = d0 + d1, a[i + 2] = s0 - s1, a[i + 3] = d0 - d1;
      }
    }
    const float most = one_row ? 127.0f : 8159.0f;
    columns = one_row ? 32 : a.size();
    for (size_t i = 0; i < a.size(); i += columns) {
      const size_t end = std::min(a.size(), i + columns);
      float largest = 0;
      for (size_t j = i; j < end; ++j) largest = std::max(largest, std::fabs(a[j]));
      const float inverse = most / largest;
      for (size_t j = i; j < end; ++j) {
        q.push_back(static_cast<int>(std::nearbyintf(a[j] * inverse)));
      }
      scale.push_back(largest / most);
    }
  }

  // The product with a row of weights, in units of `weight_scale`; exact for one scale.
  double Product(const int* w, int values, float weight_scale) const {
    double product = 0;
    for (size_t i = 0; i < q.size(); i += columns) {
      const int64_t dot = Dot(w, i, std::min(q.size(), i + columns), values);
      // Exact: V is a power of two, and the product of two floats fits a double.
      const double worth =
          static_cast<double>(scale[i / columns]) * static_cast<double>(weight_scale);
      product += static_cast<double>(dot) / values * worth;
    }
    return product;
  }

  // V * sum of w x over some columns, in integers: x = H a / V.
  int64_t Dot(const int* w, size_t begin, size_t end, int values) const {
    int64_t sum = 0;
    for (size_t i = begin; i < end; i += values) {
      int v[4] = {};
      for (int j = 0; j < values; ++j) v[j] = w[i + j];
      const int* a = q.data() + i;
      if (values == 1) {
        sum += v[0] * a[0];
      } else if (values == 2) {
        sum += v[0] * (a[0] + a[1]) + v[1] * (a[0] - a[1]);
      } else {
        sum += v[0] * (a[0] + a[1] + a[2] + a[3]) + v[1] * (a[0] - a[1] + a[2] - a[3]) +
               v[2] * (a[0] + a[1] - a[2] - a[3]) + v[3] * (a[0] - a[1] - a[2] + a[3]);
      }
    }
    return sum;
  }
};

// What the fast path must give; for one row of x within the rounding of its floats.
std::vector<float> Expected(const PackedMatrix& matrix, const std::vector<float>& x, uint64_t n) {
  InlineExecutor executor;
  RotatedInput rotated;
  rotated.PrepareAt(Isa::kReference, *matrix.input, x.data(), n, matrix.cols, {},
                    MatmulPath::kReference, executor);
  const std::vector<int> w = DecodeIntegers(matrix);
  std::vector<float> y(n * matrix.rows);
  for (uint64_t i = 0; i < n; ++i) {
    const float* row_of_x = rotated.rotated() + i * matrix.cols;
    float* out = y.data() + i * matrix.rows;
    for (const Segment& segment : matrix.segments) {
      const int values = segment.code.values;
      const Quantised a({row_of_x, row_of_x + matrix.cols}, values, n == 1);
      for (uint64_t row = segment.row_begin; row < segment.row_end; ++row) {
        out[row] = static_cast<float>(
            a.Product(w.data() + row * PaddedCols(matrix), values, segment.scale));
      }
    }
    BlockHadamard(out, matrix.rows, matrix.out_block, HadamardSide::kTransposed);
    for (uint64_t row = 0; row < matrix.rows; ++row) {
      out[row] *= HalfToFloat(matrix.out_scale.as<uint16_t>()[row]);
    }
  }
  return y;
}

// Many rows of x must give what is expected to the bit; one row within the rounding of its float
// sums, and to the bit what the plain twins give.
void ExpectProduct(const PackedMatrix& matrix, const std::vector<float>& x, uint64_t n, Isa isa) {
  InlineExecutor executor;
  const std::vector<float> y = Multiply(matrix, x, n, MatmulPath::kFast, isa, executor);
  const std::vector<float> expected = Expected(matrix, x, n);
  if (n > 1) {
    ASSERT_TRUE(SameBits(y, expected));
    return;
  }
  ASSERT_TRUE(SameBits(y, Multiply(matrix, x, n, MatmulPath::kFast, Isa::kReference, executor)));
  double power = 0;
  for (float value : expected) power += static_cast<double>(value) * value;
  const double rms = std::sqrt(power / static_cast<double>(matrix.rows));
  for (uint64_t row = 0; row < matrix.rows; ++row) {
    ASSERT_NEAR(y[row], expected[row], 2e-5 * rms + 1e-6) << "row " << row;
  }
}

class PackedMatmulTest : public ::testing::TestWithParam<Isa> {};

TEST_P(PackedMatmulTest, SumsExactlyForEveryCodeAndSize) {
  constexpr uint64_t kRows[] = {1, 15, 17, 33, 64, 65, 100, 130};
  constexpr uint64_t kCols[] = {1, 16, 19, 31, 33, 102, 515, 528};
  constexpr uint64_t kBatches[] = {1, 2, 7, 13};
  size_t turn = 0;
  for (Code code : trellis::kMatmulCodes) {
    for (uint64_t rows : kRows) {
      // Each number of rows meets each number of columns, and each of x.
      const uint64_t cols = kCols[(turn + turn / 8) % 8],
                     n = kBatches[(turn % 8 / 2 + turn / 8) % 4];
      ++turn;
      SCOPED_TRACE(fmt::format("V {} k {} L {}: {} x {}, n {}, seed {}", code.values, code.bits,
                               code.state_bits, rows, cols, n, kSeed));
      const PackedMatrix matrix =
          RandomMatrix(rows, cols, code, code, rows, turn % 3 == 0 ? 1 : 128, 128);
      const std::vector<float> x = RandomInput(n, cols);
      ASSERT_NO_FATAL_FAILURE(ExpectProduct(matrix, x, n, GetParam()));
    }
  }
}

TEST_P(PackedMatmulTest, ReadsOnlyTheCodesWhereverTheyLie) {
  InlineExecutor executor;
  for (Code code : trellis::kMatmulCodes) {
    PackedMatrix matrix = RandomMatrix(65, 102, code, code, 65, 128, 128);
    const Tensor codes = matrix.codes;
    for (uint64_t n : {1, 5}) {
      const std::vector<float> x = RandomInput(n, matrix.cols);
      const auto multiply = [&] {
        return Multiply(matrix, x, n, MatmulPath::kFast, GetParam(), executor);
      };
      matrix.codes = codes;
      const std::vector<float> expected = multiply();
      for (bool at_end : {false, true}) {
        const auto fenced =
            std::make_shared<FencedBytes>(std::span(codes.data(), codes.num_bytes()), at_end);
        matrix.codes = Tensor({DType::kU8, {codes.num_bytes()}, fenced->data()}, fenced);
        EXPECT_TRUE(SameBits(multiply(), expected)) << "V " << code.values << " k " << code.bits;
      }
      // An odd address.
      const auto moved = std::make_shared<std::vector<uint8_t>>(codes.num_bytes() + 1);
      std::copy_n(codes.data(), codes.num_bytes(), moved->data() + 1);
      matrix.codes = Tensor({DType::kU8, {codes.num_bytes()}, moved->data() + 1}, moved);
      EXPECT_TRUE(SameBits(multiply(), expected)) << "V " << code.values << " k " << code.bits;
    }
  }
}

// q, k and v: one loop over all rows gives each what it would have alone, also where blocks of the
// output's rotation meet rows of tiles in any way.
TEST_P(PackedMatmulTest, MatricesOfOneInputTogether) {
  auto pool = ThreadPool::Create(3);
  ASSERT_TRUE(pool.ok());
  InlineExecutor inline_executor;
  const uint64_t cols = 576;
  std::vector<PackedMatrix> matrices;
  matrices.push_back(RandomMatrix(576, cols, {2, 4}, {1, 3}, 192, 128, 128));    // blocks of 96
  matrices.push_back(RandomMatrix(192, cols, {4, 3}, {4, 3}, 192, 4, 128));      // of 4
  matrices.push_back(RandomMatrix(65, cols, {1, 8}, {1, 8}, 65, 1, 128));        // of 1
  matrices.push_back(RandomMatrix(1152, cols, {2, 3}, {2, 5}, 640, 1152, 128));  // of all
  std::vector<Code> codes;
  std::vector<const PackedMatrix*> members;
  for (PackedMatrix& matrix : matrices) {
    matrix.input = matrices[0].input;
    for (Code code : CodesOf(matrix)) codes.push_back(code);
    members.push_back(&matrix);
  }
  for (const MatmulPath path : {MatmulPath::kFast, MatmulPath::kReference}) {
    for (uint64_t n : {1, 2, 14}) {
      const std::vector<float> x = RandomInput(n, cols);
      for (Executor* executor :
           {static_cast<Executor*>(&inline_executor), static_cast<Executor*>(pool->get())}) {
        RotatedInput input;
        input.PrepareAt(GetParam(), *matrices[0].input, x.data(), n, cols, codes, path, *executor);
        std::vector<std::vector<float>> y;
        std::vector<float*> outputs;
        for (const PackedMatrix& matrix : matrices) y.emplace_back(n * matrix.rows, -12345.0f);
        for (std::vector<float>& values : y) outputs.push_back(values.data());
        PackedMatmul(members, input, path, *executor, outputs);
        for (size_t i = 0; i < matrices.size(); ++i) {
          EXPECT_TRUE(
              SameBits(y[i], Multiply(matrices[i], x, n, path, GetParam(), inline_executor)))
              << "matrix " << i << " n " << n << " threads " << executor->threads();
        }
      }
    }
  }
}

TEST_P(PackedMatmulTest, TwoSegmentsKeepTheirOwnCodes) {
  constexpr size_t kCodes = trellis::kNumMatmulCodes / 2;  // L = 16
  for (size_t i = 0; i < kCodes; ++i) {
    const Code first = trellis::kMatmulCodes[i];
    const Code second = trellis::kMatmulCodes[(i * 5 + 3) % kCodes];
    for (uint64_t n : {1, 5, 14}) {
      SCOPED_TRACE(fmt::format("V {} k {} then V {} k {}, n {}", first.values, first.bits,
                               second.values, second.bits, n));
      const PackedMatrix matrix = RandomMatrix(130, 72, first, second, 64, 1, 128);
      ASSERT_EQ(matrix.segments.size(), 2u);
      const std::vector<float> x = RandomInput(n, 72);
      ASSERT_NO_FATAL_FAILURE(ExpectProduct(matrix, x, n, GetParam()));
    }
  }
}

TEST_P(PackedMatmulTest, RowsDoNotDependOnThreadsNorManyOnTheirNumber) {
  auto pool = ThreadPool::Create(3);
  ASSERT_TRUE(pool.ok());
  InlineExecutor inline_executor;
  const uint64_t rows = 320, cols = 576, most = 272;  // two batches, of 264 rows and 8
  const std::vector<float> x = RandomInput(most, cols);
  for (Code code : {Code{2, 4}, Code{1, 3}, Code{4, 3}, Code{1, 8}}) {
    const PackedMatrix matrix = RandomMatrix(rows, cols, code, {1, 4}, 128, 128, 128);
    const auto multiply = [&](uint64_t n, Executor& executor) {
      return Multiply(matrix, {x.begin(), x.begin() + n * cols}, n, MatmulPath::kFast, GetParam(),
                      executor);
    };
    ASSERT_TRUE(SameBits(multiply(1, inline_executor), multiply(1, **pool)));
    const std::vector<float> all = multiply(most, inline_executor);
    for (uint64_t n : {2, 3, 7, 8, 9, 12, 13, 16, 33, 265, 272}) {
      const std::vector<float> expected(all.begin(), all.begin() + n * rows);
      for (Executor* executor :
           {static_cast<Executor*>(&inline_executor), static_cast<Executor*>(pool->get())}) {
        ASSERT_TRUE(SameBits(multiply(n, *executor), expected))
            << "n " << n << " threads " << executor->threads();
      }
    }
  }
}

TEST_P(PackedMatmulTest, RowsBeyondOneSumOfInt32AreExact) {
  // State 0 decodes to -510 with V = 1; against equal activations 8159 a sum over 40000
  // columns is -1.66e11.
  const uint64_t cols = 40000, rows = 17;
  for (Code code : {Code{1, 2}, Code{1, 3}, Code{1, 8}, Code{2, 4}, Code{4, 2}}) {
    PackedMatrix matrix = RandomMatrix(rows, cols, code, code, rows, 1, 1);
    const auto bytes = matrix.codes.num_bytes();
    if (code.bits == 2 || code.bits == 8) matrix.codes = *Tensor::Zeros(DType::kU8, {bytes});
    const std::vector<uint16_t> ones(cols, 0x3c00);
    matrix.input = std::make_shared<InputTransform>(
        InputTransform{*Tensor::FromValues<uint16_t>(DType::kF16, {cols}, ones), 1});
    for (uint64_t n : {1, 2}) {
      const std::vector<float> x(n * cols, 1.0f);
      SCOPED_TRACE(fmt::format("V {} n {}", code.values, n));
      ASSERT_NO_FATAL_FAILURE(ExpectProduct(matrix, x, n, GetParam()));
    }
  }
}

// An activation's rounding error is uniform in +-scale/2 and independent of the weights, so
// the error of a row has variance sum(w^2 scale^2) / V / 12 (a combination for V weighs
// its rounding with the orthogonal transform of w over V). That is about 1.2e-4 of a product's
// size for many rows of x and 5e-3 for one; the float roundings of both paths, 6e-8 each, vanish
// in it.
TEST_P(PackedMatmulTest, AgreesWithTheReferencePathWithinTheRounding) {
  InlineExecutor executor;
  const uint64_t rows = 96, cols = 574;
  for (Code code : trellis::kMatmulCodes) {
    for (uint64_t n : {1, 3}) {
      const PackedMatrix matrix = RandomMatrix(rows, cols, code, code, rows, 1, 128);
      const std::vector<float> x = RandomInput(n, cols);
      const std::vector<float> fast =
          Multiply(matrix, x, n, MatmulPath::kFast, GetParam(), executor);
      const std::vector<float> reference =
          Multiply(matrix, x, n, MatmulPath::kReference, GetParam(), executor);
      RotatedInput rotated;
      rotated.PrepareAt(GetParam(), *matrix.input, x.data(), n, cols, {}, MatmulPath::kReference,
                        executor);
      std::vector<float> w(cols);
      double total_error = 0, total_variance = 0;
      for (uint64_t row = 0; row < rows; ++row) {
        DecodeRotatedRows(matrix, row, row + 1, w.data());
        const double out_scale = HalfToFloat(matrix.out_scale.as<uint16_t>()[row]);
        for (uint64_t i = 0; i < n; ++i) {
          const float* row_of_x = rotated.rotated() + i * cols;
          const Quantised a({row_of_x, row_of_x + cols}, code.values, n == 1);
          double power = 0;
          for (uint64_t c = 0; c < cols; ++c) {
            const double worth = static_cast<double>(w[c]) * a.scale[c / a.columns];
            power += worth * worth;
          }
          const double sigma = std::fabs(out_scale) * std::sqrt(power / code.values / 12);
          const double error = fast[i * rows + row] - reference[i * rows + row];
          ASSERT_LE(std::fabs(error), 6 * sigma) << "V " << code.values << " k " << code.bits;
          total_error += error * error;
          total_variance += sigma * sigma;
        }
      }
      // Not only bounded: the noise has the size that rounding explains.
      EXPECT_GT(total_error, 0.5 * total_variance);
      EXPECT_LT(total_error, 1.6 * total_variance);
    }
  }
}

TEST_P(PackedMatmulTest, NonFiniteAndEmptyRowsOfXStayAlone) {
  InlineExecutor executor;
  const uint64_t rows = 48, cols = 64;
  const PackedMatrix matrix = RandomMatrix(rows, cols, {2, 4}, {2, 4}, rows, 16, 16);
  const std::vector<float> x = RandomInput(5, cols);
  std::vector<float> bad = x;
  bad[1 * cols + 7] = kNan;
  bad[2 * cols + 9] = -std::numeric_limits<float>::infinity();
  std::fill_n(bad.begin() + 3 * cols, cols, 0.0f);
  bad[3 * cols + 5] = 1e-42f;
  const std::vector<float> good = Multiply(matrix, x, 5, MatmulPath::kFast, GetParam(), executor);
  const std::vector<float> y = Multiply(matrix, bad, 5, MatmulPath::kFast, GetParam(), executor);
  for (uint64_t row = 0; row < rows; ++row) {
    EXPECT_EQ(y[row], good[row]);
    EXPECT_TRUE(std::isnan(y[rows + row]));
    EXPECT_TRUE(std::isnan(y[2 * rows + row]));
    EXPECT_EQ(y[3 * rows + row], 0.0f);
    EXPECT_EQ(y[4 * rows + row], good[4 * rows + row]);
  }
  for (uint64_t i : {1, 2, 3}) {
    const std::vector<float> one(bad.begin() + i * cols, bad.begin() + (i + 1) * cols);
    for (float value : Multiply(matrix, one, 1, MatmulPath::kFast, GetParam(), executor)) {
      EXPECT_TRUE(i == 3 ? value == 0 : std::isnan(value)) << "row of x " << i;
    }
  }
}

TEST_P(PackedMatmulTest, AnInputCanBePreparedAgain) {
  InlineExecutor executor;
  RotatedInput input;
  for (uint64_t n : {9, 1, 3}) {
    for (Code code : {Code{1, 4}, Code{4, 2}, Code{2, 3, 12}}) {
      const uint64_t rows = 40, cols = 48 + 16 * n;
      const PackedMatrix matrix = RandomMatrix(rows, cols, code, code, rows, 1, 64);
      const std::vector<float> x = RandomInput(n, cols);
      for (MatmulPath path : {MatmulPath::kFast, MatmulPath::kReference, MatmulPath::kFast}) {
        input.PrepareAt(GetParam(), *matrix.input, x.data(), n, cols, CodesOf(matrix), path,
                        executor);
        std::vector<float> y(n * rows, kNan);
        PackedMatmul(matrix, input, path, executor, y.data());
        ASSERT_TRUE(SameBits(y, Multiply(matrix, x, n, path, GetParam(), executor)));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllLevels, PackedMatmulTest, ::testing::ValuesIn(Levels()),
                         [](const auto& info) { return std::string(IsaName(info.param)); });

// As many segments as a matrix may have: each gives the rows that it gives alone.
TEST(PackedMatmulTest, ManySegments) {
  auto pool = *ThreadPool::Create(3);
  const uint64_t cols = 80, rows = 64 * (kMaxSegments - 1) + 33;
  const Code codes[] = {{1, 8}, {2, 4}, {4, 2}, {1, 3}, {2, 5}, {4, 3}, {1, 5}, {2, 2}};
  static_assert(std::size(codes) == kMaxSegments);
  PackedMatrix whole;
  whole.rows = rows;
  whole.cols = cols;
  std::vector<PackedMatrix> alone;
  uint64_t bytes = 0;
  for (size_t s = 0; s < kMaxSegments; ++s) {
    const uint64_t begin = 64 * s, end = std::min(rows, begin + 64);
    alone.push_back(RandomMatrix(end - begin, cols, codes[s], codes[s], end - begin, 1, 16));
    Segment segment = alone.back().segments[0];
    segment.row_begin = begin;
    segment.row_end = end;
    segment.byte_offset = bytes;
    bytes += alone.back().codes.num_bytes();
    whole.segments.push_back(segment);
  }
  whole.codes = *Tensor::Zeros(DType::kU8, {bytes});
  whole.out_scale = *Tensor::Zeros(DType::kF16, {rows});
  whole.input = alone[0].input;
  for (size_t s = 0; s < kMaxSegments; ++s) {
    const PackedMatrix& part = alone[s];
    std::memcpy(whole.codes.mutable_data() + whole.segments[s].byte_offset, part.codes.data(),
                part.codes.num_bytes());
    std::memcpy(whole.out_scale.mutable_data() + 2 * whole.segments[s].row_begin,
                part.out_scale.data(), part.out_scale.num_bytes());
    alone[s].input = whole.input;
  }
  for (const uint64_t n : {1u, 7u}) {
    const std::vector<float> x = RandomInput(n, cols);
    for (const Isa isa : Levels()) {
      const std::vector<float> y = Multiply(whole, x, n, MatmulPath::kFast, isa, *pool);
      for (size_t s = 0; s < kMaxSegments; ++s) {
        const std::vector<float> want = Multiply(alone[s], x, n, MatmulPath::kFast, isa, *pool);
        for (uint64_t i = 0; i < n; ++i) {
          for (uint64_t row = 0; row < alone[s].rows; ++row) {
            ASSERT_EQ(y[i * rows + 64 * s + row], want[i * alone[s].rows + row]) << s;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tq
