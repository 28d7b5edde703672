// The products of a GPU against the plain twin on the CPU, integer by integer. Needs a device:
// skips with a message without one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/trellis_gemv.h"
#include "kernels/trellis_matmul/activations.h"

namespace tq::cuda {
namespace {

using trellis::Code;
using trellis::ShapeOf;

constexpr uint64_t kSeed = 4711;

struct Problem {
  Code code;
  uint64_t n, tile_rows, tiles_across, cols;
  std::vector<uint8_t> tiles;
  std::vector<int16_t> q;  // [n][cols]

  Problem(Code c, uint64_t rows_of_x, uint64_t rows_of_tiles, uint64_t across)
      : code(c), n(rows_of_x), tile_rows(rows_of_tiles), tiles_across(across) {
    cols = tiles_across * ShapeOf(code).columns;
    Random random(kSeed, "problem", tiles_across * 100 + n);
    tiles.resize(tile_rows * tiles_across * ShapeOf(code).bytes());
    for (uint8_t& byte : tiles) byte = static_cast<uint8_t>(random.NextU32());
    q.resize(n * cols);
    for (int16_t& a : q) {
      a = static_cast<int16_t>(static_cast<int>(random.NextBelow(2 * trellis::kMaxActivation + 1)) -
                               trellis::kMaxActivation);
      if (random.NextBelow(4) == 0) a = trellis::kMaxActivation;
    }
  }

  uint64_t padded_rows() const { return tile_rows * ShapeOf(code).rows; }

  // [n][padded_rows], by the plain twin.
  std::vector<int64_t> Expected() const {
    const trellis::MatmulKernels& kernels = FindMatmulKernels(Isa::kReference, code);
    const trellis::TileShape shape = ShapeOf(code);
    std::vector<int64_t> sums(n * padded_rows());
    std::vector<uint8_t> decoded(shape.columns * trellis::kDecodedBytesPerColumn);
    std::vector<uint8_t> panel(shape.columns * sizeof(int16_t));
    for (uint64_t tile = 0; tile < tile_rows * tiles_across; ++tile) {
      const uint64_t row = tile / tiles_across * shape.rows;
      const uint64_t column = tile % tiles_across * shape.columns;
      for (int fragment = 0; fragment < shape.rows / trellis::kFragmentRows; ++fragment) {
        kernels.decode(&tiles[tile * shape.bytes()], 1, fragment, decoded.data());
        for (uint64_t b = 0; b < n; ++b) {
          trellis::FindActivationKernels(Isa::kReference)
              .lay_out(code.values, trellis::ActivationForm::kWords, &q[b * cols + column],
                       shape.columns, panel.data(), 8);
          kernels.multiply[0](decoded.data(), panel.data(), shape.columns / 4,
                              &sums[b * padded_rows() + row + fragment * trellis::kFragmentRows]);
        }
      }
    }
    return sums;
  }

  // [n][stride], of `rows` rows, added to what `sums` holds; `blocks` as chosen if 0.
  std::vector<int64_t> OnDevice(uint64_t rows, uint64_t stride, const std::vector<int64_t>& sums,
                                int blocks) const {
    std::vector<uint8_t> units(CodesBytes(code, tile_rows, cols));
    PackCodes(code, tiles.data(), tile_rows, cols, units.data());
    std::vector<uint8_t> activations(ActivationBytes(code, n, cols));
    PackActivations(code, q.data(), n, cols, activations.data());
    const DeviceCopy<uint8_t> device_units(units), device_activations(activations);
    const DeviceCopy<int64_t> device_sums(sums);
    const GemvProblem problem{code, static_cast<int>(n), UnitsDown(code, tile_rows),
                              UnitsAcross(code, cols)};
    const GemvArgs args{device_units.data(), device_activations.data(), device_sums.data(), rows,
                        stride};
    GemvConfig config = ChooseGemv(problem, {});
    if (blocks > 0) config.blocks = blocks;
    EXPECT_EQ(LaunchGemv(problem, config, args, true, nullptr), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
    return device_sums.Host();
  }
};

class GemvDeviceTest : public testing::TestWithParam<Code> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

TEST_P(GemvDeviceTest, SumsEqualThePlainTwins) {
  for (uint64_t n : {1, 2, 3, 4, 5, 8, 9, 16}) {
    for (uint64_t tiles_across : {1, 7, 8, 9, 33, 100}) {
      const Problem problem(GetParam(), n, n == 1 ? 5 : 3, tiles_across);
      // Padding rows and what lies between rows of sums stay as they were.
      const uint64_t rows = problem.padded_rows() - 5, stride = problem.padded_rows() + 3;
      std::vector<int64_t> before(n * stride);
      for (size_t i = 0; i < before.size(); ++i) before[i] = static_cast<int64_t>(i) * 1'000'003;
      const std::vector<int64_t> expected = problem.Expected();
      // One block too: warps then have many units, in several rows.
      for (int blocks : {0, 1}) {
        const std::vector<int64_t> actual = problem.OnDevice(rows, stride, before, blocks);
        for (uint64_t b = 0; b < n; ++b) {
          for (uint64_t row = 0; row < stride; ++row) {
            const int64_t sum = row < rows ? expected[b * problem.padded_rows() + row] : 0;
            ASSERT_EQ(actual[b * stride + row] - before[b * stride + row], sum)
                << "n " << n << " tiles " << tiles_across << " blocks " << blocks << " x row " << b
                << " row " << row;
          }
        }
      }
    }
  }
}

// Longer than a lane's int32 can add up: the eight warps of a block have 80,000 columns each, where
// random bytes against the largest activations make 80,000 * 510 * 64 = 2.6e9.
TEST_P(GemvDeviceTest, LongRowsDoNotOverflow) {
  const Code code = GetParam();
  if (code.values != 1) GTEST_SKIP() << "other sums are at most half as large";
  Problem problem(code, 1, 1, 640000 / ShapeOf(code).columns);
  std::fill(problem.q.begin(), problem.q.end(), int16_t{trellis::kMaxActivation});
  const uint64_t rows = problem.padded_rows();
  EXPECT_EQ(problem.OnDevice(rows, rows, std::vector<int64_t>(rows), 1), problem.Expected());
}

INSTANTIATE_TEST_SUITE_P(Codes, GemvDeviceTest, testing::ValuesIn(trellis::kMatmulCodes),
                         [](const auto& info) {
                           return fmt::format("V{}_k{}_L{}", info.param.values, info.param.bits,
                                              info.param.state_bits);
                         });

}  // namespace
}  // namespace tq::cuda
