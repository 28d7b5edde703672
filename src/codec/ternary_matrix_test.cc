// Ternary matrices: packing of trits, of Hugging Face's layout and of floats, and what is refused.
#include "codec/ternary_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/random.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

using ternary::Packing;
using testing::HasSubstr;

constexpr uint64_t kSeed = 4711;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<int8_t> RandomTrits(uint64_t n) {
  Random random(kSeed, "trits", n);
  std::vector<int8_t> trits(n);
  for (int8_t& trit : trits) trit = static_cast<int8_t>(static_cast<int>(random.NextBelow(3)) - 1);
  return trits;
}

TensorView View(const std::vector<int8_t>& trits, uint64_t rows, uint64_t cols) {
  return {DType::kI8, {rows, cols}, reinterpret_cast<const uint8_t*>(trits.data())};
}
TensorView View(const std::vector<uint8_t>& bytes, uint64_t rows, uint64_t cols) {
  return {DType::kU8, {rows, cols}, bytes.data()};
}

// All of W, from a poisoned buffer.
std::vector<float> Decoded(const TernaryMatrix& matrix) {
  std::vector<float> w(matrix.rows * matrix.cols, kNan);
  DecodeRows(matrix, 0, matrix.rows, w.data());
  return w;
}

template <class T>
void ExpectError(const StatusOr<T>& result, StatusCode code, const std::string& text) {
  ASSERT_FALSE(result.ok()) << "expected: " << text;
  EXPECT_EQ(result.status().code(), code);
  EXPECT_THAT(result.status().message(), HasSubstr(text));
}

TEST(TernaryMatrixTest, TritsOfAnyShapeComeBack) {
  InlineExecutor inline_executor;
  auto pool = *ThreadPool::Create(3);
  for (Packing packing : ternary::kAllPackings) {
    for (uint64_t rows : {1, 2, 31, 32, 33, 100}) {
      for (uint64_t cols : {1, 3, 4, 15, 16, 17, 19, 20, 21, 40, 80, 81}) {
        SCOPED_TRACE(fmt::format("{} x {} seed {}", rows, cols, kSeed));
        const std::vector<int8_t> trits = RandomTrits(rows * cols);
        const auto matrix =
            *PackTernaryMatrix(packing, View(trits, rows, cols), {0.25f}, inline_executor);
        EXPECT_EQ(matrix.codes.num_bytes(), TernaryBytes(packing, rows, cols));
        const std::vector<float> w = Decoded(matrix);
        for (uint64_t i = 0; i < w.size(); ++i) ASSERT_EQ(w[i], 0.25f * trits[i]) << i;
        // Threads change no byte, and the bytes alone make the same matrix.
        const auto other = *PackTernaryMatrix(packing, View(trits, rows, cols), {0.25f}, *pool);
        const auto read = TernaryMatrixFromCodes(packing, rows, cols, other.codes, {0.25f});
        ASSERT_TRUE(read.ok()) << read.status().message();
        ASSERT_EQ(Decoded(*read), w);
      }
    }
  }
}

TEST(TernaryMatrixTest, TwoBitsAndOnePointSix) {
  EXPECT_EQ(TernaryBytes(Packing::k2Bits, 2560, 6912) * 8, 2u * 2560 * 6912);
  EXPECT_EQ(TernaryBytes(Packing::kBase3, 2560, 6400) * 10, 16u / 8 * 2560 * 6400);
}

TEST(TernaryMatrixTest, RowsHaveTheirScalesAndDecodeAlone) {
  InlineExecutor executor;
  const uint64_t rows = 70, cols = 23;
  const std::vector<int8_t> trits = RandomTrits(rows * cols);
  std::vector<float> scales(rows);
  for (uint64_t r = 0; r < rows; ++r) scales[r] = static_cast<float>(r + 1);
  for (Packing packing : ternary::kAllPackings) {
    const auto matrix = *PackTernaryMatrix(packing, View(trits, rows, cols), scales, executor);
    EXPECT_EQ(matrix.num_bytes(), TernaryBytes(packing, rows, cols) + 4 * rows);
    for (auto [begin, end] : {std::pair{0, 1}, {31, 33}, {32, 64}, {40, 40}, {69, 70}}) {
      std::vector<float> w((end - begin) * cols + 1, -99.0f);
      DecodeRows(matrix, begin, end, w.data());
      EXPECT_EQ(w.back(), -99.0f) << "written past the end";
      for (uint64_t i = 0; i + 1 < w.size(); ++i) {
        ASSERT_EQ(w[i], scales[begin + i / cols] * trits[begin * cols + i]);
      }
    }
  }
}

TEST(TernaryMatrixTest, BadCodesAreRefusedByName) {
  InlineExecutor executor;
  const std::vector<int8_t> trits = RandomTrits(33 * 21);
  for (Packing packing : ternary::kAllPackings) {
    const auto good = *PackTernaryMatrix(packing, View(trits, 33, 21), {1}, executor);
    const uint64_t bytes = good.codes.num_bytes();
    const auto read = [&](uint64_t rows, uint64_t cols, const Tensor& codes,
                          std::vector<float> scales) {
      return TernaryMatrixFromCodes(packing, rows, cols, codes, std::move(scales));
    };
    ASSERT_TRUE(read(33, 21, good.codes, {1}).ok());
    const auto invalid = StatusCode::kInvalidArgument, damaged = StatusCode::kDataLoss;
    ExpectError(read(0, 21, good.codes, {1}), invalid, "rows = 0");
    ExpectError(read(33, 0, good.codes, {1}), invalid, "cols = 0");
    ExpectError(read(uint64_t{1} << 31, 21, good.codes, {1}), invalid, "rows = 2147483648");
    ExpectError(read(~uint64_t{0}, ~uint64_t{0}, good.codes, {1}), invalid, "rows = ");
    ExpectError(read(33, (1 << 23) + 1, good.codes, {1}), invalid, "cols = 8388609");
    ExpectError(read(65, 21, good.codes, {1}), invalid, fmt::format("U8 [{}]", bytes));
    ExpectError(read(33, 41, good.codes, {1}), invalid, fmt::format("U8 [{}]", bytes));
    ExpectError(read(33, 21, *Tensor::Zeros(DType::kI8, {bytes}), {1}), invalid, "I8");
    ExpectError(read(33, 21, *Tensor::Zeros(DType::kU8, {1, bytes}), {1}), invalid, "[1, ");
    ExpectError(read(33, 21, good.codes, {}), invalid, "0 scales, must be 1 or 33");
    ExpectError(read(33, 21, good.codes, {1, 1}), invalid, "2 scales, must be 1 or 33");
    for (float bad : {0.0f, -1.0f, kNan, kInf}) {
      std::vector<float> scales(33, 1);
      scales[32] = bad;
      ExpectError(read(33, 21, good.codes, scales), damaged, fmt::format("scale {} at", bad));
    }
    // 3 in two bits; one of the 13 bytes that are no fraction of 243.
    for (uint64_t at : {uint64_t{0}, bytes - 1}) {
      Tensor codes = *Tensor::FromBytes(DType::kU8, {bytes}, {good.codes.data(), bytes});
      codes.mutable_data()[at] = packing == Packing::k2Bits ? 0xc0 : 237;
      ExpectError(read(33, 21, codes, {1}), damaged, fmt::format("at offset {}", at));
    }
  }
}

TEST(TernaryMatrixTest, BadTritsAreRefusedByName) {
  InlineExecutor executor;
  std::vector<int8_t> trits(6);
  const auto pack = [&](const TensorView& view, std::vector<float> scales) {
    return PackTernaryMatrix(Packing::kBase3, view, std::move(scales), executor);
  };
  for (int8_t bad : {-2, 2, 127, -128}) {
    trits[4] = bad;
    ExpectError(pack(View(trits, 2, 3), {1}), StatusCode::kDataLoss,
                fmt::format("weight {} at row 1 column 1", bad));
  }
  trits[4] = 1;
  ExpectError(pack({DType::kI8, {6}, nullptr}, {1}), StatusCode::kInvalidArgument, "rank 2");
  ExpectError(pack({DType::kU8, {2, 3}, nullptr}, {1}), StatusCode::kInvalidArgument, "U8 [2, 3]");
  ExpectError(pack(View(trits, 2, 3), {kNan}), StatusCode::kDataLoss, "scale nan");
  ExpectError(pack(View(trits, 0, 3), {1}), StatusCode::kInvalidArgument, "rows = 0");
}

// Trits of [rows, cols] as Hugging Face's `pack_weights` lays them out.
std::vector<uint8_t> BitNetWeight(const std::vector<int8_t>& trits, uint64_t rows, uint64_t cols) {
  std::vector<uint8_t> bytes(rows / 4 * cols);
  for (uint64_t row = 0; row < rows; ++row) {
    for (uint64_t c = 0; c < cols; ++c) {
      bytes[row % (rows / 4) * cols + c] |= (trits[row * cols + c] + 1) << 2 * (row / (rows / 4));
    }
  }
  return bytes;
}

TEST(TernaryMatrixTest, BitNetLayoutHasFourQuartersOfRowsInAByte) {
  InlineExecutor executor;
  const uint64_t rows = 36, cols = 19;
  const std::vector<int8_t> trits = RandomTrits(rows * cols);
  const std::vector<uint8_t> weight = BitNetWeight(trits, rows, cols);
  for (Packing packing : ternary::kAllPackings) {
    for (auto [meaning, scale] :
         {std::pair{WeightScale::kMultiplies, 0.125f}, std::pair{WeightScale::kDivides, 8.0f}}) {
      const auto matrix =
          TernaryMatrixFromBitNet(packing, View(weight, rows / 4, cols), scale, meaning, executor);
      ASSERT_TRUE(matrix.ok()) << matrix.status().message();
      EXPECT_EQ(matrix->rows, rows);
      const std::vector<float> w = Decoded(*matrix);
      for (uint64_t i = 0; i < w.size(); ++i) ASSERT_EQ(w[i], 0.125f * trits[i]) << i;
    }
  }
}

// The example in the documentation of transformers' unpack_weights.
TEST(TernaryMatrixTest, BitNetLayoutIsTheOneOfTransformers) {
  InlineExecutor executor;
  const std::vector<uint8_t> weight = {0b10100001, 0b00011000, 0b10010000, 0b00001010};
  const auto matrix = *TernaryMatrixFromBitNet(Packing::k2Bits, View(weight, 2, 2), 1,
                                               WeightScale::kMultiplies, executor);
  EXPECT_THAT(Decoded(matrix),
              testing::ElementsAre(0, -1, -1, 1, -1, 1, -1, 1, 1, 0, 0, -1, 1, -1, 1, -1));
}

TEST(TernaryMatrixTest, BadBitNetWeightsAreRefusedByName) {
  InlineExecutor executor;
  std::vector<uint8_t> weight(9 * 19, 0b01010101);
  const auto read = [&](const TensorView& view, float scale, WeightScale meaning) {
    return TernaryMatrixFromBitNet(Packing::k2Bits, view, scale, meaning, executor);
  };
  const auto multiplies = WeightScale::kMultiplies, divides = WeightScale::kDivides;
  for (WeightScale meaning : {multiplies, divides}) {
    for (float bad : {0.0f, -0.0f, -1.0f, kNan, kInf}) {
      ExpectError(read(View(weight, 9, 19), bad, meaning), StatusCode::kDataLoss,
                  fmt::format("weight_scale {} is not", bad));
    }
  }
  EXPECT_TRUE(read(View(weight, 9, 19), 1e-40f, multiplies).ok());
  ExpectError(read(View(weight, 9, 19), 1e-40f, divides), StatusCode::kDataLoss, "its inverse");
  const auto invalid = StatusCode::kInvalidArgument;
  ExpectError(read({DType::kU8, {36}, nullptr}, 1, divides), invalid, "rank 2");
  ExpectError(read({DType::kI8, {9, 19}, nullptr}, 1, divides), invalid, "I8");
  ExpectError(read({DType::kU8, {uint64_t{1} << 62, 1}, nullptr}, 1, divides), invalid, "overflow");
  ExpectError(read({DType::kU8, {uint64_t{1} << 30, 1}, nullptr}, 1, divides), invalid, "rows = ");
  ExpectError(read({DType::kU8, {0, 19}, nullptr}, 1, divides), invalid, "rows = 0");
  weight[8 * 19 + 18] = 0b11010101;
  ExpectError(read(View(weight, 9, 19), 1, divides), StatusCode::kDataLoss,
              "weight holds 3 at row 35 column 18");
}

TEST(TernaryMatrixTest, FloatsAreRoundedAtTheirMeanMagnitude) {
  InlineExecutor executor;
  // Mean magnitude 2: halves of it go to even, that is to 0; 1.5 times it is clipped.
  const std::vector<float> weights = {1.0f, -1.0f, 1.01f, -1.01f, 3.0f, -6.0f, 0.98f, 2.0f};
  for (Packing packing : ternary::kAllPackings) {
    const auto matrix = *TernaryMatrixFromFloats(packing, weights.data(), 2, 4, executor);
    EXPECT_THAT(matrix.scales, testing::ElementsAre(2.0f));
    EXPECT_THAT(Decoded(matrix), testing::ElementsAre(0, 0, 2, -2, 2, -2, 0, 2));
  }
}

TEST(TernaryMatrixTest, FloatsGiveTheSameForAnyNumberOfThreads) {
  InlineExecutor inline_executor;
  auto pool = *ThreadPool::Create(3);
  const uint64_t rows = 130, cols = 301;
  Random random(kSeed, "weights");
  std::vector<float> weights(rows * cols);
  for (float& w : weights) w = static_cast<float>(random.NextNormal());
  const auto one =
      *TernaryMatrixFromFloats(Packing::kBase3, weights.data(), rows, cols, inline_executor);
  const auto three = *TernaryMatrixFromFloats(Packing::kBase3, weights.data(), rows, cols, *pool);
  EXPECT_EQ(one.scales, three.scales);
  EXPECT_EQ(Decoded(one), Decoded(three));
  EXPECT_NEAR(one.scales[0], std::sqrt(2 / M_PI), 0.01);
}

TEST(TernaryMatrixTest, ZerosAndExtremeFloats) {
  InlineExecutor executor;
  const auto read = [&](const std::vector<float>& w) {
    return TernaryMatrixFromFloats(Packing::kBase3, w.data(), 2, 3, executor);
  };
  const auto zeros = read({0, 0, 0, 0, -0.0f, 0});
  ASSERT_TRUE(zeros.ok());
  EXPECT_THAT(Decoded(*zeros), testing::Each(0.0f));
  EXPECT_EQ(zeros->scales[0], 1e-5f);
  const float most = std::numeric_limits<float>::max();
  const auto largest = read({most, -most, most, most, most, most});
  ASSERT_TRUE(largest.ok());
  EXPECT_EQ(Decoded(*largest)[1], -most);
  for (float bad : {kNan, kInf, -kInf}) {
    ExpectError(read({0, 0, 0, 0, bad, 0}), StatusCode::kDataLoss, "at row 1 column 1");
  }
  ExpectError(TernaryMatrixFromFloats(Packing::k2Bits, nullptr, 0, 4, executor),
              StatusCode::kInvalidArgument, "rows = 0");
  ExpectError(TernaryMatrixFromFloats(Packing::k2Bits, nullptr, 4, 0, executor),
              StatusCode::kInvalidArgument, "cols = 0");
}

}  // namespace
}  // namespace tq
