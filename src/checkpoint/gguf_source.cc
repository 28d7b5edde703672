// ModelSource over a GGUF file.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "checkpoint/architectures/architecture.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_names.h"
#include "checkpoint/quote.h"
#include "checkpoint/source_kinds.h"

namespace tq {
namespace {

// `in`: rows in GGUF's order; `out`: in Hugging Face's.
void ReorderRows(const float* in, uint64_t rows, uint64_t cols, uint64_t head_dim, float* out) {
  for (uint64_t row = 0; row < rows; ++row) {
    std::memcpy(out + row * cols, in + GgufRow(row, head_dim) * cols, cols * sizeof(float));
  }
}

// The one magnitude of a row of values that are -scale, 0 and scale (0: all are 0), and which of
// them they are; nothing if there are others.
std::optional<float> SplitTernaryRow(const float* row, uint64_t cols, int8_t* trits) {
  float scale = 0;
  for (uint64_t i = 0; i < cols; ++i) scale = std::max(scale, std::fabs(row[i]));
  for (uint64_t i = 0; i < cols; ++i) {
    if (row[i] != 0 && std::fabs(row[i]) != scale) return std::nullopt;
    trits[i] = static_cast<int8_t>((row[i] > 0) - (row[i] < 0));
  }
  return scale;
}

// Scales of rows of zeros, which may be any, become another row's; equal ones become one.
void UniteScales(std::vector<float>& scales) {
  const auto some = std::find_if(scales.begin(), scales.end(), [](float s) { return s != 0; });
  const float scale = some == scales.end() ? 1 : *some;
  std::replace(scales.begin(), scales.end(), 0.0f, scale);
  if (std::all_of(scales.begin(), scales.end(), [&](float s) { return s == scale; })) {
    scales.resize(1);
  }
}

class GgufSource final : public ModelSource {
 public:
  Status Init(const std::filesystem::path& path) {
    path_ = path;
    TQ_ASSIGN_OR_RETURN(file_, GgufFile::Open(path));
    TQ_ASSIGN_OR_RETURN(config_, ModelConfigFromGguf(*file_));
    std::set<std::string> wanted;
    for (const TensorSpec& spec : ModelTensors(config_)) {
      TQ_RETURN_IF_ERROR(AddTensor(spec));
      wanted.insert(GgufTensorName(spec.name, config_));
    }
    const bool rope_factors = FindArchitecture(config_.architecture)->gguf_rope_factors;
    for (const GgufTensor& tensor : file_->tensors()) {
      const bool in_config = rope_factors && tensor.name == kGgufRopeFactors;
      if (!wanted.contains(tensor.name) && !in_config) {
        return Unimplemented("{}: tensor {} has no place in a model of architecture {}",
                             path_.string(), Quote(tensor.name), config_.architecture);
      }
    }
    return OkStatus();
  }

  ModelKind kind() const override { return ModelKind::kGguf; }
  const GgufFile* gguf() const override { return file_.get(); }

  StatusOr<Tensor> LoadFloat(std::string_view name) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    const GgufTensor stored = Stored(name);
    TQ_ASSIGN_OR_RETURN(Tensor tensor, file_->LoadFloat(stored));
    TQ_RETURN_IF_ERROR(CheckBlocks(name, stored, tensor.as<float>(), tensor.num_elements()));
    if (HasRotaryRows(name, config_)) {
      TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(tensor.num_bytes(), name));
      ReorderRows(tensor.as<float>(), info->shape[0], info->shape[1], config_.head_dim,
                  reinterpret_cast<float*>(memory.get()));
      const uint8_t* data = memory.get();
      tensor = Tensor({DType::kF32, info->shape, data}, std::move(memory));
    }
    if (config_.norm_plus_one && IsGgufNorm(name)) {
      // llama.cpp stores what norms multiply by.
      float* values = tensor.mutable_as<float>();
      for (uint64_t i = 0; i < tensor.num_elements(); ++i) values[i] -= 1;
    }
    return tensor;
  }

  Status LoadRows(std::string_view name, std::span<const int32_t> rows, float* out) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    TQ_ASSIGN_OR_RETURN(const uint64_t columns, CheckRows(name, info->shape, rows));
    const GgufTensor tensor = Stored(name);
    const bool reordered = HasRotaryRows(name, config_);
    for (const int32_t row : rows) {
      const auto at = static_cast<uint64_t>(row);
      const uint64_t stored = reordered ? GgufRow(at, config_.head_dim) : at;
      TQ_RETURN_IF_ERROR(file_->LoadRow(tensor, stored, out));
      TQ_RETURN_IF_ERROR(
          CheckBlocks(name, tensor, out, columns).WithContext(fmt::format("row {}", row)));
      out += columns;
    }
    return OkStatus();
  }

  StatusOr<MatrixForm> FormOf(std::string_view name) const override {
    TQ_ASSIGN_OR_RETURN(const auto matrix, LoadCoded(name, ternary::Packing::k2Bits));
    return matrix ? MatrixForm::kTernary : MatrixForm::kFloats;
  }

  StatusOr<std::optional<CodedMatrix>> LoadCoded(std::string_view name,
                                                 ternary::Packing packing) const override {
    const SourceTensorInfo* info = Find(name);
    // Layers with experts run in floating point.
    if (info == nullptr || !IsLayerMatrix(name) || config_.num_experts != 0) {
      return std::optional<CodedMatrix>();
    }
    const GgufType type = Stored(name).type;
    if (type != GgufType::kTQ1_0 && type != GgufType::kTQ2_0) return std::optional<CodedMatrix>();
    const uint64_t rows = info->shape[0], cols = info->shape[1];
    TQ_ASSIGN_OR_RETURN(Tensor trits, Tensor::Zeros(DType::kI8, info->shape));
    std::vector<float> scales(rows), row(cols);
    for (uint64_t i = 0; i < rows; ++i) {
      const auto at = static_cast<int32_t>(i);
      TQ_RETURN_IF_ERROR(LoadRows(name, {&at, 1}, row.data()));
      const auto scale = SplitTernaryRow(row.data(), cols, trits.mutable_as<int8_t>() + i * cols);
      if (!scale) return std::optional<CodedMatrix>();
      scales[i] = *scale;
    }
    UniteScales(scales);
    InlineExecutor executor;
    auto matrix = PackTernaryMatrix(packing, trits.view(), std::move(scales), executor);
    if (!matrix.ok()) return matrix.status().WithContext(Where(name));
    return std::optional<CodedMatrix>(*std::move(matrix));
  }

  StatusOr<Tensor> LoadStored(std::string_view name) const override {
    TQ_ASSIGN_OR_RETURN(Tensor tensor, LoadFloat(name));
    const GgufType type = Stored(name).type;
    const bool shifted = config_.norm_plus_one && IsGgufNorm(name);
    if (shifted || (type != GgufType::kF16 && type != GgufType::kBF16)) return tensor;
    // Back to the 16 bits it came from, which is exact.
    const bool half = type == GgufType::kF16;
    TQ_ASSIGN_OR_RETURN(Tensor stored,
                        Tensor::Zeros(half ? DType::kF16 : DType::kBF16, tensor.shape()));
    const float* from = tensor.as<float>();
    auto* to = stored.mutable_as<uint16_t>();
    for (uint64_t i = 0; i < tensor.num_elements(); ++i) {
      to[i] = half ? FloatToHalf(from[i]) : FloatToBFloat16(from[i]);
    }
    return stored;
  }

  Status HashTensor(std::string_view name, Hasher& hasher) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    const GgufTensor tensor = Stored(name);
    hasher.UpdateString(info->type);
    return HashFileRange(file_->FileOf(tensor), tensor.offset, tensor.bytes, hasher);
  }

 private:
  std::string Name(std::string_view name) const { return GgufTensorName(name, config_); }
  std::string Where(std::string_view name) const {
    return fmt::format("{}: tensor {}", file_->FileOf(*file_->Find(Name(name))).path().string(),
                       Quote(name));
  }
  Status AddTensor(const TensorSpec& spec) {
    const std::string name = Name(spec.name);
    const std::optional<uint32_t> expert = ExpertOf(spec.name);
    Shape shape = spec.shape;
    if (expert) shape.insert(shape.begin(), config_.num_experts);
    const GgufTensor* tensor = file_->Find(name);
    if (tensor == nullptr) {
      TQ_RETURN_IF_ERROR(RefuseSeparateExperts(name));
      return NotFound("{}: tensor {} is missing", path_.string(), Quote(name));
    }
    if (tensor->shape != shape) {
      return InvalidArgument("{}: tensor {} has shape {}, the metadata say {}", path_.string(),
                             Quote(name), ShapeToString(tensor->shape), ShapeToString(shape));
    }
    tensors_.push_back({spec.name, GgufTypeName(static_cast<uint32_t>(tensor->type)), spec.shape,
                        expert ? SliceOf(*tensor, *expert).bytes : tensor->bytes});
    return OkStatus();
  }
  // The first files of Mixtral have a tensor "blk.0.ffn_gate.3.weight" for each expert.
  Status RefuseSeparateExperts(std::string_view stacked) const {
    constexpr std::string_view kEnding = "_exps.weight";
    if (!stacked.ends_with(kEnding)) return OkStatus();
    const std::string first =
        fmt::format("{}.0.weight", stacked.substr(0, stacked.size() - kEnding.size()));
    if (file_->Find(first) == nullptr) return OkStatus();
    return Unimplemented("{}: tensor {}: experts that are not stacked in {} are not supported",
                         path_.string(), Quote(first), Quote(stacked));
  }
  // One of tensors(), or the slice of a stack that it is.
  GgufTensor Stored(std::string_view name) const {
    const GgufTensor& tensor = *file_->Find(Name(name));
    const std::optional<uint32_t> expert = ExpertOf(name);
    return expert ? SliceOf(tensor, *expert) : tensor;
  }
  // As CheckFinite, with the block whose scale or offset is at fault. The values are a tensor or
  // a row, in the file's order; block and element count from their start.
  Status CheckBlocks(std::string_view name, const GgufTensor& tensor, const float* values,
                     uint64_t n) const {
    const auto type = static_cast<uint32_t>(tensor.type);
    const uint64_t size = GgufBlockFormat(type)->values;
    const std::filesystem::path& path = file_->FileOf(tensor).path();
    const auto bad = FindNonFinite(values, n);
    if (!bad) return OkStatus();
    if (size == 1) return CheckFinite(values, n, path, name);
    return DataLoss("{}: tensor {}: block {} of {}: element {} is {}", path.string(), Quote(name),
                    *bad / size, GgufTypeName(type), *bad, values[*bad]);
  }

  std::unique_ptr<GgufFile> file_;
};

}  // namespace

StatusOr<std::unique_ptr<ModelSource>> OpenGgufSource(const std::filesystem::path& path) {
  auto source = std::make_unique<GgufSource>();
  TQ_RETURN_IF_ERROR(source->Init(path));
  return std::unique_ptr<ModelSource>(std::move(source));
}

}  // namespace tq
