// ModelSource over a Hugging Face directory.
#include "base/file_io.h"
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

class HuggingFaceSource final : public ModelSource {
 public:
  Status Init(const std::filesystem::path& folder) {
    path_ = folder;
    const std::filesystem::path config = folder / "config.json";
    TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(config, 4 << 20));
    TQ_ASSIGN_OR_RETURN(config_, ModelConfigFromJson(text, config.string()));
    TQ_ASSIGN_OR_RETURN(directory_, SafetensorsDirectory::Open(folder));
    std::map<std::string, bool, std::less<>> wanted;
    for (TensorSpec& spec : ModelTensors(config_)) {
      TQ_RETURN_IF_ERROR(AddTensor(spec));
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

  StatusOr<Tensor> LoadFloat(std::string_view name) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    const SafetensorsEntry& entry = *directory_->Find(name);
    const MappedFile& file = directory_->FileOf(name)->file();
    TQ_ASSIGN_OR_RETURN(const uint64_t elements, NumElements(info->shape));
    TQ_ASSIGN_OR_RETURN(const uint64_t bytes, NumBytes(info->shape, DType::kF32));
    TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(bytes, name));
    auto* out = reinterpret_cast<float*>(memory.get());
    const uint64_t width = DTypeSize(entry.dtype);
    constexpr uint64_t kPiece = 128 << 10;  // elements: half a megabyte at most
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

  Status LoadRows(std::string_view name, std::span<const int32_t> rows, float* out) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    TQ_ASSIGN_OR_RETURN(const uint64_t columns, CheckRows(name, info->shape, rows));
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
    TQ_ASSIGN_OR_RETURN(const Tensor checked, LoadFloat(name));
    return directory_->Copy(name);
  }

  Status HashTensor(std::string_view name, Hasher& hasher) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    const SafetensorsEntry& entry = *directory_->Find(name);
    hasher.UpdateString(info->type);
    return HashFileRange(directory_->FileOf(name)->file(), entry.offset, entry.bytes, hasher);
  }

 private:
  Status AddTensor(const TensorSpec& spec) {
    const SafetensorsEntry* entry = directory_->Find(spec.name);
    if (entry == nullptr) {
      return NotFound("{}: tensor {} is missing", path_.string(), Quote(spec.name));
    }
    const std::string file = directory_->FileOf(spec.name)->file().path().string();
    if (entry->shape != spec.shape) {
      return InvalidArgument("{}: tensor {} has shape {}, config.json says {}", file,
                             Quote(spec.name), ShapeToString(entry->shape),
                             ShapeToString(spec.shape));
    }
    if (!IsWeightType(entry->dtype)) {
      return Unimplemented("{}: tensor {}: weights of type {} are not supported", file,
                           Quote(spec.name), DTypeName(entry->dtype));
    }
    tensors_.push_back({spec.name, std::string(DTypeName(entry->dtype)), spec.shape, entry->bytes});
    return OkStatus();
  }

  std::unique_ptr<SafetensorsDirectory> directory_;
};

}  // namespace

StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceSource(const std::filesystem::path& folder) {
  auto source = std::make_unique<HuggingFaceSource>();
  TQ_RETURN_IF_ERROR(source->Init(folder));
  return std::unique_ptr<ModelSource>(std::move(source));
}

}  // namespace tq
