#include "codec/trellis_encoder.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/random.h"
#include "codec/packed_matrix.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

using trellis::Code;
using trellis::TileShape;

constexpr Isa kLevels[] = {Isa::kReference, Isa::kAvx2, Isa::kAvx2Vnni, Isa::kAvx512};

std::string Name(Code code) {
  return fmt::format("V {} k {} L {}", code.values, code.bits, code.state_bits);
}

std::vector<Code> AllCodes() {
  std::vector<Code> codes;
  for (Code code : trellis::kSupportedCodes) {
    for (int state_bits : {16, 12}) codes.push_back({code.values, code.bits, state_bits});
  }
  return codes;
}

// Tiles of a Gaussian source at the code's best scale, in decoded units.
std::vector<float> GaussianTiles(Code code, size_t count, uint64_t seed) {
  Random random(seed, "tiles", count);
  std::vector<float> tiles(count * trellis::ShapeOf(code).values());
  const double unit = trellis::kValueSigma / BestScale(code);
  for (float& value : tiles) value = static_cast<float>(random.NextNormal() * unit);
  return tiles;
}

struct Encoded {
  std::vector<uint8_t> codes;
  std::vector<float> decoded;
  bool operator==(const Encoded&) const = default;
};

Encoded Encode(Code code, const std::vector<float>& tiles, Isa isa = CurrentIsa()) {
  auto encoder = TrellisEncoder::Create(code, isa);
  EXPECT_TRUE(encoder.ok());
  auto scratch = encoder->MakeScratch();
  EXPECT_TRUE(scratch.ok());
  const size_t count = tiles.size() / encoder->shape().values();
  Encoded result{std::vector<uint8_t>(count * encoder->shape().bytes()),
                 std::vector<float>(tiles.size())};
  encoder->Encode(tiles.data(), count, *scratch, result.codes.data(), result.decoded.data());
  return result;
}

double SquaredError(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  }
  return error;
}

TEST(TrellisEncoder, DecodedIsWhatTheBytesDecodeTo) {
  for (Code code : AllCodes()) {
    const TileShape shape = trellis::ShapeOf(code);
    const Encoded encoded = Encode(code, GaussianTiles(code, 5, 1));
    for (int tile = 0; tile < 5; ++tile) {
      for (int step = 0; step < shape.steps(); ++step) {
        int values[4];
        trellis::DecodeState(
            code, trellis::StateAt(encoded.codes.data() + tile * shape.bytes(), code, step),
            values);
        const int lane = step / shape.windows, window = step % shape.windows;
        const float* decoded = encoded.decoded.data() + tile * shape.values() +
                               trellis::TileRow(code, lane, window) * shape.columns +
                               trellis::TileColumn(code, lane, window);
        for (int v = 0; v < code.values; ++v) {
          ASSERT_EQ(decoded[v], static_cast<float>(values[v])) << Name(code) << " step " << step;
        }
      }
    }
  }
}

TEST(TrellisEncoder, EveryLevelMakesTheSameBytes) {
  for (Code code : AllCodes()) {
    // The plain search is slow at L = 16; viterbi_test compares all codes there.
    if (code.state_bits == 16 && code != Code{2, 4}) continue;
    const std::vector<float> tiles = GaussianTiles(code, code.state_bits == 16 ? 1 : 5, 2);
    const Encoded expected = Encode(code, tiles, Isa::kReference);
    for (Isa isa : kLevels) {
      if (IsaSupported(isa)) {
        ASSERT_EQ(Encode(code, tiles, isa).codes, expected.codes) << Name(code) << IsaName(isa);
      }
    }
  }
}

TEST(TrellisEncoder, CallsAndThreadsDoNotChangeTheBytes) {
  for (Code code : {Code{2, 4}, Code{4, 3, 12}, Code{1, 3, 12}}) {
    const size_t count = 11;
    const std::vector<float> tiles = GaussianTiles(code, count, 3);
    const Encoded expected = Encode(code, tiles);
    auto encoder = TrellisEncoder::Create(code);
    auto pool = ThreadPool::Create(3);
    ASSERT_TRUE(encoder.ok() && pool.ok());
    const TileShape shape = encoder->shape();
    Encoded actual{std::vector<uint8_t>(expected.codes.size()), tiles};
    std::vector<TrellisEncoder::Scratch> scratch;
    for (size_t i = 0; i < (*pool)->threads(); ++i) scratch.push_back(*encoder->MakeScratch());
    (*pool)->ParallelFor(count, 2, [&](size_t begin, size_t end, size_t worker) {
      // In place: the decoded values replace the tiles.
      float* values = actual.decoded.data() + begin * shape.values();
      encoder->Encode(values, end - begin, scratch[worker],
                      actual.codes.data() + begin * shape.bytes(), values);
    });
    ASSERT_EQ(actual, expected) << Name(code);
  }
}

TEST(TrellisEncoder, ScratchStaysWithinItsStatedSize) {
  for (Code code : AllCodes()) {
    auto encoder = TrellisEncoder::Create(code);
    ASSERT_TRUE(encoder.ok());
    EXPECT_LE(encoder->MakeScratch()->bytes(), (code.state_bits == 16 ? 9u : 1u) << 20)
        << Name(code);
  }
}

// The same two searches in double precision, without fixed point, for one tile.
class ExactSearch {
 public:
  ExactSearch(Code code, const float* tile) : code_(code), shape_(trellis::ShapeOf(code)) {
    overlaps_ = 1u << (code.state_bits - code.bits);
    targets_.resize(shape_.steps());
    for (int step = 0; step < shape_.steps(); ++step) {
      const int lane = step / shape_.windows, window = step % shape_.windows;
      targets_[step] = tile + trellis::TileRow(code, lane, window) * shape_.columns +
                       trellis::TileColumn(code, lane, window);
    }
    values_.resize(size_t{4} << code.state_bits);
    for (uint32_t state = 0; state < 1u << code.state_bits; ++state) {
      int decoded[4] = {};
      trellis::DecodeState(code, state, decoded);
      for (int v = 0; v < 4; ++v) values_[4 * state + v] = decoded[v];
    }
  }

  // The least squared error of a circular path through the overlap that a free search
  // over `reach` steps on both sides of step 0 prefers.
  double Error(int reach) {
    best_.assign(overlaps_, 0);
    Run(-reach, 2 * reach, true);
    uint32_t q =
        static_cast<uint32_t>(std::min_element(best_.begin(), best_.end()) - best_.begin());
    for (int i = 0; i < reach; ++i) {
      q = (winners_[size_t{1} * i * overlaps_ + q] << (code_.state_bits - code_.bits) | q) >>
          code_.bits;
    }
    best_.assign(overlaps_, 1e300);
    best_[q] = 0;
    Run(0, shape_.steps(), false);
    return best_[q];
  }

 private:
  void Run(int first, int count, bool keep) {
    const int high = code_.state_bits - code_.bits, k = code_.bits;
    if (keep) winners_.resize(size_t{1} * count * overlaps_);
    std::vector<double> next(overlaps_);
    for (int i = count - 1; i >= 0; --i) {
      const float* x = targets_[(first + i + shape_.steps()) % shape_.steps()];
      for (uint32_t q = 0; q < overlaps_; ++q) {
        double least = std::numeric_limits<double>::infinity();
        for (uint32_t j = 0; j < 1u << k; ++j) {
          const uint32_t state = j << high | q;
          double cost = best_[state >> k];
          for (int v = 0; v < code_.values; ++v) {
            const double difference = x[v] - values_[4 * state + v];
            cost += difference * difference;
          }
          if (cost < least) {
            least = cost;
            if (keep) winners_[size_t{1} * i * overlaps_ + q] = static_cast<uint8_t>(j);
          }
        }
        next[q] = least;
      }
      best_.swap(next);
    }
  }

  Code code_;
  TileShape shape_;
  uint32_t overlaps_;
  std::vector<const float*> targets_;
  std::vector<double> values_, best_;
  std::vector<uint32_t> winners_;
};

TEST(TrellisEncoder, IntegerCostsLoseTwoThousandthsAtMost) {
  for (Code code : AllCodes()) {
    const bool small = code.state_bits == 12;
    if (!small && code != Code{2, 4} && code != Code{1, 4}) continue;
    const size_t count = small ? 8 : 3;
    const std::vector<float> tiles = GaussianTiles(code, count, 4);
    const int steps = trellis::ShapeOf(code).steps();
    const int reach = std::min(steps / 2, (10 * code.state_bits + code.bits - 1) / code.bits);
    double exact = 0;
    for (size_t tile = 0; tile < count; ++tile) {
      exact += ExactSearch(code, tiles.data() + tile * tiles.size() / count).Error(reach);
    }
    const double error = SquaredError(tiles, Encode(code, tiles).decoded);
    // From 5 bits on the targets' fixed point shows: in halves a variance of 1/48 of the 18 that
    // 5 bits leave (L = 16), in sixteenths 1/3072 of 0.27 at 8 bits.
    const double most = code.values == 1 && code.bits >= 5 ? 0.002 : 0.001;
    EXPECT_LT(error, (1 + most) * exact) << Name(code);
    EXPECT_GT(error, (1 - most) * exact) << Name(code);
  }
}

// Design section 3, "hash-sum", and above 4 bits docs/quantization.md: the squared error at each
// rate. 8 Ki values scatter by about one percent; bench_codec measures it with more.
TEST(TrellisEncoder, SquaredErrorIsTheDesignsRow) {
  struct Row {
    Code code;
    double error;
  };
  for (const Row& row :
       {Row{{4, 2}, .526}, Row{{2, 3}, .138}, Row{{2, 4}, .0711}, Row{{1, 4}, .0045},
        Row{{1, 5}, .00114}, Row{{1, 6}, .000301}, Row{{1, 8}, .0000211}}) {
    const size_t values = trellis::ShapeOf(row.code).values();
    const std::vector<float> tiles = GaussianTiles(row.code, 8192 / values, 5);
    double power = 0;
    for (float value : tiles) power += static_cast<double>(value) * value;
    const double error = SquaredError(tiles, Encode(row.code, tiles).decoded) / power;
    EXPECT_NEAR(error, row.error, 0.03 * row.error) << Name(row.code);
  }
}

TEST(TrellisEncoder, SurvivesAnyInput) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (Code code : AllCodes()) {
    const size_t values = trellis::ShapeOf(code).values();
    for (float filling : {0.0f, 1e38f, -1e38f, inf, -inf, nan, 1e-40f}) {
      const std::vector<float> tiles(values, filling);
      const Encoded encoded = Encode(code, tiles);
      double error = 0;
      for (float value : encoded.decoded) {
        ASSERT_LE(std::fabs(value), 510);
        error += static_cast<double>(value) * value / static_cast<double>(values);
      }
      // Zero is near some path: far less than the variance of random states.
      if (std::fabs(filling) < 1 || std::isnan(filling)) {
        EXPECT_LT(error, trellis::kValueSigma * trellis::kValueSigma) << Name(code);
      }
    }
  }
}

TEST(TrellisEncoder, EncodedTilesMakeAPackedMatrix) {
  const Code code{2, 3};
  const TileShape shape = trellis::ShapeOf(code);
  const uint64_t rows = 100, cols = 40;  // two tiles down, three across, both padded
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.segments = MakeSegments(rows, cols, code, code, rows);
  const uint64_t down = TileRows(matrix.segments[0]), across = TileColumns(code, cols);
  const Encoded encoded = Encode(code, GaussianTiles(code, down * across, 6));
  matrix.codes = *Tensor::FromBytes(DType::kU8, {encoded.codes.size()}, encoded.codes);
  matrix.segments[0].scale = 1;
  std::vector<float> decoded(rows * cols);
  DecodeRotatedRows(matrix, 0, rows, decoded.data());
  for (uint64_t r = 0; r < rows; ++r) {
    for (uint64_t c = 0; c < cols; ++c) {
      const uint64_t tile = r / shape.rows * across + c / shape.columns;
      ASSERT_EQ(
          decoded[r * cols + c],
          encoded
              .decoded[tile * shape.values() + r % shape.rows * shape.columns + c % shape.columns]);
    }
  }
}

TEST(TrellisEncoder, RefusesUnknownCodes) {
  for (Code code :
       {Code{3, 2}, Code{2, 6}, Code{1, 7}, Code{1, 9}, Code{2, 4, 14}, Code{0, 0}, Code{4, 4}}) {
    auto encoder = TrellisEncoder::Create(code);
    ASSERT_FALSE(encoder.ok());
    EXPECT_NE(encoder.status().message().find(fmt::format("V = {}", code.values)),
              std::string::npos);
  }
}

}  // namespace
}  // namespace tq
