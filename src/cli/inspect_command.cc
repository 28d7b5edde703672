// tq inspect: what is in a model and how many bits each tensor takes.
#include <fmt/format.h>

#include <utility>

#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"
#include "cli/command.h"

namespace tq::cli {
namespace {

struct TensorLine {
  std::string name, type;
  Shape shape;
  uint64_t bytes = 0;
  bool matrix = true;                     // that compressed models have codes of
  MatrixForm form = MatrixForm::kFloats;  // as it runs; trellis codes have no note

  double bits() const {
    uint64_t elements = 1;
    for (uint64_t d : shape) elements *= d;
    return elements == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(elements);
  }
};

struct Summary {
  std::string kind;
  uint64_t parameters = 0, file_bytes = 0;
  std::vector<TensorLine> tensors;
};

const char* FormNote(MatrixForm form) {
  switch (form) {
    case MatrixForm::kFloats:
      break;
    case MatrixForm::kTernary:
      return ", runs ternary";
    case MatrixForm::kGrouped:
      return ", runs grouped";
  }
  return "";
}

bool IsDecoderMatrix(const TensorLine& tensor) {
  return tensor.matrix && tensor.name.find(".layers.") != std::string::npos;
}

// Average over the decoder's matrices, without embedding, head, norms and what chooses experts.
double DecoderBits(const Summary& summary) {
  uint64_t bytes = 0, elements = 0;
  for (const TensorLine& tensor : summary.tensors) {
    if (!IsDecoderMatrix(tensor)) continue;
    bytes += tensor.bytes;
    elements += tensor.shape[0] * tensor.shape[1];
  }
  return elements == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(elements);
}

// `method`: the model's, which all grouped matrices are of.
std::string MatrixType(const StoredMatrix& stored, std::string_view method) {
  if (const auto* grouped = std::get_if<GroupedMatrix>(&stored)) {
    return fmt::format("{} {} bits / {}", method, grouped->rate(), grouped->group_size);
  }
  std::string type = "trellis";
  for (const Segment& segment : std::get<PackedMatrix>(stored).segments) {
    type += fmt::format(" {}x{}/{}", segment.row_end - segment.row_begin, segment.code.bits,
                        segment.code.values);
  }
  return type;
}

StatusOr<Summary> Summarize(const std::filesystem::path& path) {
  Summary summary;
  TQ_ASSIGN_OR_RETURN(const ModelKind kind, DetectModelKind(path));
  if (kind == ModelKind::kPacked) {
    TQ_ASSIGN_OR_RETURN(auto model, PackedModel::Open(path));
    summary.kind = "turboquant " + model->method();
    summary.parameters = model->num_parameters();
    summary.file_bytes = model->num_bytes();
    for (const auto& [name, stored] : model->matrices()) {
      TensorLine line{name + ".weight", MatrixType(stored, model->method()), {}};
      std::visit(
          [&](const auto& matrix) {
            line.shape = {matrix.rows, matrix.cols};
            line.bytes = matrix.num_bytes();
          },
          stored);
      if (std::holds_alternative<GroupedMatrix>(stored)) line.form = MatrixForm::kGrouped;
      summary.tensors.push_back(std::move(line));
    }
    return summary;
  }
  TQ_ASSIGN_OR_RETURN(auto source, ModelSource::Open(path));
  summary.kind = kind == ModelKind::kGguf ? "gguf" : "huggingface";
  summary.parameters = source->num_parameters();
  summary.file_bytes = source->num_bytes();
  const std::vector<TensorSpec> specs = ModelTensors(source->config());
  for (size_t i = 0; i < specs.size(); ++i) {
    const SourceTensorInfo& tensor = source->tensors()[i];  // in the same order
    TQ_ASSIGN_OR_RETURN(const MatrixForm form, source->FormOf(tensor.name));
    summary.tensors.push_back(
        {tensor.name, tensor.type, tensor.shape, tensor.bytes, specs[i].is_coded(), form});
  }
  return summary;
}

class InspectCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    CLI::App* sub = Register(app, "inspect", "Show a model's tensors, sizes and bits per weight",
                             "  tq inspect SmolLM2-2bit\n"
                             "  tq inspect model.gguf --json -");
    AddModelArgument(*sub, model_);
    AddJsonOption(*sub, json_);
  }

  Status Run() override {
    TQ_ASSIGN_OR_RETURN(const Summary summary, Summarize(model_));
    const double bits_per_weight = summary.parameters == 0
                                       ? 0
                                       : 8.0 * static_cast<double>(summary.file_bytes) /
                                             static_cast<double>(summary.parameters);
    std::FILE* out = HumanOutput(json_);
    for (const TensorLine& tensor : summary.tensors) {
      fmt::print(out, "{:48} {:>16} {:>20} {:8.3f} bits {:>12} bytes{}\n", tensor.name,
                 ShapeToString(tensor.shape), tensor.type, tensor.bits(), tensor.bytes,
                 FormNote(tensor.form));
    }
    fmt::print(out,
               "{}: {} parameters, {} ({} bytes), {:.4f} bits per weight, decoder {:.4f} bits\n",
               summary.kind, summary.parameters, FormatBytes(summary.file_bytes),
               summary.file_bytes, bits_per_weight, DecoderBits(summary));

    nlohmann::ordered_json object = {{"model", model_.string()},
                                     {"kind", summary.kind},
                                     {"parameters", summary.parameters},
                                     {"file_bytes", summary.file_bytes},
                                     {"bits_per_weight", bits_per_weight},
                                     {"decoder_bits_per_weight", DecoderBits(summary)},
                                     {"tensors", nlohmann::ordered_json::array()}};
    for (const TensorLine& tensor : summary.tensors) {
      object["tensors"].push_back({{"name", tensor.name},
                                   {"type", tensor.type},
                                   {"shape", tensor.shape},
                                   {"bits", tensor.bits()},
                                   {"bytes", tensor.bytes},
                                   {"runs_ternary", tensor.form == MatrixForm::kTernary},
                                   {"runs_grouped", tensor.form == MatrixForm::kGrouped}});
    }
    return WriteJson(json_, object);
  }

 private:
  std::filesystem::path model_;
  std::string json_;
};

}  // namespace

std::unique_ptr<Command> MakeInspectCommand() { return std::make_unique<InspectCommand>(); }

}  // namespace tq::cli
