#include "export/exchange_matrices.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/cancel.h"
#include "checkpoint/quote.h"
#include "checkpoint/source_kinds.h"

namespace tq {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr int kAllOfARow = -1;  // group_size in config.json

}  // namespace

bool ExchangeMatrices::Holds(const TensorSpec& spec) { return IsLayerMatrix(spec.name); }

StatusOr<std::unique_ptr<ExchangeMatrices>> ExchangeMatrices::Of(ExchangeFormat format,
                                                                 const std::filesystem::path& model,
                                                                 const WeightRows& weights,
                                                                 Executor& executor,
                                                                 Progress& progress) {
  if (weights.config().num_experts != 0) {
    return Unimplemented("{}: models with experts are not written as {}", model.string(),
                         NameOf(format));
  }
  std::unique_ptr<ExchangeMatrices> all(new ExchangeMatrices(format, model, weights, executor));
  std::vector<TensorSpec> held = ModelTensors(weights.config());
  std::erase_if(held, [](const TensorSpec& spec) { return !Holds(spec); });
  const ProgressStage stage(progress, "check", held.size());
  uint64_t done = 0;
  for (const TensorSpec& spec : held) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    TQ_ASSIGN_OR_RETURN(const GroupedMatrix matrix, all->Load(spec));
    TQ_RETURN_IF_ERROR(all->Add(spec, matrix));
    progress.Update(++done, spec.name);
  }
  for (const TensorSpec& spec : held) TQ_RETURN_IF_ERROR(all->CheckGroups(spec));
  return all;
}

std::string ExchangeMatrices::Where(std::string_view name) const {
  return fmt::format("{}: tensor {}", model_.string(), Quote(name));
}

StatusOr<GroupedMatrix> ExchangeMatrices::Load(const TensorSpec& spec) const {
  TQ_ASSIGN_OR_RETURN(auto matrix, weights_.LoadGrouped(spec));
  if (matrix && matrix->ternary()) {
    return Unimplemented(
        "{} has ternary codes; {} stores grouped codes, which 'tq quantize --method gptq', 'awq' "
        "and 'rtn' make",
        Where(spec.name), NameOf(format_));
  }
  if (matrix) return *std::move(matrix);
  return Unimplemented(
      "{} has no grouped codes, which {} stores; 'tq quantize --method gptq', "
      "'awq' and 'rtn' make them",
      Where(spec.name), NameOf(format_));
}

Status ExchangeMatrices::Add(const TensorSpec& spec, const GroupedMatrix& matrix) {
  const auto shapes = ShapesOf(format_, {matrix.rows, matrix.cols, matrix.bits, matrix.group_size});
  if (!shapes.ok()) return shapes.status().WithContext(Where(spec.name));
  if (bits_ != 0 && bits_ != matrix.bits) {
    return Unimplemented("{} has {} bits, others have {}: {} has one width for all",
                         Where(spec.name), matrix.bits, bits_, NameOf(format_));
  }
  bits_ = matrix.bits;
  if (matrix.groups() > 1) {
    if (group_size_ && group_size_ != matrix.group_size) {
      return Unimplemented("{} has groups of {}, others of {}: {} has one size for all",
                           Where(spec.name), matrix.group_size, *group_size_, NameOf(format_));
    }
    group_size_ = matrix.group_size;
  } else {
    longest_group_ = std::max(longest_group_, matrix.cols);
  }
  symmetric_ = symmetric_ && matrix.zeros == ZeroKind::kSymmetric;
  ordered_ = ordered_ || matrix.ordered;
  return OkStatus();
}

// Readers cut all rows into groups of group_size_ (the last may be shorter, but for AutoAWQ).
Status ExchangeMatrices::CheckGroups(const TensorSpec& spec) const {
  if (!group_size_) return OkStatus();
  const uint64_t cols = spec.shape[1];
  if (format_ == ExchangeFormat::kAwq && cols % *group_size_ != 0) {
    return Unimplemented("{} has rows of {}, which groups of {} do not divide: {} has no others",
                         Where(spec.name), cols, *group_size_, NameOf(format_));
  }
  if (longest_group_ > *group_size_) {
    return Unimplemented("{}: groups of {} and rows of {} that are one group: {} has one size",
                         model_.string(), *group_size_, longest_group_, NameOf(format_));
  }
  return OkStatus();
}

ExchangeSizes ExchangeMatrices::SizesOf(const TensorSpec& spec) const {
  const uint64_t cols = spec.shape[1];
  const uint64_t group_size = group_size_ ? std::min<uint64_t>(*group_size_, cols) : cols;
  return {spec.shape[0], cols, bits_, static_cast<uint32_t>(group_size)};
}

Status ExchangeMatrices::Convert(const TensorSpec& spec, const std::function<void()>& converted) {
  if (converted_ == spec.name) return OkStatus();
  converted_.clear();
  TQ_ASSIGN_OR_RETURN(const GroupedMatrix matrix, Load(spec));
  auto tensors = ToExchange(format_, matrix, executor_);
  matrix.codes.DropPages(0, matrix.codes.num_bytes());  // if they lie in a map
  if (!tensors.ok()) return tensors.status().WithContext(Where(spec.name));
  tensors_ = *std::move(tensors);
  converted_ = spec.name;
  converted();
  return OkStatus();
}

StatusOr<std::vector<OutputTensor>> ExchangeMatrices::TensorsOf(const TensorSpec& spec,
                                                                std::function<void()> converted) {
  TQ_ASSIGN_OR_RETURN(const ExchangeShapes shapes, ShapesOf(format_, SizesOf(spec)));
  const std::string stem = spec.name.substr(0, spec.name.size() - kWeight.size());
  std::vector<OutputTensor> outputs;
  const auto add = [&](const char* part, DType dtype, const Shape& shape,
                       Tensor ExchangeTensors::*member) {
    const auto stream = [this, spec, converted, member](const ByteSink& sink) -> Status {
      TQ_RETURN_IF_ERROR(CheckCancelled());
      TQ_RETURN_IF_ERROR(Convert(spec, converted));
      const Tensor& tensor = tensors_.*member;
      return sink({tensor.data(), tensor.num_bytes()});
    };
    outputs.push_back(
        {fmt::format("{}.{}", stem, part), Tensor({dtype, shape, nullptr}, nullptr), stream});
  };
  add("qweight", DType::kI32, shapes.qweight, &ExchangeTensors::qweight);
  add("qzeros", DType::kI32, shapes.qzeros, &ExchangeTensors::qzeros);
  add("scales", DType::kF16, shapes.scales, &ExchangeTensors::scales);
  if (format_ != ExchangeFormat::kAwq) {
    add("g_idx", DType::kI32, shapes.g_idx, &ExchangeTensors::g_idx);
  }
  return outputs;
}

nlohmann::ordered_json ExchangeMatrices::QuantizationConfig() const {
  const int64_t group_size = group_size_ ? int64_t{*group_size_} : kAllOfARow;
  if (format_ == ExchangeFormat::kAwq) {
    return {{"quant_method", "awq"}, {"bits", bits_},     {"group_size", group_size},
            {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", nullptr}};
  }
  return {{"quant_method", "gptq"},
          {"bits", bits_},
          {"group_size", group_size},
          {"desc_act", ordered_},
          {"sym", symmetric_},
          {"lm_head", false},
          {"checkpoint_format", NameOf(format_)}};
}

}  // namespace tq
