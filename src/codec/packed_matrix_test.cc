#include "codec/packed_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "base/random.h"
#include "codec/rotation.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

using trellis::Code;

Tensor RandomScale(uint64_t n, std::string_view name) {
  Random random(11, name, n);
  std::vector<uint16_t> halves(n);
  for (uint16_t& half : halves) {
    half = FloatToHalf(static_cast<float>(random.NextSign() * (0.5 + random.NextUniform())));
  }
  return *Tensor::FromValues<uint16_t>(DType::kF16, {n}, halves);
}

// A matrix of random bytes: any bytes are valid codes.
PackedMatrix RandomMatrix(uint64_t rows, uint64_t cols, Code first, Code second, uint64_t split,
                          uint32_t out_block, uint32_t in_block) {
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.segments = MakeSegments(rows, cols, first, second, split);
  float scale = 0.01f;
  uint64_t bytes = 0;
  for (Segment& segment : matrix.segments) {
    segment.scale = scale;
    scale *= 3;
    bytes += SegmentBytes(segment, cols);
  }
  Random random(12, "codes", bytes);
  std::vector<uint8_t> codes(bytes);
  for (uint8_t& byte : codes) byte = static_cast<uint8_t>(random.NextU32());
  matrix.codes = *Tensor::FromBytes(DType::kU8, {bytes}, codes);
  matrix.out_scale = RandomScale(rows, "out");
  matrix.out_block = out_block;
  matrix.input =
      std::make_shared<InputTransform>(InputTransform{RandomScale(cols, "in"), in_block});
  return matrix;
}

Tensor Layout(const std::vector<int32_t>& fields) {
  return *Tensor::FromValues<int32_t>(DType::kI32, {fields.size()}, fields);
}

// W'[row, column] straight from the definition of the layout.
float DecodeOne(const PackedMatrix& matrix, uint64_t row, uint64_t column) {
  for (const Segment& segment : matrix.segments) {
    if (row >= segment.row_end) continue;
    const trellis::TileShape shape = trellis::ShapeOf(segment.code);
    const uint64_t across = (matrix.cols + shape.columns - 1) / shape.columns;
    const uint64_t r = row - segment.row_begin;
    const uint8_t* tile = matrix.codes.data() + segment.byte_offset +
                          (r / shape.rows * across + column / shape.columns) * shape.bytes();
    for (int step = 0; step < shape.steps(); ++step) {
      const int lane = step / shape.windows, window = step % shape.windows;
      const int first = trellis::TileColumn(segment.code, lane, window);
      const int offset = static_cast<int>(column % shape.columns) - first;
      if (trellis::TileRow(segment.code, lane, window) == static_cast<int>(r % shape.rows) &&
          offset >= 0 && offset < segment.code.values) {
        int values[4];
        trellis::DecodeState(segment.code, trellis::StateAt(tile, segment.code, step), values);
        return segment.scale * static_cast<float>(values[offset]);
      }
    }
  }
  ADD_FAILURE() << "no window covers " << row << ", " << column;
  return 0;
}

TEST(PackedMatrix, DecodesEveryWindowOfEveryCodeWithPadding) {
  for (Code code : trellis::kSupportedCodes) {
    for (int state_bits : {16, 12}) {
      code.state_bits = state_bits;
      for (auto [rows, cols] : {std::pair{1, 1}, {65, 33}, {16, 47}, {70, 64}}) {
        const PackedMatrix matrix = RandomMatrix(rows, cols, code, code, rows, 1, 1);
        std::vector<float> all(rows * cols);
        DecodeRotatedRows(matrix, 0, rows, all.data());
        for (int r = 0; r < rows; ++r) {
          for (int c = 0; c < cols; ++c) {
            ASSERT_EQ(all[r * cols + c], DecodeOne(matrix, r, c))
                << "V " << code.values << " k " << code.bits << " at " << r << ", " << c;
          }
        }
      }
    }
  }
}

TEST(PackedMatrix, RangesOfRowsCrossSegments) {
  const uint64_t rows = 150, cols = 40;
  const PackedMatrix matrix = RandomMatrix(rows, cols, {2, 3}, {1, 4}, 64, 1, 1);
  ASSERT_EQ(matrix.segments.size(), 2u);
  std::vector<float> all(rows * cols);
  DecodeRotatedRows(matrix, 0, rows, all.data());
  for (auto [begin, end] : {std::pair{0, 1}, {63, 65}, {10, 149}, {149, 150}, {7, 7}}) {
    std::vector<float> part((end - begin) * cols + 1, -1.0f);
    DecodeRotatedRows(matrix, begin, end, part.data());
    for (size_t i = 0; i + 1 < part.size(); ++i) ASSERT_EQ(part[i], all[begin * cols + i]);
    EXPECT_EQ(part.back(), -1.0f);
  }
}

TEST(PackedMatrix, DenseIsTheDefinition) {
  const uint64_t rows = 96, cols = 72;
  for (auto [out_block, in_block] : {std::pair{1, 1}, {32, 36}, {96, 24}, {12, 72}, {20, 8}}) {
    if (rows % out_block != 0) continue;
    const PackedMatrix matrix = RandomMatrix(rows, cols, {2, 4}, {2, 5}, 64, out_block, in_block);
    std::vector<float> rotated(rows * cols), dense(rows * cols);
    DecodeRotatedRows(matrix, 0, rows, rotated.data());
    InlineExecutor executor;
    DecodeDense(matrix, executor, dense.data());
    // y = so * (Hout^T (W' (Hin (si * x)))) for every unit vector x.
    for (uint64_t c = 0; c < cols; ++c) {
      std::vector<float> x(cols), y(rows);
      x[c] = HalfToFloat(matrix.input->in_scale.as<uint16_t>()[c]);
      BlockHadamard(x.data(), cols, in_block, HadamardSide::kForward);
      for (uint64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (uint64_t i = 0; i < cols; ++i)
          sum += static_cast<double>(rotated[r * cols + i]) * x[i];
        y[r] = static_cast<float>(sum);
      }
      BlockHadamard(y.data(), rows, out_block, HadamardSide::kTransposed);
      for (uint64_t r = 0; r < rows; ++r) {
        const float expected = y[r] * HalfToFloat(matrix.out_scale.as<uint16_t>()[r]);
        ASSERT_NEAR(dense[r * cols + c], expected, 2e-5 * 30) << out_block << " " << in_block;
      }
    }
  }
}

TEST(PackedMatrix, ARowAloneEqualsTheDenseRow) {
  const uint64_t rows = 130, cols = 96;
  const PackedMatrix matrix = RandomMatrix(rows, cols, {4, 3}, {1, 3}, 64, 1, 96);
  std::vector<float> dense(rows * cols), row(cols);
  auto pool = ThreadPool::Create(2);
  ASSERT_TRUE(pool.ok());
  DecodeDense(matrix, **pool, dense.data());
  for (uint64_t r = 0; r < rows; ++r) {
    DecodeRow(matrix, r, row.data());
    for (uint64_t c = 0; c < cols; ++c) ASSERT_EQ(row[c], dense[r * cols + c]) << r << " " << c;
  }
}

TEST(PackedMatrix, DenseRowsArePartsOfTheWhole) {
  const PackedMatrix matrix = RandomMatrix(200, 96, {2, 3, 12}, {1, 4, 12}, 64, 20, 96);
  std::vector<float> whole(matrix.rows * matrix.cols);
  auto pool = ThreadPool::Create(2);
  ASSERT_TRUE(pool.ok());
  DecodeDense(matrix, **pool, whole.data());
  for (const auto& [begin, end] : {std::pair<uint64_t, uint64_t>{0, 20}, {40, 100}, {180, 200}}) {
    std::vector<float> rows((end - begin) * matrix.cols);
    DecodeDenseRows(matrix, begin, end, **pool, rows.data());
    EXPECT_TRUE(std::equal(rows.begin(), rows.end(), &whole[begin * matrix.cols])) << begin;
  }
}

TEST(PackedMatrix, LayoutSurvivesTheRoundTrip) {
  for (uint64_t split : {64, 200}) {
    PackedMatrix matrix = RandomMatrix(200, 96, {2, 3, 12}, {1, 4, 12}, split, 20, 96);
    const std::vector<int32_t> fields = LayoutToInts(matrix);
    auto back =
        PackedMatrixFromTensors(Layout(fields), matrix.codes, matrix.out_scale, matrix.input);
    ASSERT_TRUE(back.ok()) << back.status().message();
    EXPECT_EQ(LayoutToInts(*back), fields);
    EXPECT_EQ(back->segments.back().byte_offset, matrix.segments.back().byte_offset);
    EXPECT_EQ(back->num_bytes(), matrix.codes.num_bytes() + 2 * matrix.rows + 4 * fields.size());
  }
}

// One damaged layout: field `index` replaced by `value` must be refused, and the
// message must hold `text`.
struct Damage {
  int index;
  int32_t value;
  std::string text;
};

TEST(PackedMatrix, RefusesDamagedLayouts) {
  const PackedMatrix matrix = RandomMatrix(200, 96, {2, 3}, {1, 4}, 64, 20, 96);
  const std::vector<int32_t> good = LayoutToInts(matrix);
  constexpr int32_t kMin = std::numeric_limits<int32_t>::min(), kMax = -(kMin + 1);
  const std::vector<Damage> damages = {
      {0, 2, "format 2"},
      {0, kMin, "format"},
      {1, 0, "code 0"},
      {2, 13, "13 state bits"},
      {2, -16, "state bits"},
      {3, 0, "[0, 96]"},
      {3, -200, "-200"},
      {3, 199, "out_block 20"},
      {3, 220, "out_scale: F16 [200]"},
      {4, 0, "[200, 0]"},
      {4, kMin, "at least 1"},
      {4, 192, "in_scale"},
      {4, 97, "in_block 96"},
      {5, 0, "out_block 0"},
      {5, 3, "out_block 3"},
      {5, 16, "does not divide"},
      {5, kMin, "out_block"},
      {6, 48, "input group has 96"},
      {6, -96, "in_block"},
      {7, 0, "0 segments"},
      {7, 3, "3 segments"},
      {7, kMax, "segments"},
      {7, 1, "1 segments take"},
      {8, 0, "row_end 0"},
      {8, 63, "multiple of 64"},
      {8, 200, "row_end 200"},
      {8, 256, "row_end 256"},
      {8, -64, "row_end -64"},
      {8, 128, "implies U8"},
      {9, 3, "V = 3"},
      {9, 1, "implies U8"},
      {9, kMax, "no such trellis"},
      {10, 0, "k = 0"},
      {10, 17, "k = 17"},
      {11, 0, "scale 0"},
      {11, kMin, "scale -0"},
      {11, 0x7F800000, "scale inf"},
      {11, 0x7FC00000, "nan"},
      {12, 199, "last row_end"},
      {12, 64, "row_end 64"},
      {13, 2, "implies U8"},
      {14, kMin, "no such trellis"},
      {15, -1, "scale"},
  };
  for (const Damage& damage : damages) {
    std::vector<int32_t> fields = good;
    fields[damage.index] = damage.value;
    auto result =
        PackedMatrixFromTensors(Layout(fields), matrix.codes, matrix.out_scale, matrix.input);
    ASSERT_FALSE(result.ok()) << "field " << damage.index << " = " << damage.value;
    EXPECT_THAT(result.status().message(), testing::HasSubstr(damage.text));
  }
}

TEST(PackedMatrix, RefusesWrongTensors) {
  const PackedMatrix matrix = RandomMatrix(200, 96, {2, 3}, {1, 4}, 64, 20, 96);
  const std::vector<int32_t> fields = LayoutToInts(matrix);
  const auto parse = [&](Tensor layout, Tensor codes, Tensor out_scale, Tensor in_scale) {
    auto input = std::make_shared<InputTransform>(InputTransform{std::move(in_scale), 96});
    return PackedMatrixFromTensors(layout, std::move(codes), std::move(out_scale), input)
        .status()
        .message();
  };
  const Tensor layout = Layout(fields), out = matrix.out_scale, in = matrix.input->in_scale;
  EXPECT_EQ(parse(layout, matrix.codes, out, in), "");
  std::vector<int32_t> longer = fields, shorter(fields.begin(), fields.begin() + 7);
  longer.push_back(0);
  EXPECT_THAT(parse(Layout(longer), matrix.codes, out, in), testing::HasSubstr("17 numbers"));
  EXPECT_THAT(parse(Layout(shorter), matrix.codes, out, in), testing::HasSubstr("at least 8"));
  EXPECT_THAT(parse(out, matrix.codes, out, in), testing::HasSubstr("expected I32"));
  EXPECT_THAT(parse(layout, in, out, in), testing::HasSubstr("codes: F16"));
  EXPECT_THAT(parse(layout, matrix.codes, in, in), testing::HasSubstr("out_scale: F16 [96]"));
  EXPECT_THAT(parse(layout, matrix.codes, out, out), testing::HasSubstr("in_scale: F16 [200]"));
  EXPECT_THAT(parse(layout, Tensor(), Tensor(), Tensor()), testing::HasSubstr("in_scale"));
  std::vector<uint16_t> halves(200, FloatToHalf(1));
  halves[137] = 0x7C00;
  const Tensor infinite = *Tensor::FromValues<uint16_t>(DType::kF16, {200}, halves);
  EXPECT_THAT(parse(layout, matrix.codes, infinite, in), testing::HasSubstr("index 137"));
  auto result = PackedMatrixFromTensors(layout, matrix.codes, out, nullptr);
  EXPECT_THAT(result.status().message(), testing::HasSubstr("absent"));
}

TEST(PackedMatrix, HugeShapesOverflowNothing) {
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  const PackedMatrix small = RandomMatrix(1, 1, {2, 4}, {2, 4}, 1, 1, 1);
  const std::vector<int32_t> fields = {1, 1, 16, kMax, 1, 1, 1, 1, kMax, 2, 4, 0x3F800000};
  auto result = PackedMatrixFromTensors(Layout(fields), small.codes, small.out_scale, small.input);
  EXPECT_THAT(result.status().message(), testing::HasSubstr("out_scale"));
}

}  // namespace
}  // namespace tq
