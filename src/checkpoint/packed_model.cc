#include "checkpoint/packed_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "base/file_io.h"
#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "checkpoint/source_kinds.h"

namespace tq {
namespace {

using nlohmann::json;

constexpr std::string_view kMethods[] = {"trellis", "rtn", "gptq", "awq", "ternary"};

bool IsMethod(std::string_view method) {
  return std::ranges::find(kMethods, method) != std::end(kMethods);
}

// X of "X.weight" for matrices that have codes; norms and routers keep their names.
std::string MatrixName(const TensorSpec& spec) {
  return spec.name.substr(0, spec.name.size() - std::string_view(".weight").size());
}

// Index of fields in X.layout that must be known before the codec parses it whole.
constexpr size_t kLayoutCode = 1, kLayoutInBlock = 6;
constexpr int32_t kTrellisCode = 1, kGroupedCode = 2, kTernaryCode = 3;

// The code of a method's decoder.
int32_t CodeOf(std::string_view method) {
  if (method == "trellis") return kTrellisCode;
  return method == "ternary" ? kTernaryCode : kGroupedCode;
}

}  // namespace

std::string GroupName(std::string_view matrix) {
  static constexpr std::pair<std::string_view, std::string_view> kGroups[] = {
      {"q", "qkv"},        {"k", "qkv"},      {"v", "qkv"},     {"o", "o"},
      {"gate", "gate_up"}, {"up", "gate_up"}, {"down", "down"},
  };
  const std::string_view role = MatrixRole(matrix);
  for (const auto& [member, group] : kGroups) {
    if (role == member) return fmt::format("{}{}", matrix.substr(0, matrix.rfind('.') + 1), group);
  }
  return std::string(matrix);
}

// Builds a PackedModel from its directory, keeping account of the tensors that were used.
class PackedModel::Loader {
 public:
  explicit Loader(PackedModel* model) : model_(model), file_(model->path_.string()) {}

  Status Load() {
    TQ_RETURN_IF_ERROR(ReadConfig());
    TQ_ASSIGN_OR_RETURN(model_->files_, SafetensorsDirectory::Open(model_->path_));
    for (const TensorSpec& spec : ModelTensors(model_->config_)) {
      const Status status = spec.is_coded() ? LoadMatrix(spec) : CheckPlain(spec);
      TQ_RETURN_IF_ERROR(status);
    }
    for (const std::string& name : model_->files_->names()) {
      if (!used_.contains(name)) {
        return InvalidArgument("{}: tensor {} belongs to no matrix of the model", file_,
                               Quote(name));
      }
    }
    return OkStatus();
  }

 private:
  Status ReadConfig() {
    const std::string name = (model_->path_ / "config.json").string();
    TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(name, 4 << 20));
    TQ_ASSIGN_OR_RETURN(json document, ParseJson(text, name));
    const auto at = document.is_object() ? document.find("quantization_config") : document.end();
    if (at == document.end() || !at->is_object() ||
        at->value("quant_method", json()) != "turboquant") {
      return InvalidArgument("{}: no quantization_config of method \"turboquant\"", name);
    }
    const json format = at->value("format", json());
    if (format != kPackedFormat) {
      return Unimplemented("{}: quantization_config.format is {}; this program reads {}", name,
                           Quote(format.dump()), kPackedFormat);
    }
    const json method = at->value("method", json());
    if (!method.is_string() || !IsMethod(method.get_ref<const std::string&>())) {
      return Unimplemented("{}: quantization_config.method is {}; known are {}", name,
                           Quote(method.dump()), fmt::join(kMethods, ", "));
    }
    model_->method_ = method.get<std::string>();
    document.erase(at);
    TQ_ASSIGN_OR_RETURN(model_->config_, ModelConfigFromDocument(document, name));
    return OkStatus();
  }

  // A tensor of the directory: codes as a view into the map, all else as an aligned copy.
  StatusOr<Tensor> Take(const std::string& name, bool mapped) {
    used_.insert(name);
    auto tensor = mapped ? model_->files_->Get(name) : model_->files_->Copy(name);
    if (!tensor.ok()) return tensor.status().WithContext(file_);
    return tensor;
  }

  Status LoadMatrix(const TensorSpec& spec) {
    const std::string name = MatrixName(spec);
    TQ_ASSIGN_OR_RETURN(const Tensor layout, Take(name + ".layout", false));
    TQ_ASSIGN_OR_RETURN(Tensor codes, Take(name + ".codes", true));
    if (layout.dtype() != DType::kI32 || layout.shape().size() != 1 ||
        layout.num_elements() <= kLayoutCode) {
      return InvalidArgument("{}: {}.layout is {} {}, not I32 [n]", file_, name,
                             DTypeName(layout.dtype()), ShapeToString(layout.shape()));
    }
    const int32_t code = layout.as<int32_t>()[kLayoutCode];
    const int32_t expected = CodeOf(model_->method_);
    // Embedding and head may be trellis-coded whatever the method.
    if (code != expected && !(code == kTrellisCode && GroupName(name) == name)) {
      return InvalidArgument("{}: {}.layout: code {}, method {} has {}", file_, name, code,
                             model_->method_, expected);
    }
    auto matrix = code == kTrellisCode ? LoadPacked(name, layout, std::move(codes))
                                       : LoadGrouped(name, layout, std::move(codes));
    if (!matrix.ok()) {
      return matrix.status().WithContext(fmt::format("{}: {}", file_, name));
    }
    const Shape shape = std::visit([](const auto& m) { return Shape{m.rows, m.cols}; }, *matrix);
    if (shape != spec.shape) {
      return InvalidArgument("{}: {} has shape {}, config.json says {}", file_, name,
                             ShapeToString(shape), ShapeToString(spec.shape));
    }
    model_->matrices_.emplace(name, *std::move(matrix));
    return OkStatus();
  }

  StatusOr<StoredMatrix> LoadPacked(const std::string& name, const Tensor& layout, Tensor codes) {
    TQ_ASSIGN_OR_RETURN(const auto input, Input(GroupName(name), layout));
    TQ_ASSIGN_OR_RETURN(Tensor out_scale, Take(name + ".out_scale", false));
    TQ_ASSIGN_OR_RETURN(PackedMatrix matrix, PackedMatrixFromTensors(layout, std::move(codes),
                                                                     std::move(out_scale), input));
    if (GroupName(name) == name && matrix.out_block != 1) {
      return InvalidArgument("out_block is {}; rows of embedding and head must stand alone",
                             matrix.out_block);
    }
    return StoredMatrix(std::move(matrix));
  }

  StatusOr<StoredMatrix> LoadGrouped(const std::string& name, const Tensor& layout, Tensor codes) {
    TQ_ASSIGN_OR_RETURN(const GroupedLayout known, GroupedLayoutFromTensor(layout));
    GroupedTensors tensors;
    tensors.codes = std::move(codes);
    TQ_ASSIGN_OR_RETURN(tensors.scale, Take(name + ".scale", false));
    if (known.zeros != ZeroKind::kSymmetric) {
      TQ_ASSIGN_OR_RETURN(tensors.zero, Take(name + ".zero", false));
    }
    if (known.ordered) {
      TQ_ASSIGN_OR_RETURN(tensors.order, Take(name + ".order", false));
    }
    TQ_ASSIGN_OR_RETURN(GroupedMatrix matrix, MakeGroupedMatrix(known, std::move(tensors)));
    // All bytes of ternary codes were read to check them; they come again when they are used.
    if (known.ternary()) matrix.codes.DropPages(0, matrix.codes.num_bytes());
    return StoredMatrix(std::move(matrix));
  }

  // The group's transform, loaded with its first matrix and shared by the others. The codec
  // checks each layout's in_block and columns against it.
  StatusOr<std::shared_ptr<const InputTransform>> Input(const std::string& group,
                                                        const Tensor& layout) {
    const auto at = inputs_.find(group);
    if (at != inputs_.end()) return at->second;
    if (layout.num_elements() <= kLayoutInBlock || layout.as<int32_t>()[kLayoutInBlock] < 1) {
      return InvalidArgument("layout has no in_block");
    }
    auto input = std::make_shared<InputTransform>();
    input->in_block = static_cast<uint32_t>(layout.as<int32_t>()[kLayoutInBlock]);
    TQ_ASSIGN_OR_RETURN(input->in_scale, Take(group + ".in_scale", false));
    inputs_.emplace(group, input);
    return std::shared_ptr<const InputTransform>(std::move(input));
  }

  Status CheckPlain(const TensorSpec& spec) {
    used_.insert(spec.name);
    TQ_ASSIGN_OR_RETURN(const Tensor tensor, model_->LoadFloat(spec.name));
    if (tensor.shape() == spec.shape) return OkStatus();
    return InvalidArgument("{}: tensor {} has shape {}, config.json says {}", file_, spec.name,
                           ShapeToString(tensor.shape()), ShapeToString(spec.shape));
  }

  PackedModel* model_;
  std::string file_;
  std::set<std::string, std::less<>> used_;
  std::map<std::string, std::shared_ptr<const InputTransform>> inputs_;
};

StatusOr<std::unique_ptr<PackedModel>> PackedModel::Open(const std::filesystem::path& path) {
  std::unique_ptr<PackedModel> model(new PackedModel);
  model->path_ = path;
  TQ_RETURN_IF_ERROR(Loader(model.get()).Load());
  return model;
}

StatusOr<const StoredMatrix*> PackedModel::Matrix(std::string_view name) const {
  const auto at = matrices_.find(name);
  if (at == matrices_.end()) return NotFound("{}: no matrix {}", path_.string(), Quote(name));
  return &at->second;
}

StatusOr<Tensor> PackedModel::LoadFloat(std::string_view name) const {
  TQ_ASSIGN_OR_RETURN(const Tensor stored, files_->Copy(name));
  TQ_ASSIGN_OR_RETURN(Tensor tensor, Tensor::Zeros(DType::kF32, stored.shape()));
  TQ_RETURN_IF_ERROR(ConvertToFloat(stored.view(), tensor.mutable_as<float>())
                         .WithContext(fmt::format("{}: tensor {}", path_.string(), Quote(name))));
  TQ_RETURN_IF_ERROR(CheckFinite(tensor.as<float>(), tensor.num_elements(), path_, name));
  return tensor;
}

uint64_t PackedModel::num_parameters() const {
  uint64_t total = 0;
  for (const TensorSpec& spec : ModelTensors(config_)) {
    uint64_t elements = 1;  // cannot overflow: shapes of a checked ModelConfig
    for (const uint64_t d : spec.shape) elements *= d;
    total += elements;
  }
  return total;
}

uint64_t PackedModel::num_bytes() const { return files_->file_bytes(); }

Status PackedModel::VerifyFiles() const { return files_->VerifyFiles(); }

void PackedModel::ReadAhead() const { files_->ReadAhead(); }

Status AppendMatrix(std::string_view name, const StoredMatrix& matrix,
                    std::vector<OutputTensor>* tensors) {
  const std::string prefix(name);
  std::vector<int32_t> layout;
  if (const auto* packed = std::get_if<PackedMatrix>(&matrix)) {
    layout = LayoutToInts(*packed);
    tensors->push_back({prefix + ".codes", packed->codes});
    tensors->push_back({prefix + ".out_scale", packed->out_scale});
  } else {
    const auto& grouped = std::get<GroupedMatrix>(matrix);
    layout = LayoutToInts(grouped);
    tensors->push_back({prefix + ".codes", grouped.codes});
    tensors->push_back({prefix + ".scale", grouped.scale});
    if (grouped.zeros != ZeroKind::kSymmetric) {
      tensors->push_back({prefix + ".zero", grouped.zero});
    }
    if (grouped.ordered) tensors->push_back({prefix + ".order", grouped.order});
  }
  TQ_ASSIGN_OR_RETURN(Tensor ints,
                      Tensor::FromValues<int32_t>(DType::kI32, {layout.size()}, layout));
  tensors->push_back({prefix + ".layout", std::move(ints)});
  return OkStatus();
}

void AppendInputScale(std::string_view group, const InputTransform& input,
                      std::vector<OutputTensor>* tensors) {
  tensors->push_back({std::string(group) + ".in_scale", input.in_scale});
}

Status WritePackedModel(const std::filesystem::path& output, const std::filesystem::path& source,
                        PackedModelContents contents) {
  nlohmann::ordered_json config = ModelConfigToJsonValue(contents.config);
  nlohmann::ordered_json quantization = {
      {"quant_method", "turboquant"}, {"format", kPackedFormat}, {"method", contents.method}};
  for (const auto& [name, value] : contents.options) {
    std::visit([&, &key = name](const auto& v) { quantization[key] = v; }, value);
  }
  config["quantization_config"] = std::move(quantization);
  std::stable_partition(contents.tensors.begin(), contents.tensors.end(),
                        [](const OutputTensor& t) { return t.name.ends_with(".codes"); });
  ModelDirectory directory;
  directory.config_json = config.dump(2) + "\n";
  directory.files = std::move(contents.files);
  directory.tensors = std::move(contents.tensors);
  directory.max_shard_bytes = contents.max_shard_bytes;
  directory.staging = std::move(contents.staging);
  return WriteModelDirectory(output, source, directory);
}

}  // namespace tq
