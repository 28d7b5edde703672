#include "compress/methods/trellis/round_matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "compress/testing.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

std::vector<Segment> Segments(std::vector<std::pair<uint64_t, trellis::Code>> ends) {
  std::vector<Segment> segments;
  uint64_t begin = 0;
  for (const auto& [end, code] : ends) {
    Segment segment;
    segment.row_begin = begin;
    segment.row_end = begin = end;
    segment.code = code;
    segments.push_back(segment);
  }
  return segments;
}

// 12-bit states: the tests need not be good, only right.
constexpr trellis::Code kHalf{4, 2, 12}, kOne{2, 2, 12}, kTwo{2, 4, 12}, kThree{1, 3, 12};

double SumOfSquares(const std::vector<float>& values) {
  double sum = 0;
  for (float v : values) sum += static_cast<double>(v) * v;
  return sum;
}

// Robustness case 46. What the codes decode to and the error left in w add up to W'; odd sizes,
// every tile shape.
TEST(RoundMatrixTest, CodesAndErrorAddUp) {
  auto pool = ThreadPool::Create(2);
  ASSERT_TRUE(pool.ok());
  for (const auto& [rows, cols, segments] :
       {std::tuple{uint64_t{100}, uint64_t{40}, Segments({{64, kHalf}, {100, kOne}})},
        std::tuple{uint64_t{130}, uint64_t{136}, Segments({{128, kTwo}, {130, kThree}})},
        std::tuple{uint64_t{7}, uint64_t{16}, Segments({{7, kThree}})}}) {
    const std::vector<float> w = testing::NormalValues(rows * cols, rows);
    auto factor = HessianFactor::Create(
        "g", testing::Gram(testing::LowRankRows(4 * cols, cols, 1), cols), 0.01, **pool);
    ASSERT_TRUE(factor.ok());
    std::vector<float> error = w;
    auto rounded = RoundMatrix(rows, cols, segments, &*factor, error.data(), **pool);
    ASSERT_TRUE(rounded.ok());
    PackedMatrix packed;
    packed.rows = rows;
    packed.cols = cols;
    packed.segments = rounded->segments;
    packed.codes = rounded->codes;
    std::vector<float> decoded(rows * cols);
    DecodeRotatedRows(packed, 0, rows, decoded.data());
    for (size_t i = 0; i < w.size(); ++i) ASSERT_NEAR(decoded[i] + error[i], w[i], 1e-4) << i;
    EXPECT_LT(rounded->loss, rounded->norm);
  }
}

// The laboratory's distortions on Gaussian values (design, section 3), a little more at L = 12.
TEST(RoundMatrixTest, PlainErrorIsThatOfTheCode) {
  InlineExecutor executor;
  const uint64_t rows = 128, cols = 256;
  for (const auto& [code, want] : {std::pair{kOne, .269}, {kTwo, .0711}, {kThree, .0174}}) {
    std::vector<float> w = testing::NormalValues(rows * cols, 2);
    for (float& v : w) v *= 3;
    const double power = SumOfSquares(w);
    auto rounded = RoundMatrix(rows, cols, Segments({{rows, code}}), nullptr, w.data(), executor);
    ASSERT_TRUE(rounded.ok());
    EXPECT_NEAR(SumOfSquares(w) / power, want, 0.12 * want) << code.rate();
    EXPECT_NEAR(rounded->loss / rounded->norm, SumOfSquares(w) / power, 1e-4);
  }
}

TEST(RoundMatrixTest, FeedbackLowersTheHessianError) {
  InlineExecutor executor;
  const uint64_t rows = 64, cols = 256;
  const Tensor h = testing::Gram(testing::LowRankRows(4 * cols, cols, 3), cols);
  auto factor = HessianFactor::Create("g", testing::Copy(h), 0.01, executor);
  ASSERT_TRUE(factor.ok());
  const auto form = [&](const std::vector<float>& e) {
    double sum = 0;
    for (uint64_t r = 0; r < rows; ++r) {
      sum += testing::QuadraticForm(h, std::span(e).subspan(r * cols, cols));
    }
    return sum;
  };
  std::vector<float> with = testing::NormalValues(rows * cols, 5), without = with;
  ASSERT_TRUE(
      RoundMatrix(rows, cols, Segments({{rows, kTwo}}), &*factor, with.data(), executor).ok());
  ASSERT_TRUE(
      RoundMatrix(rows, cols, Segments({{rows, kTwo}}), nullptr, without.data(), executor).ok());
  EXPECT_LT(form(with), 0.5 * form(without));
}

TEST(RoundMatrixTest, SameCodesForAnyNumberOfThreads) {
  const uint64_t rows = 200, cols = 48;
  auto three = ThreadPool::Create(3);
  ASSERT_TRUE(three.ok());
  InlineExecutor one;
  std::vector<float> a = testing::NormalValues(rows * cols, 9), b = a;
  const auto segments = Segments({{128, kOne}, {200, kTwo}});
  auto ra = RoundMatrix(rows, cols, segments, nullptr, a.data(), one);
  auto rb = RoundMatrix(rows, cols, segments, nullptr, b.data(), **three);
  ASSERT_TRUE(ra.ok() && rb.ok());
  EXPECT_EQ(ra->segments[0].scale, rb->segments[0].scale);
  ASSERT_EQ(ra->codes.num_bytes(), rb->codes.num_bytes());
  EXPECT_EQ(std::memcmp(ra->codes.data(), rb->codes.data(), ra->codes.num_bytes()), 0);
}

// A device that has one code alone, and says what it was asked for.
class DeviceOfOneCode final : public RoundingDevice {
 public:
  explicit DeviceOfOneCode(trellis::Code code) : code_(code) {}
  const std::string& name() const override { return name_; }
  bool Has(trellis::Code code) const override { return code == code_; }
  StatusOr<std::unique_ptr<Rounding>> Start(const HessianFactor* factor, uint64_t cols,
                                            Executor& executor) const override {
    ++starts;
    return ProcessorRounding().Start(factor, cols, executor);
  }
  mutable int starts = 0;

 private:
  trellis::Code code_;
  std::string name_ = "a device";
};

TEST(RoundMatrixTest, CodesThatADeviceLacksAreRoundedOnTheProcessor) {
  InlineExecutor executor;
  const uint64_t rows = 192, cols = 48;
  const auto segments = Segments({{64, kOne}, {128, kTwo}, {192, kOne}});
  std::vector<float> a = testing::NormalValues(rows * cols, 9), b = a;
  const DeviceOfOneCode device(kOne);
  auto ra = RoundMatrix(rows, cols, segments, nullptr, a.data(), executor, device);
  auto rb = RoundMatrix(rows, cols, segments, nullptr, b.data(), executor);
  ASSERT_TRUE(ra.ok() && rb.ok());
  EXPECT_EQ(device.starts, 1);  // for both segments
  EXPECT_EQ(a, b);
  EXPECT_EQ(std::memcmp(ra->codes.data(), rb->codes.data(), ra->codes.num_bytes()), 0);
}

// Robustness case 43.
TEST(RoundMatrixTest, ZerosAndHugeValuesStayFinite) {
  InlineExecutor executor;
  std::vector<float> zeros(32 * 32), huge(32 * 32);
  huge[5] = 30;
  for (std::vector<float>* w : {&zeros, &huge}) {
    auto rounded = RoundMatrix(32, 32, Segments({{32, kTwo}}), nullptr, w->data(), executor);
    ASSERT_TRUE(rounded.ok());
    EXPECT_TRUE(std::isfinite(rounded->segments[0].scale) && rounded->segments[0].scale > 0);
    for (float e : *w) EXPECT_TRUE(std::isfinite(e));
  }
}

}  // namespace
}  // namespace tq
