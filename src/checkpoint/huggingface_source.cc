// ModelSource over a Hugging Face directory.
#include <cmath>
#include <map>
#include <mutex>
#include <string>

#include "base/file_io.h"
#include "checkpoint/bitnet_quantization.h"
#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/source_kinds.h"

namespace tq {
namespace {

bool IsWeightType(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// Tensors that some directories hold beside the weights and that Hugging Face's own loader
// leaves out too: buffers of older releases, and the copy of a tied head.
bool IsWithoutEffect(std::string_view name, const ModelConfig& config) {
  return name.ends_with(".rotary_emb.inv_freq") ||
         (name == "lm_head.weight" && config.tie_embeddings);
}

// Of the factor of a packed matrix.
std::string ScaleName(std::string_view name) { return std::string(name) + "_scale"; }

class HuggingFaceSource final : public ModelSource {
 public:
  Status Init(const std::filesystem::path& folder) {
    path_ = folder;
    const std::filesystem::path config = folder / "config.json";
    TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(config, 4 << 20));
    TQ_ASSIGN_OR_RETURN(nlohmann::json document, ParseJson(text, config.string()));
    TQ_ASSIGN_OR_RETURN(bitnet_, TakeBitNetQuantization(document, config.string()));
    TQ_ASSIGN_OR_RETURN(config_, ModelConfigFromDocument(document, config.string()));
    TQ_ASSIGN_OR_RETURN(directory_, SafetensorsDirectory::Open(folder));
    std::map<std::string, bool, std::less<>> wanted;
    for (TensorSpec& spec : ModelTensors(config_)) {
      if (bitnet_ && spec.shape.size() == 2 && spec.name.starts_with("model.layers.") &&
          !IsLayerMatrix(spec.name)) {
        return Unimplemented("{}: quantization_config: a ternary {} is not supported",
                             config.string(), Quote(spec.name));
      }
      TQ_RETURN_IF_ERROR(IsPacked(spec.name) ? AddPackedTensor(spec) : AddTensor(spec));
      if (IsPacked(spec.name)) wanted.emplace(ScaleName(spec.name), true);
      wanted.emplace(std::move(spec.name), true);
    }
    for (const std::string& name : directory_->names()) {
      if (!wanted.contains(name) && !IsWithoutEffect(name, config_)) {
        return Unimplemented("{}: tensor {} has no place in a model of architecture {}",
                             directory_->FileOf(name)->file().path().string(), Quote(name),
                             config_.architecture);
      }
    }
    return OkStatus();
  }

  ModelKind kind() const override { return ModelKind::kHuggingFace; }

  StatusOr<bool> IsTernary(std::string_view name) const override {
    return bitnet_ && bitnet_->Holds(name) && Has(name);
  }

  StatusOr<std::optional<TernaryMatrix>> LoadTernary(std::string_view name,
                                                     ternary::Packing packing) const override {
    TQ_ASSIGN_OR_RETURN(const bool is_ternary, IsTernary(name));
    if (!is_ternary) return std::optional<TernaryMatrix>();
    auto matrix = IsPacked(name) ? Repack(name, packing) : RoundToTernary(name, packing);
    if (!matrix.ok()) return matrix.status();
    return std::optional(*std::move(matrix));
  }

  StatusOr<Tensor> LoadFloat(std::string_view name) const override {
    TQ_ASSIGN_OR_RETURN(const auto ternary, LoadTernary(name, ternary::Packing::k2Bits));
    return ternary ? DecodeTernary(*ternary, name) : LoadPlainFloats(name);
  }

  Status LoadRows(std::string_view name, std::span<const int32_t> rows, float* out) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    TQ_ASSIGN_OR_RETURN(const uint64_t columns, CheckRows(name, info->shape, rows));
    TQ_ASSIGN_OR_RETURN(const bool is_ternary, IsTernary(name));
    if (is_ternary) return DecodeTernaryRows(name, rows, out);
    const SafetensorsEntry& entry = *directory_->Find(name);
    const MappedFile& file = directory_->FileOf(name)->file();
    std::vector<uint8_t> buffer(columns * DTypeSize(entry.dtype));
    for (const int32_t row : rows) {
      const uint64_t offset = static_cast<uint64_t>(row) * buffer.size();
      TQ_RETURN_IF_ERROR(file.ReadAt(entry.offset + offset, buffer.data(), buffer.size()));
      TQ_RETURN_IF_ERROR(ConvertToFloat({entry.dtype, {columns}, buffer.data()}, out));
      TQ_RETURN_IF_ERROR(
          CheckFinite(out, columns, file.path(), name).WithContext(fmt::format("row {}", row)));
      out += columns;
    }
    return OkStatus();
  }

  StatusOr<Tensor> LoadStored(std::string_view name) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    TQ_ASSIGN_OR_RETURN(const bool is_ternary, IsTernary(name));
    if (is_ternary) return LoadFloat(name);
    TQ_ASSIGN_OR_RETURN(Tensor stored, directory_->Copy(info->name));
    std::vector<float> floats(std::min(kPiece, stored.num_elements()));
    const uint64_t width = DTypeSize(stored.dtype());
    for (uint64_t done = 0; done < stored.num_elements(); done += kPiece) {
      const uint64_t n = std::min(kPiece, stored.num_elements() - done);
      TQ_RETURN_IF_ERROR(
          ConvertToFloat({stored.dtype(), {n}, stored.data() + done * width}, floats.data()));
      TQ_RETURN_IF_ERROR(
          CheckFinite(floats.data(), n, directory_->FileOf(name)->file().path(), name, done));
    }
    return stored;
  }

  Status HashTensor(std::string_view name, Hasher& hasher) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    const SafetensorsEntry& entry = *directory_->Find(name);
    hasher.UpdateString(info->type);
    TQ_ASSIGN_OR_RETURN(const bool is_ternary, IsTernary(name));
    if (is_ternary) {
      hasher.UpdateString("ternary");
      TQ_ASSIGN_OR_RETURN(const float scale, IsPacked(name) ? LoadScale(name) : 1.0f);
      hasher.Update(&scale, sizeof(scale));
      hasher.UpdateString(bitnet_->scale == WeightScale::kDivides ? "divides" : "multiplies");
    }
    return HashFileRange(directory_->FileOf(name)->file(), entry.offset, entry.bytes, hasher);
  }

 private:
  static constexpr uint64_t kPiece = 128 << 10;  // elements read at once: half a megabyte at most

  bool IsPacked(std::string_view name) const {
    return bitnet_ && bitnet_->packed && bitnet_->Holds(name);
  }

  // What the file holds, as float32.
  StatusOr<Tensor> LoadPlainFloats(std::string_view name) const {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    const SafetensorsEntry& entry = *directory_->Find(name);
    const MappedFile& file = directory_->FileOf(name)->file();
    TQ_ASSIGN_OR_RETURN(const uint64_t elements, NumElements(info->shape));
    TQ_ASSIGN_OR_RETURN(const uint64_t bytes, NumBytes(info->shape, DType::kF32));
    TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(bytes, name));
    auto* out = reinterpret_cast<float*>(memory.get());
    const uint64_t width = DTypeSize(entry.dtype);
    std::vector<uint8_t> buffer(std::min(kPiece, elements) * width);
    for (uint64_t done = 0; done < elements; done += kPiece) {
      const uint64_t n = std::min(kPiece, elements - done);
      TQ_RETURN_IF_ERROR(file.ReadAt(entry.offset + done * width, buffer.data(), n * width));
      TQ_RETURN_IF_ERROR(ConvertToFloat({entry.dtype, {n}, buffer.data()}, out + done));
    }
    TQ_RETURN_IF_ERROR(CheckFinite(out, elements, file.path(), name));
    const uint8_t* data = memory.get();
    return Tensor({DType::kF32, info->shape, data}, std::move(memory));
  }

  // The factor of a packed matrix: one positive number.
  StatusOr<float> LoadScale(std::string_view name) const {
    const std::string scale_name = ScaleName(name);
    TQ_ASSIGN_OR_RETURN(const Tensor stored, directory_->Copy(scale_name));
    float scale;
    TQ_RETURN_IF_ERROR(ConvertToFloat(stored.view(), &scale));
    if (std::isfinite(scale) && scale > 0) return scale;
    return DataLoss("{}: tensor {} holds {}, it must be positive and finite",
                    directory_->FileOf(scale_name)->file().path().string(), Quote(scale_name),
                    scale);
  }

  StatusOr<TernaryMatrix> Repack(std::string_view name, ternary::Packing packing) const {
    TQ_ASSIGN_OR_RETURN(const float scale, LoadScale(name));
    TQ_ASSIGN_OR_RETURN(const Tensor codes, directory_->Copy(name));
    InlineExecutor executor;
    auto matrix = TernaryMatrixFromBitNet(packing, codes.view(), scale, bitnet_->scale, executor);
    if (!matrix.ok()) return matrix.status().WithContext(Where(name));
    return matrix;
  }

  StatusOr<TernaryMatrix> RoundToTernary(std::string_view name, ternary::Packing packing) const {
    TQ_ASSIGN_OR_RETURN(const Tensor floats, LoadPlainFloats(name));
    InlineExecutor executor;
    auto matrix = TernaryMatrixFromFloats(packing, floats.as<float>(), floats.shape()[0],
                                          floats.shape()[1], executor);
    if (!matrix.ok()) return matrix.status().WithContext(Where(name));
    return matrix;
  }

  Status DecodeTernaryRows(std::string_view name, std::span<const int32_t> rows, float* out) const {
    const std::lock_guard lock(last_mutex_);
    if (last_name_ != name) {
      last_name_.clear();
      TQ_ASSIGN_OR_RETURN(last_, LoadTernary(name, ternary::Packing::k2Bits));
      last_name_ = name;
    }
    for (const int32_t row : rows) {
      const auto at = static_cast<uint64_t>(row);
      DecodeRows(*last_, at, at + 1, out);
      out += last_->cols;
    }
    return OkStatus();
  }

  std::string Where(std::string_view name) const {
    return fmt::format("{}: tensor {}", directory_->FileOf(name)->file().path().string(),
                       Quote(name));
  }

  StatusOr<const SafetensorsEntry*> FindEntry(std::string_view name) const {
    const SafetensorsEntry* entry = directory_->Find(name);
    if (entry == nullptr) {
      return NotFound("{}: tensor {} is missing", path_.string(), Quote(name));
    }
    return entry;
  }

  Status AddTensor(const TensorSpec& spec) {
    TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* entry, FindEntry(spec.name));
    if (entry->shape != spec.shape) {
      return InvalidArgument("{} has shape {}, config.json says {}", Where(spec.name),
                             ShapeToString(entry->shape), ShapeToString(spec.shape));
    }
    if (!IsWeightType(entry->dtype)) {
      return Unimplemented("{}: weights of type {} are not supported", Where(spec.name),
                           DTypeName(entry->dtype));
    }
    tensors_.push_back({spec.name, std::string(DTypeName(entry->dtype)), spec.shape, entry->bytes});
    return OkStatus();
  }

  // A matrix of four rows in one, and its factor, which is read here.
  Status AddPackedTensor(const TensorSpec& spec) {
    TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* entry, FindEntry(spec.name));
    constexpr uint64_t kRowsInOne = 4;
    const uint64_t rows = spec.shape[0], cols = spec.shape[1];
    if (rows % kRowsInOne != 0) {
      return InvalidArgument(
          "{} has {} rows, which no packed weights have: they are multiples of {}",
          Where(spec.name), rows, kRowsInOne);
    }
    if (const Shape packed{rows / kRowsInOne, cols};
        entry->dtype != DType::kU8 || entry->shape != packed) {
      return InvalidArgument("{} is {} {}, packed weights of {} are U8 {}", Where(spec.name),
                             DTypeName(entry->dtype), ShapeToString(entry->shape),
                             ShapeToString(spec.shape), ShapeToString(packed));
    }
    const std::string scale_name = ScaleName(spec.name);
    TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* scale, FindEntry(scale_name));
    if (!IsWeightType(scale->dtype) || scale->shape != Shape{1}) {
      return InvalidArgument("{} is {} {}, it must be one number: F32, F16 or BF16 [1]",
                             Where(scale_name), DTypeName(scale->dtype),
                             ShapeToString(scale->shape));
    }
    TQ_RETURN_IF_ERROR(LoadScale(spec.name).status());
    tensors_.push_back(
        {spec.name, std::string(DTypeName(entry->dtype)), spec.shape, entry->bytes + scale->bytes});
    return OkStatus();
  }

  std::optional<BitNetQuantization> bitnet_;
  // LoadRows is asked for one matrix after the other, piece by piece.
  mutable std::mutex last_mutex_;
  mutable std::string last_name_;
  mutable std::optional<TernaryMatrix> last_;
  std::unique_ptr<SafetensorsDirectory> directory_;
};

}  // namespace

StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceSource(const std::filesystem::path& folder) {
  auto source = std::make_unique<HuggingFaceSource>();
  TQ_RETURN_IF_ERROR(source->Init(folder));
  return std::unique_ptr<ModelSource>(std::move(source));
}

}  // namespace tq
