// ModelSource over a Hugging Face directory.
#include <algorithm>
#include <mutex>
#include <set>
#include <string>

#include "base/file_io.h"
#include "checkpoint/coded_weights.h"
#include "checkpoint/json.h"
#include "checkpoint/plain_weights.h"
#include "checkpoint/quote.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/source_kinds.h"

namespace tq {
namespace {

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
    TQ_ASSIGN_OR_RETURN(nlohmann::json document, ParseJson(text, config.string()));
    TQ_ASSIGN_OR_RETURN(const Quantization quantization,
                        TakeQuantization(document, config.string()));
    TQ_ASSIGN_OR_RETURN(config_, ModelConfigFromDocument(document, config.string()));
    TQ_ASSIGN_OR_RETURN(directory_, SafetensorsDirectory::Open(folder));
    coded_ = MakeCodedWeights(quantization, *directory_);
    std::set<std::string, std::less<>> wanted;
    for (const TensorSpec& spec : ModelTensors(config_)) {
      if (coded_ != nullptr && spec.shape.size() == 2 && spec.name.starts_with("model.layers.") &&
          !IsLayerMatrix(spec.name)) {
        return Unimplemented("{}: quantization_config: a coded {} is not supported",
                             config.string(), Quote(spec.name));
      }
      if (IsCoded(spec.name)) {
        TQ_ASSIGN_OR_RETURN(auto description, coded_->Describe(spec));
        tensors_.push_back(std::move(description.info));
        wanted.insert(description.tensors.begin(), description.tensors.end());
      } else {
        TQ_ASSIGN_OR_RETURN(SourceTensorInfo info, DescribePlainWeight(*directory_, spec));
        tensors_.push_back(std::move(info));
        wanted.insert(spec.name);
      }
    }
    return CheckOthers(wanted);
  }

  ModelKind kind() const override { return ModelKind::kHuggingFace; }

  StatusOr<MatrixForm> FormOf(std::string_view name) const override {
    return IsCoded(name) && Has(name) ? coded_->form() : MatrixForm::kFloats;
  }

  StatusOr<std::optional<CodedMatrix>> LoadCoded(std::string_view name,
                                                 ternary::Packing packing) const override {
    const SourceTensorInfo* info = IsCoded(name) ? Find(name) : nullptr;
    if (info == nullptr) return std::optional<CodedMatrix>();
    auto matrix = coded_->Load(*info, packing);
    if (!matrix.ok()) return matrix.status();
    return std::optional(*std::move(matrix));
  }

  StatusOr<Tensor> LoadFloat(std::string_view name) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    if (!IsCoded(name)) return LoadPlainWeight(*directory_, name);
    TQ_ASSIGN_OR_RETURN(const CodedMatrix matrix, coded_->Load(*info, kAnyPacking));
    return DecodeCoded(matrix, name);
  }

  Status LoadRows(std::string_view name, std::span<const int32_t> rows, float* out) const override {
    TQ_ASSIGN_OR_RETURN(const SourceTensorInfo* info, Get(name));
    TQ_ASSIGN_OR_RETURN(const uint64_t columns, CheckRows(name, info->shape, rows));
    if (IsCoded(name)) return DecodeSomeRows(*info, rows, out);
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
    if (IsCoded(name)) return LoadFloat(name);
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
    hasher.UpdateString(info->type);
    if (IsCoded(name)) return coded_->Hash(*info, hasher);
    const SafetensorsEntry& entry = *directory_->Find(name);
    return HashFileRange(directory_->FileOf(name)->file(), entry.offset, entry.bytes, hasher);
  }

 private:
  static constexpr uint64_t kPiece = 128 << 10;  // elements read at once: half a megabyte at most
  // Of ternary matrices that are decoded.
  static constexpr ternary::Packing kAnyPacking = ternary::Packing::k2Bits;

  bool IsCoded(std::string_view name) const { return coded_ != nullptr && coded_->Holds(name); }

  // Tensors beside those of the model change nothing, or are an error.
  Status CheckOthers(const std::set<std::string, std::less<>>& wanted) const {
    for (const std::string& name : directory_->names()) {
      if (wanted.contains(name) || IsWithoutEffect(name, config_)) continue;
      TQ_ASSIGN_OR_RETURN(const bool is_zero, IsBiasOfZeros(name));
      if (is_zero) continue;
      return Unimplemented("{} has no place in a model of architecture {}",
                           PlaceOf(*directory_, name), config_.architecture);
    }
    return OkStatus();
  }

  // AutoGPTQ once gave biases of zeros to coded matrices of models without any.
  StatusOr<bool> IsBiasOfZeros(std::string_view name) const {
    constexpr std::string_view kBias = ".bias";
    if (!name.ends_with(kBias)) return false;
    const SourceTensorInfo* info =
        Find(fmt::format("{}.weight", name.substr(0, name.size() - kBias.size())));
    const SafetensorsEntry& entry = *directory_->Find(name);
    if (info == nullptr || !IsCoded(info->name) || entry.shape != Shape{info->shape[0]} ||
        !IsWeightType(entry.dtype)) {
      return false;
    }
    TQ_ASSIGN_OR_RETURN(const Tensor bias, LoadPlainWeight(*directory_, name));
    return std::all_of(bias.as<float>(), bias.as<float>() + bias.num_elements(),
                       [](float value) { return value == 0; });
  }

  Status DecodeSomeRows(const SourceTensorInfo& info, std::span<const int32_t> rows,
                        float* out) const {
    const std::lock_guard lock(last_mutex_);
    if (last_name_ != info.name) {
      last_name_.clear();
      TQ_ASSIGN_OR_RETURN(last_, coded_->Load(info, kAnyPacking));
      last_name_ = info.name;
    }
    const auto decode = [&](const auto& matrix) {
      for (const int32_t row : rows) {
        const auto at = static_cast<uint64_t>(row);
        DecodeRows(matrix, at, at + 1, out);
        out += matrix.cols;
      }
    };
    std::visit(decode, last_);
    return OkStatus();
  }

  std::unique_ptr<SafetensorsDirectory> directory_;
  std::unique_ptr<CodedWeights> coded_;  // null: all weights are plain
  // LoadRows is asked for one matrix after the other, piece by piece.
  mutable std::mutex last_mutex_;
  mutable std::string last_name_;
  mutable CodedMatrix last_;
};

}  // namespace

StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceSource(const std::filesystem::path& folder) {
  auto source = std::make_unique<HuggingFaceSource>();
  TQ_RETURN_IF_ERROR(source->Init(folder));
  return std::unique_ptr<ModelSource>(std::move(source));
}

}  // namespace tq
