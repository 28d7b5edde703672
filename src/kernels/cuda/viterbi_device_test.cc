// The search on a GPU against the processor's: the same paths. Needs a device.
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "base/random.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/viterbi.h"
#include "kernels/viterbi/viterbi.h"

namespace tq::cuda {
namespace {

using trellis::Code;

struct Problem {
  Code code;
  int steps, reach;
  uint64_t tiles;
  std::vector<int32_t> targets;

  Problem(Code code, int steps, int reach, uint64_t tiles, float sigma)
      : code(code), steps(steps), reach(reach), tiles(tiles) {
    Random random(77, "targets", tiles);
    targets.resize(tiles * static_cast<uint64_t>(steps * viterbi::Words(code.values)));
    for (size_t n = 0; n < tiles * static_cast<uint64_t>(steps); ++n) {
      float x[4];
      for (float& value : x) value = sigma * static_cast<float>(random.NextNormal());
      if (n % 97 == 0) x[0] = std::numeric_limits<float>::infinity();
      viterbi::QuantizeTarget(code, x, &targets[n * viterbi::Words(code.values)]);
    }
  }
  std::vector<uint16_t> OnProcessor() const {
    std::vector<int32_t> table(viterbi::TableSize(code));
    viterbi::FillTable(code, table.data());
    std::vector<uint16_t> states(tiles * static_cast<uint64_t>(steps));
    const size_t bytes = (viterbi::ScratchBytes(code, steps, CurrentIsa()) + 63) / 64 * 64;
    const std::unique_ptr<uint8_t, decltype(&std::free)> scratch(
        static_cast<uint8_t*>(std::aligned_alloc(64, bytes)), &std::free);
    viterbi::FindPaths({code, steps, reach, table.data(), targets.data(), static_cast<int>(tiles),
                        states.data(), scratch.get()},
                       CurrentIsa());
    return states;
  }
  // `multiprocessors`: as if the device had so many, which decides about tiles together.
  std::vector<uint16_t> OnDevice(int multiprocessors) const {
    DeviceShape shape;
    shape.multiprocessors = multiprocessors;
    const ViterbiConfig config = ChooseViterbi(code, steps, tiles, shape, 227 << 10);
    EXPECT_GT(config.together, 0);
    const DeviceCopy<int32_t> device_targets(targets);
    const DeviceCopy<uint16_t> states(
        std::vector<uint16_t>(tiles * static_cast<uint64_t>(steps), 0xffff));
    const DeviceCopy<uint8_t> scratch(std::vector<uint8_t>(config.scratch_bytes, 0xee));
    const ViterbiArgs args{code,          steps,         reach, tiles, device_targets.data(),
                           states.data(), scratch.data()};
    EXPECT_EQ(LaunchViterbi(args, config, nullptr), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return states.Host();
  }
};

class ViterbiDeviceTest : public testing::TestWithParam<Code> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

TEST_P(ViterbiDeviceTest, PathsAreTheProcessors) {
  const Code code = GetParam();
  for (const auto& [steps, reach] : {std::pair(32, 16), std::pair(130, 40)}) {
    for (uint64_t tiles : {1, 5, 9}) {
      const Problem problem(code, steps, reach, tiles, 150);
      const std::vector<uint16_t> expected = problem.OnProcessor();
      for (int multiprocessors : {1, 2, 132}) {
        EXPECT_EQ(problem.OnDevice(multiprocessors), expected)
            << steps << " steps, " << tiles << " tiles, " << multiprocessors;
      }
    }
  }
}

std::vector<Code> Codes() {
  std::vector<Code> codes;
  for (Code code : trellis::kSupportedCodes) {
    if (!HasViterbi(code)) continue;
    for (int state_bits : {12, 16}) codes.push_back({code.values, code.bits, state_bits});
  }
  return codes;
}
INSTANTIATE_TEST_SUITE_P(Codes, ViterbiDeviceTest, testing::ValuesIn(Codes()),
                         [](const auto& info) {
                           return fmt::format("V{}_k{}_L{}", info.param.values, info.param.bits,
                                              info.param.state_bits);
                         });

}  // namespace
}  // namespace tq::cuda
