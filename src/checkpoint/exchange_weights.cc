// Grouped matrices of Hugging Face directories in the layouts of AutoGPTQ, GPTQModel and AutoAWQ:
// a weight X.weight is X.qweight, X.qzeros, X.scales and, of GPTQ, X.g_idx.
#include <fmt/format.h>

#include <optional>
#include <utility>

#include "checkpoint/coded_weights.h"
#include "checkpoint/plain_weights.h"
#include "checkpoint/quote.h"
#include "checkpoint/source_kinds.h"
#include "codec/exchange_layout.h"

namespace tq {
namespace {

constexpr std::string_view kWeight = ".weight";

// "....up_proj.weight", "qweight" -> "....up_proj.qweight".
std::string PartName(std::string_view weight, std::string_view part) {
  return fmt::format("{}.{}", weight.substr(0, weight.size() - kWeight.size()), part);
}

class ExchangeWeights final : public CodedWeights {
 public:
  ExchangeWeights(const ExchangeQuantization& quantization, const SafetensorsDirectory& directory)
      : quantization_(quantization), directory_(directory) {}

  MatrixForm form() const override { return MatrixForm::kGrouped; }

  // Projections that were left as floats have a plain weight.
  bool Holds(std::string_view name) const override {
    if (!IsLayerMatrix(name)) return false;
    return directory_.Find(PartName(name, "qweight")) != nullptr ||
           directory_.Find(name) == nullptr;
  }

  StatusOr<Description> Describe(const TensorSpec& spec) const override {
    const ExchangeSizes sizes = quantization_.SizesOf(spec.shape);
    const auto shapes = ShapesOf(quantization_.format, sizes);
    if (!shapes.ok()) {
      return shapes.status().WithContext(
          fmt::format("{}: tensor {}", directory_.folder().string(), Quote(spec.name)));
    }
    Description description;
    description.info = {
        spec.name,
        fmt::format("{} {} bits / {}", NameOf(quantization_.format), sizes.bits, sizes.group_size),
        spec.shape};
    // `other`: a type that will do as well.
    const auto add = [&](std::string_view part, DType dtype, const Shape& shape,
                         std::optional<DType> other = std::nullopt) -> Status {
      const std::string name = PartName(spec.name, part);
      TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* entry, FindWeight(directory_, name));
      if ((entry->dtype != dtype && entry->dtype != other) || entry->shape != shape) {
        const std::string types = other
                                      ? fmt::format("{} or {}", DTypeName(*other), DTypeName(dtype))
                                      : std::string(DTypeName(dtype));
        return InvalidArgument("{} is {} {}, of a matrix of {} it must be {} {}",
                               PlaceOf(directory_, name), DTypeName(entry->dtype),
                               ShapeToString(entry->shape), ShapeToString(spec.shape), types,
                               ShapeToString(shape));
      }
      description.info.bytes += entry->bytes;
      description.tensors.push_back(name);
      return OkStatus();
    };
    TQ_RETURN_IF_ERROR(add("qweight", DType::kI32, shapes->qweight));
    TQ_RETURN_IF_ERROR(add("qzeros", DType::kI32, shapes->qzeros));
    TQ_RETURN_IF_ERROR(add("scales", DType::kF16, shapes->scales, DType::kBF16));
    if (HasOrder(spec.name)) TQ_RETURN_IF_ERROR(add("g_idx", DType::kI32, shapes->g_idx));
    return description;
  }

  StatusOr<CodedMatrix> Load(const SourceTensorInfo& info, ternary::Packing) const override {
    const auto copy = [&](std::string_view part) {
      return directory_.Copy(PartName(info.name, part));
    };
    ExchangeTensors tensors;
    TQ_ASSIGN_OR_RETURN(tensors.qweight, copy("qweight"));
    TQ_ASSIGN_OR_RETURN(tensors.qzeros, copy("qzeros"));
    TQ_ASSIGN_OR_RETURN(tensors.scales, copy("scales"));
    if (HasOrder(info.name)) {
      TQ_ASSIGN_OR_RETURN(tensors.g_idx, copy("g_idx"));
    }
    InlineExecutor executor;
    auto matrix =
        FromExchange(quantization_.format, quantization_.SizesOf(info.shape), tensors, executor);
    const auto where = [&] {
      const std::string path =
          directory_.FileOf(PartName(info.name, "qweight"))->file().path().string();
      return fmt::format("{}: tensor {}", path, Quote(info.name));
    };
    if (!matrix.ok()) return matrix.status().WithContext(where());
    // Kernels of some programs go by the field and those of others by g_idx.
    if (matrix->ordered && quantization_.ordered == false) {
      return Unimplemented("{}: g_idx orders the inputs, though 'desc_act' is false", where());
    }
    // So shows itself, of symmetric ones, a checkpoint_format whose zeros are off by one.
    if (quantization_.symmetric == true && matrix->zeros != ZeroKind::kSymmetric) {
      const bool awq = quantization_.format == ExchangeFormat::kAwq;
      return Unimplemented("{}: zeros are not 2^(bits - 1), though {}", where(),
                           awq ? "'zero_point' is false" : "'sym' is true");
    }
    return CodedMatrix(*std::move(matrix));
  }

  Status Hash(const SourceTensorInfo& info, Hasher& hasher) const override {
    for (const std::string_view part : {"qweight", "qzeros", "scales", "g_idx"}) {
      const std::string name = PartName(info.name, part);
      const SafetensorsEntry* entry = directory_.Find(name);
      if (entry == nullptr) continue;
      hasher.UpdateString(part);
      hasher.UpdateString(DTypeName(entry->dtype));
      TQ_RETURN_IF_ERROR(
          HashFileRange(directory_.FileOf(name)->file(), entry->offset, entry->bytes, hasher));
    }
    return OkStatus();
  }

 private:
  // Old files of GPTQ without an order have no g_idx either.
  bool HasOrder(std::string_view name) const {
    if (quantization_.format == ExchangeFormat::kAwq) return false;
    return quantization_.ordered == true || directory_.Find(PartName(name, "g_idx")) != nullptr;
  }

  const ExchangeQuantization quantization_;
  const SafetensorsDirectory& directory_;
};

}  // namespace

std::unique_ptr<CodedWeights> MakeExchangeWeights(const ExchangeQuantization& quantization,
                                                  const SafetensorsDirectory& directory) {
  return std::make_unique<ExchangeWeights>(quantization, directory);
}

}  // namespace tq
