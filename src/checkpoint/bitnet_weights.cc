// Ternary matrices of Hugging Face directories: packed with a factor, or floats that are rounded.
#include <cmath>
#include <utility>

#include "checkpoint/coded_weights.h"
#include "checkpoint/plain_weights.h"
#include "checkpoint/quote.h"
#include "checkpoint/source_kinds.h"

namespace tq {
namespace {

// Of the factor of a packed matrix.
std::string ScaleName(std::string_view name) { return std::string(name) + "_scale"; }

class BitNetWeights final : public CodedWeights {
 public:
  BitNetWeights(const BitNetQuantization& quantization, const SafetensorsDirectory& directory)
      : quantization_(quantization), directory_(directory) {}

  MatrixForm form() const override { return MatrixForm::kTernary; }
  bool Holds(std::string_view name) const override { return quantization_.Holds(name); }

  StatusOr<Description> Describe(const TensorSpec& spec) const override {
    if (quantization_.packed) return DescribePacked(spec);
    TQ_ASSIGN_OR_RETURN(SourceTensorInfo info, DescribePlainWeight(directory_, spec));
    return Description{std::move(info), {spec.name}};
  }

  StatusOr<CodedMatrix> Load(const SourceTensorInfo& info,
                             ternary::Packing packing) const override {
    auto matrix = quantization_.packed ? Repack(info.name, packing) : Round(info.name, packing);
    if (!matrix.ok()) return matrix.status();
    return CodedMatrix(*std::move(matrix));
  }

  Status Hash(const SourceTensorInfo& info, Hasher& hasher) const override {
    hasher.UpdateString("ternary");
    TQ_ASSIGN_OR_RETURN(const float scale, quantization_.packed ? LoadScale(info.name) : 1.0f);
    hasher.Update(&scale, sizeof(scale));
    hasher.UpdateString(quantization_.scale == WeightScale::kDivides ? "divides" : "multiplies");
    const SafetensorsEntry& entry = *directory_.Find(info.name);
    return HashFileRange(directory_.FileOf(info.name)->file(), entry.offset, entry.bytes, hasher);
  }

 private:
  // A matrix of four rows in one, and its factor, which is read here.
  StatusOr<Description> DescribePacked(const TensorSpec& spec) const {
    TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* entry, FindWeight(directory_, spec.name));
    constexpr uint64_t kRowsInOne = 4;
    const uint64_t rows = spec.shape[0], cols = spec.shape[1];
    if (rows % kRowsInOne != 0) {
      return InvalidArgument(
          "{} has {} rows, which no packed weights have: they are multiples of {}",
          PlaceOf(directory_, spec.name), rows, kRowsInOne);
    }
    if (const Shape packed{rows / kRowsInOne, cols};
        entry->dtype != DType::kU8 || entry->shape != packed) {
      return InvalidArgument("{} is {} {}, packed weights of {} are U8 {}",
                             PlaceOf(directory_, spec.name), DTypeName(entry->dtype),
                             ShapeToString(entry->shape), ShapeToString(spec.shape),
                             ShapeToString(packed));
    }
    const std::string scale_name = ScaleName(spec.name);
    TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* scale, FindWeight(directory_, scale_name));
    if (!IsWeightType(scale->dtype) || scale->shape != Shape{1}) {
      return InvalidArgument("{} is {} {}, it must be one number: F32, F16 or BF16 [1]",
                             PlaceOf(directory_, scale_name), DTypeName(scale->dtype),
                             ShapeToString(scale->shape));
    }
    TQ_RETURN_IF_ERROR(LoadScale(spec.name).status());
    return Description{
        {spec.name, std::string(DTypeName(entry->dtype)), spec.shape, entry->bytes + scale->bytes},
        {spec.name, scale_name}};
  }

  // The factor of a packed matrix: one positive number.
  StatusOr<float> LoadScale(std::string_view name) const {
    const std::string scale_name = ScaleName(name);
    TQ_ASSIGN_OR_RETURN(const Tensor stored, directory_.Copy(scale_name));
    float scale;
    TQ_RETURN_IF_ERROR(ConvertToFloat(stored.view(), &scale));
    if (std::isfinite(scale) && scale > 0) return scale;
    return DataLoss("{} holds {}, it must be positive and finite", PlaceOf(directory_, scale_name),
                    scale);
  }

  StatusOr<TernaryMatrix> Repack(std::string_view name, ternary::Packing packing) const {
    TQ_ASSIGN_OR_RETURN(const float scale, LoadScale(name));
    TQ_ASSIGN_OR_RETURN(const Tensor codes, directory_.Copy(name));
    InlineExecutor executor;
    auto matrix =
        TernaryMatrixFromBitNet(packing, codes.view(), scale, quantization_.scale, executor);
    if (!matrix.ok()) return matrix.status().WithContext(PlaceOf(directory_, name));
    return matrix;
  }

  StatusOr<TernaryMatrix> Round(std::string_view name, ternary::Packing packing) const {
    TQ_ASSIGN_OR_RETURN(const Tensor floats, LoadPlainWeight(directory_, name));
    InlineExecutor executor;
    auto matrix = TernaryMatrixFromFloats(packing, floats.as<float>(), floats.shape()[0],
                                          floats.shape()[1], executor);
    if (!matrix.ok()) return matrix.status().WithContext(PlaceOf(directory_, name));
    return matrix;
  }

  const BitNetQuantization quantization_;
  const SafetensorsDirectory& directory_;
};

}  // namespace

std::unique_ptr<CodedWeights> MakeBitNetWeights(const BitNetQuantization& quantization,
                                                const SafetensorsDirectory& directory) {
  return std::make_unique<BitNetWeights>(quantization, directory);
}

}  // namespace tq
