#include "checkpoint/model_source.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/file_io.h"
#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "checkpoint/source_kinds.h"

namespace tq {
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kMaxConfigBytes = 4 << 20;

bool IsPickleName(const fs::path& path) {
  static constexpr std::array<std::string_view, 6> kEndings = {".bin",  ".pt",  ".pth",
                                                               ".ckpt", ".pkl", ".pickle"};
  return std::find(kEndings.begin(), kEndings.end(), path.extension().string()) != kEndings.end();
}

Status RefusePickle(const fs::path& path) {
  return Unimplemented(
      "{}: a pickle file, which can run any code when it is read; convert it to safetensors",
      path.string());
}

StatusOr<ModelKind> DetectFileKind(const fs::path& path) {
  if (IsPickleName(path)) return RefusePickle(path);
  TQ_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  std::array<unsigned char, 4> magic{};
  TQ_RETURN_IF_ERROR(file->ReadAt(0, magic.data(), std::min<uint64_t>(magic.size(), file->size())));
  if (std::memcmp(magic.data(), "GGUF", 4) == 0) return ModelKind::kGguf;
  // Pickle protocols 2 to 5; a zip archive is what torch.save writes.
  if ((magic[0] == 0x80 && magic[1] >= 2 && magic[1] <= 5) ||
      std::memcmp(magic.data(), "PK\x03\x04", 4) == 0) {
    return RefusePickle(path);
  }
  if (path.extension() == ".safetensors") {
    return InvalidArgument("{}: name the folder that holds it and its config.json", path.string());
  }
  return InvalidArgument("{}: neither a GGUF file nor a model directory", path.string());
}

StatusOr<ModelKind> DetectFolderKind(const fs::path& folder) {
  const fs::path config = folder / "config.json";
  const auto text = ReadFile(config, kMaxConfigBytes);
  if (!text.ok()) {
    if (text.status().code() != StatusCode::kNotFound) return text.status();
    return NotFound("{}: a model directory needs config.json (for GGUF, name the file)",
                    folder.string());
  }
  TQ_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(*text, config.string()));
  if (json.is_object()) {
    const auto quantization = json.find("quantization_config");
    if (quantization != json.end() && quantization->is_object() &&
        quantization->value("quant_method", nlohmann::json()) == "turboquant") {
      return ModelKind::kPacked;
    }
  }
  std::error_code error;
  if (fs::exists(folder / "model.safetensors", error) ||
      fs::exists(folder / "model.safetensors.index.json", error)) {
    return ModelKind::kHuggingFace;
  }
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (IsPickleName(entry.path())) return RefusePickle(entry.path());
  }
  return NotFound("{}: neither model.safetensors nor model.safetensors.index.json",
                  folder.string());
}

}  // namespace

StatusOr<ModelKind> DetectModelKind(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return NotFound("{}: no such file or directory", path.string());
  }
  if (error) return IoError(path.string(), error.value());
  return fs::is_directory(status) ? DetectFolderKind(path) : DetectFileKind(path);
}

StatusOr<std::unique_ptr<ModelSource>> ModelSource::Open(const fs::path& path) {
  TQ_ASSIGN_OR_RETURN(const ModelKind kind, DetectModelKind(path));
  switch (kind) {
    case ModelKind::kHuggingFace:
      return OpenHuggingFaceSource(path);
    case ModelKind::kGguf:
      return OpenGgufSource(path);
    case ModelKind::kPacked:
      break;
  }
  return InvalidArgument("{}: is compressed already; the original model is needed here",
                         path.string());
}

const SourceTensorInfo* ModelSource::Find(std::string_view name) const {
  const auto at = std::find_if(tensors_.begin(), tensors_.end(),
                               [&](const SourceTensorInfo& info) { return info.name == name; });
  return at == tensors_.end() ? nullptr : &*at;
}

StatusOr<const SourceTensorInfo*> ModelSource::Get(std::string_view name) const {
  const SourceTensorInfo* info = Find(name);
  if (info == nullptr) return NotFound("{}: no tensor {}", path_.string(), Quote(name));
  return info;
}

StatusOr<uint64_t> ModelSource::CheckRows(std::string_view name, const Shape& shape,
                                          std::span<const int32_t> rows) const {
  if (shape.size() != 2) {
    return InvalidArgument("{}: tensor {} of shape {} has no rows", path_.string(), Quote(name),
                           ShapeToString(shape));
  }
  for (const int32_t row : rows) {
    if (row < 0 || static_cast<uint64_t>(row) >= shape[0]) {
      return InvalidArgument("{}: tensor {} has {} rows, none of them {}", path_.string(),
                             Quote(name), shape[0], row);
    }
  }
  return shape[1];
}

Status ModelSource::LoadRows(std::string_view name, std::span<const int32_t> rows,
                             float* out) const {
  TQ_ASSIGN_OR_RETURN(const Tensor tensor, LoadFloat(name));
  TQ_ASSIGN_OR_RETURN(const uint64_t columns, CheckRows(name, tensor.shape(), rows));
  for (const int32_t row : rows) {
    std::copy_n(tensor.as<float>() + static_cast<uint64_t>(row) * columns, columns, out);
    out += columns;
  }
  return OkStatus();
}

StatusOr<MatrixForm> ModelSource::FormOf(std::string_view) const { return MatrixForm::kFloats; }

StatusOr<std::optional<CodedMatrix>> ModelSource::LoadCoded(std::string_view,
                                                            ternary::Packing) const {
  return std::optional<CodedMatrix>();
}

uint64_t ModelSource::num_parameters() const {
  uint64_t total = 0;
  for (const SourceTensorInfo& info : tensors_) {
    uint64_t elements = 1;  // cannot overflow: the shapes are those of a checked ModelConfig
    for (const uint64_t d : info.shape) elements *= d;
    total += elements;
  }
  return total;
}

uint64_t ModelSource::num_bytes() const {
  uint64_t total = 0;
  for (const SourceTensorInfo& info : tensors_) total += info.bytes;
  return total;
}

bool IsLayerMatrix(std::string_view tensor) {
  constexpr std::string_view kPrefix = "model.layers.";
  static constexpr std::array<std::string_view, 7> kMembers = {
      "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
      "self_attn.o_proj.weight", "mlp.gate_proj.weight",    "mlp.up_proj.weight",
      "mlp.down_proj.weight"};
  if (!tensor.starts_with(kPrefix)) return false;
  const size_t dot = tensor.find('.', kPrefix.size());
  return dot != tensor.npos &&
         std::find(kMembers.begin(), kMembers.end(), tensor.substr(dot + 1)) != kMembers.end();
}

StatusOr<Tensor> DecodeCoded(const CodedMatrix& coded, std::string_view name) {
  const auto decode = [&](const auto& matrix) -> StatusOr<Tensor> {
    const Shape shape{matrix.rows, matrix.cols};
    TQ_ASSIGN_OR_RETURN(const uint64_t bytes, NumBytes(shape, DType::kF32));
    TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(bytes, name));
    DecodeRows(matrix, 0, matrix.rows, reinterpret_cast<float*>(memory.get()));
    const uint8_t* data = memory.get();
    return Tensor({DType::kF32, shape, data}, std::move(memory));
  };
  return std::visit(decode, coded);
}

std::optional<uint64_t> FindNonFinite(const float* values, uint64_t n) {
  constexpr uint32_t kExponent = 0x7f800000;
  const auto is_bad = [](float value) {
    return (std::bit_cast<uint32_t>(value) & kExponent) == kExponent;
  };
  // Blocks: the inner loop has no exit, so that it becomes vector code.
  constexpr uint64_t kBlock = 4096;
  for (uint64_t begin = 0; begin < n; begin += kBlock) {
    const uint64_t end = std::min(begin + kBlock, n);
    uint32_t bad = 0;
    for (uint64_t i = begin; i < end; ++i) bad |= is_bad(values[i]);
    if (bad == 0) continue;
    return static_cast<uint64_t>(std::find_if(values + begin, values + end, is_bad) - values);
  }
  return std::nullopt;
}

Status CheckFinite(const float* values, uint64_t n, const fs::path& file, std::string_view tensor,
                   uint64_t first) {
  const auto bad = FindNonFinite(values, n);
  if (!bad) return OkStatus();
  return DataLoss("{}: tensor {}: element {} is {}", file.string(), Quote(tensor), first + *bad,
                  values[*bad]);
}

Status HashFileRange(const MappedFile& file, uint64_t offset, uint64_t bytes, Hasher& hasher) {
  constexpr uint64_t kPiece = 1 << 20;
  std::vector<uint8_t> buffer(std::min(kPiece, bytes));
  for (uint64_t done = 0; done < bytes; done += kPiece) {
    const uint64_t n = std::min(kPiece, bytes - done);
    TQ_RETURN_IF_ERROR(file.ReadAt(offset + done, buffer.data(), n));
    hasher.Update(buffer.data(), n);
  }
  return OkStatus();
}

}  // namespace tq
