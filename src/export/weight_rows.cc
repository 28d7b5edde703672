#include "export/weight_rows.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "base/cancel.h"
#include "base/checked.h"
#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"
#include "checkpoint/source_kinds.h"

namespace tq {
namespace {

class SourceRows final : public WeightRows {
 public:
  explicit SourceRows(std::unique_ptr<ModelSource> source) : source_(std::move(source)) {}

  const ModelConfig& config() const override { return source_->config(); }
  const GgufFile* gguf() const override { return source_->gguf(); }
  StatusOr<uint64_t> RowBlock(const TensorSpec&) const override { return uint64_t{1}; }

  Status Read(const TensorSpec& spec, uint64_t begin, uint64_t end, Executor&,
              float* out) const override {
    if (spec.shape.size() == 1) {
      TQ_ASSIGN_OR_RETURN(const Tensor tensor, source_->LoadFloat(spec.name));
      std::memcpy(out, tensor.data(), tensor.num_bytes());
      return OkStatus();
    }
    std::vector<int32_t> rows(end - begin);
    std::iota(rows.begin(), rows.end(), static_cast<int32_t>(begin));
    return source_->LoadRows(spec.name, rows, out);
  }

  StatusOr<std::optional<GroupedMatrix>> LoadGrouped(const TensorSpec& spec) const override {
    TQ_ASSIGN_OR_RETURN(const auto coded, source_->LoadCoded(spec.name, ternary::Packing::k2Bits));
    if (!coded || !std::holds_alternative<GroupedMatrix>(*coded)) {
      return std::optional<GroupedMatrix>();
    }
    return std::optional(std::get<GroupedMatrix>(*coded));
  }

 private:
  std::unique_ptr<ModelSource> source_;
};

class PackedRows final : public WeightRows {
 public:
  explicit PackedRows(std::unique_ptr<PackedModel> model) : model_(std::move(model)) {}

  const ModelConfig& config() const override { return model_->config(); }
  const GgufFile* gguf() const override { return nullptr; }

  StatusOr<uint64_t> RowBlock(const TensorSpec& spec) const override {
    if (!spec.is_coded()) return uint64_t{1};
    TQ_ASSIGN_OR_RETURN(const StoredMatrix* matrix, Matrix(spec));
    const auto* packed = std::get_if<PackedMatrix>(matrix);
    return packed == nullptr ? uint64_t{1} : uint64_t{packed->out_block};
  }

  Status Read(const TensorSpec& spec, uint64_t begin, uint64_t end, Executor& executor,
              float* out) const override {
    if (!spec.is_coded()) {
      TQ_ASSIGN_OR_RETURN(const Tensor tensor, model_->LoadFloat(spec.name));
      const uint64_t cols = ExtentOf(spec).cols;
      std::memcpy(out, tensor.as<float>() + begin * cols, (end - begin) * cols * sizeof(float));
      return OkStatus();
    }
    TQ_RETURN_IF_ERROR(model_->VerifyFiles());
    TQ_ASSIGN_OR_RETURN(const StoredMatrix* matrix, Matrix(spec));
    if (const auto* packed = std::get_if<PackedMatrix>(matrix)) {
      DecodeDenseRows(*packed, begin, end, executor, out);
    } else {
      DecodeRows(std::get<GroupedMatrix>(*matrix), begin, end, out);
    }
    if (end == spec.shape[0]) {
      std::visit([](const auto& m) { m.codes.DropPages(0, m.codes.num_bytes()); }, *matrix);
    }
    // Scales are finite, but their products need not be.
    return CheckFinite(out, (end - begin) * spec.shape[1], model_->path(), spec.name)
        .WithContext(fmt::format("rows from {}", begin));
  }

  StatusOr<std::optional<GroupedMatrix>> LoadGrouped(const TensorSpec& spec) const override {
    TQ_RETURN_IF_ERROR(model_->VerifyFiles());
    TQ_ASSIGN_OR_RETURN(const StoredMatrix* matrix, Matrix(spec));
    const auto* grouped = std::get_if<GroupedMatrix>(matrix);
    return grouped == nullptr ? std::nullopt : std::optional(*grouped);
  }

 private:
  StatusOr<const StoredMatrix*> Matrix(const TensorSpec& spec) const {
    constexpr std::string_view kWeight = ".weight";
    const std::string_view name = spec.name;
    return model_->Matrix(name.substr(0, name.size() - kWeight.size()));
  }

  std::unique_ptr<PackedModel> model_;
};

}  // namespace

StatusOr<std::unique_ptr<WeightRows>> WeightRows::Open(const std::filesystem::path& path) {
  TQ_ASSIGN_OR_RETURN(const ModelKind kind, DetectModelKind(path));
  if (kind == ModelKind::kPacked) {
    TQ_ASSIGN_OR_RETURN(auto model, PackedModel::Open(path));
    return std::unique_ptr<WeightRows>(std::make_unique<PackedRows>(std::move(model)));
  }
  TQ_ASSIGN_OR_RETURN(auto source, ModelSource::Open(path));
  return std::unique_ptr<WeightRows>(std::make_unique<SourceRows>(std::move(source)));
}

Extent ExtentOf(const TensorSpec& spec) {
  TQ_CHECK(spec.shape.size() == 1 || spec.shape.size() == 2);
  return {spec.shape.size() == 2 ? spec.shape[0] : 1, spec.shape.back()};
}

uint64_t NumParameters(const ModelConfig& config) {
  uint64_t total = 0;
  for (const TensorSpec& spec : ModelTensors(config)) {
    const Extent extent = ExtentOf(spec);
    total += extent.rows * extent.cols;
  }
  return total;
}

Status ForEachRowBlock(const WeightRows& weights, const TensorSpec& spec, uint64_t multiple,
                       Executor& executor, const RowConsumer& consume, uint64_t block_bytes) {
  const Extent extent = ExtentOf(spec);
  TQ_ASSIGN_OR_RETURN(const uint64_t block, weights.RowBlock(spec));
  const uint64_t unit = std::lcm(block, multiple);
  TQ_CHECK(unit > 0 && extent.cols > 0);
  const uint64_t units = std::max<uint64_t>(1, block_bytes / (unit * extent.cols * sizeof(float)));
  const uint64_t step = std::min(extent.rows, unit * units);
  TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(step * extent.cols * sizeof(float), spec.name));
  auto* rows = reinterpret_cast<float*>(memory.get());
  for (uint64_t begin = 0; begin < extent.rows; begin += step) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    const uint64_t end = std::min(extent.rows, begin + step);
    TQ_RETURN_IF_ERROR(weights.Read(spec, begin, end, executor, rows));
    TQ_RETURN_IF_ERROR(consume(rows, begin, end));
  }
  return OkStatus();
}

}  // namespace tq
