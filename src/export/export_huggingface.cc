#include <algorithm>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/model_source.h"
#include "checkpoint/quote.h"
#include "export/exchange_matrices.h"
#include "export/export.h"
#include "export/weight_rows.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

class HuggingFaceExport {
 public:
  HuggingFaceExport(const ExportOptions& options, Executor& executor, Progress& progress)
      : options_(options), executor_(executor), progress_(progress) {}

  StatusOr<ExportReport> Run() {
    TQ_RETURN_IF_ERROR(CheckOutputDirectory(options_.output, options_.model));
    TQ_ASSIGN_OR_RETURN(weights_, WeightRows::Open(options_.model));
    if (options_.format) {
      TQ_ASSIGN_OR_RETURN(exchange_, ExchangeMatrices::Of(*options_.format, options_.model,
                                                          *weights_, executor_, progress_));
    }
    ModelDirectory directory;
    directory.config_json = ConfigJson();
    TQ_ASSIGN_OR_RETURN(directory.files, TokenizerFiles(options_.model, weights_->gguf()));
    directory.max_shard_bytes = options_.max_shard_bytes;
    for (const TensorSpec& spec : ModelTensors(weights_->config())) {
      TQ_RETURN_IF_ERROR(AddTensors(spec, directory.tensors));
    }
    ExportReport report;
    report.parameters = NumParameters(weights_->config());
    report.tensors = directory.tensors.size();
    TQ_ASSIGN_OR_RETURN(report.notes, Notes());
    progress_.Begin("export", report.parameters);
    TQ_RETURN_IF_ERROR(WriteModelDirectory(options_.output, options_.model, directory));
    progress_.End();
    TQ_ASSIGN_OR_RETURN(const auto written, SafetensorsDirectory::Open(options_.output));
    report.bytes = written->file_bytes();
    return report;
  }

 private:
  std::string ConfigJson() const {
    nlohmann::ordered_json json = ModelConfigToJsonValue(weights_->config());
    json["torch_dtype"] = exchange_ ? "float16" : "bfloat16";
    if (exchange_) json["quantization_config"] = exchange_->QuantizationConfig();
    return json.dump(2) + "\n";
  }

  StatusOr<std::vector<std::string>> Notes() const {
    std::vector<std::string> notes;
    if (!exchange_) return notes;
    TQ_ASSIGN_OR_RETURN(const ModelKind kind, DetectModelKind(options_.model));
    notes.push_back("all but the codes is rounded to float16");
    if (kind == ModelKind::kPacked) {
      notes.push_back("embedding and head are decoded to float16: the format has no codes of them");
    }
    if (options_.format == ExchangeFormat::kGptqV1 && !exchange_->symmetric()) {
      notes.push_back(
          "zeros are not symmetric, which GPTQModel refuses in this version of the format and "
          "reads in gptq_v2");
    }
    return notes;
  }

  Status AddTensors(const TensorSpec& spec, std::vector<OutputTensor>& tensors) {
    if (exchange_ && ExchangeMatrices::Holds(spec)) {
      const Extent extent = ExtentOf(spec);
      const auto converted = [this, name = spec.name, extent] {
        Advance(name, extent.rows * extent.cols);
      };
      TQ_ASSIGN_OR_RETURN(auto parts, exchange_->TensorsOf(spec, converted));
      std::move(parts.begin(), parts.end(), std::back_inserter(tensors));
      return OkStatus();
    }
    const DType dtype = exchange_ ? DType::kF16 : DType::kBF16;
    tensors.push_back({spec.name, Tensor({dtype, spec.shape, nullptr}, nullptr),
                       [this, spec](const ByteSink& sink) { return StreamFloats(spec, sink); }});
    return OkStatus();
  }

  Status StreamFloats(const TensorSpec& spec, const ByteSink& sink) {
    const uint64_t cols = ExtentOf(spec).cols;
    const GgufEncoding encoding = exchange_ ? GgufEncoding::kF16 : GgufEncoding::kBF16;
    std::vector<uint8_t> encoded;
    const auto consume = [&](const float* rows, uint64_t begin, uint64_t end) -> Status {
      const uint64_t values = (end - begin) * cols;
      encoded.resize(values * sizeof(uint16_t));
      const Status status = EncodeBlocks(encoding, rows, values, encoded.data());
      if (!status.ok()) {
        return status.WithContext(fmt::format("{}: tensor {}: rows from {}",
                                              options_.model.string(), Quote(spec.name), begin));
      }
      TQ_RETURN_IF_ERROR(sink(encoded));
      Advance(spec.name, values);
      return OkStatus();
    };
    return ForEachRowBlock(*weights_, spec, 1, executor_, consume);
  }

  void Advance(const std::string& name, uint64_t weights) {
    done_ += weights;
    progress_.Update(done_, name);
  }

  const ExportOptions& options_;
  Executor& executor_;
  Progress& progress_;
  std::unique_ptr<WeightRows> weights_;
  std::unique_ptr<ExchangeMatrices> exchange_;  // null: all become floats
  uint64_t done_ = 0;                           // weights
};

}  // namespace

StatusOr<ExportReport> ExportHuggingFace(const ExportOptions& options, Executor& executor,
                                         Progress& progress) {
  return HuggingFaceExport(options, executor, progress).Run();
}

}  // namespace tq
