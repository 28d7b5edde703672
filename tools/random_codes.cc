#include "random_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "base/random.h"
#include "codec/rotation.h"

namespace tq {
namespace {

constexpr uint64_t kSeed = 1;
constexpr uint32_t kLargestBlock = 128;

Tensor Signs(uint64_t n, Random& random) {
  Tensor tensor = *Tensor::Zeros(DType::kF16, {n});
  for (uint64_t i = 0; i < n; ++i) {
    tensor.mutable_as<uint16_t>()[i] = random.NextSign() < 0 ? 0xbc00 : 0x3c00;
  }
  return tensor;
}

StatusOr<PackedMatrix> RandomMatrix(const TensorSpec& spec, const std::string& name,
                                    trellis::Code code,
                                    std::shared_ptr<const InputTransform> input) {
  Random random(kSeed, name);
  PackedMatrix matrix;
  matrix.rows = spec.shape[0];
  matrix.cols = spec.shape[1];
  // Rows of a vocabulary stand alone.
  matrix.out_block = GroupName(name) == name ? 1 : LargestHadamardOrder(matrix.rows, kLargestBlock);
  matrix.segments = MakeSegments(matrix.rows, matrix.cols, code, code, matrix.rows);
  // Outputs have the size of inputs.
  matrix.segments[0].scale =
      static_cast<float>(1 / (trellis::kValueSigma * std::sqrt(static_cast<double>(matrix.cols))));
  const uint64_t bytes = SegmentBytes(matrix.segments[0], matrix.cols);
  TQ_ASSIGN_OR_RETURN(matrix.codes, Tensor::Zeros(DType::kU8, {bytes}));
  for (uint64_t i = 0; i < bytes; i += sizeof(uint64_t)) {
    const uint64_t word = random.NextU64();
    std::memcpy(matrix.codes.mutable_data() + i, &word, std::min(sizeof(word), bytes - i));
  }
  matrix.out_scale = Signs(matrix.rows, random);
  matrix.input = std::move(input);
  return matrix;
}

}  // namespace

Status WriteRandomCodes(const std::filesystem::path& folder, double rate,
                        PackedModelContents contents) {
  const auto* code =
      std::find_if(std::begin(trellis::kNativeCodes), std::end(trellis::kNativeCodes),
                   [&](trellis::Code c) { return c.rate() == rate; });
  if (code == std::end(trellis::kNativeCodes)) {
    return InvalidArgument("--random-codes {}: no code has this rate", rate);
  }
  contents.method = "trellis";
  std::string group;
  std::shared_ptr<const InputTransform> input;
  for (const TensorSpec& spec : ModelTensors(contents.config)) {
    if (spec.shape.size() == 1) {
      TQ_ASSIGN_OR_RETURN(Tensor ones, Tensor::Zeros(DType::kF32, spec.shape));
      std::fill_n(ones.mutable_as<float>(), spec.shape[0], 1.0f);
      contents.tensors.push_back({spec.name, std::move(ones)});
      continue;
    }
    const std::string name = spec.name.substr(0, spec.name.rfind('.'));
    if (GroupName(name) != group) {
      group = GroupName(name);
      Random random(kSeed, group);
      input = std::make_shared<InputTransform>(InputTransform{
          Signs(spec.shape[1], random), LargestHadamardOrder(spec.shape[1], kLargestBlock)});
      AppendInputScale(group, *input, &contents.tensors);
    }
    TQ_ASSIGN_OR_RETURN(PackedMatrix matrix, RandomMatrix(spec, name, *code, input));
    TQ_RETURN_IF_ERROR(AppendMatrix(name, matrix, &contents.tensors));
  }
  return WritePackedModel(folder, "", std::move(contents));
}

}  // namespace tq
