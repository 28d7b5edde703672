#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/quote.h"
#include "export/export.h"
#include "export/weight_rows.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

std::string ConfigJson(const ModelConfig& config) {
  nlohmann::ordered_json json = ModelConfigToJsonValue(config);
  json["torch_dtype"] = "bfloat16";
  return json.dump(2) + "\n";
}

class HuggingFaceExport {
 public:
  HuggingFaceExport(const ExportOptions& options, Executor& executor, Progress& progress)
      : options_(options), executor_(executor), progress_(progress) {}

  StatusOr<ExportReport> Run() {
    TQ_RETURN_IF_ERROR(CheckOutputDirectory(options_.output, options_.model));
    TQ_ASSIGN_OR_RETURN(weights_, WeightRows::Open(options_.model));
    ModelDirectory directory;
    directory.config_json = ConfigJson(weights_->config());
    TQ_ASSIGN_OR_RETURN(directory.files, TokenizerFiles(options_.model, weights_->gguf()));
    directory.max_shard_bytes = options_.max_shard_bytes;
    for (const TensorSpec& spec : ModelTensors(weights_->config())) {
      directory.tensors.push_back(
          {spec.name, Tensor({DType::kBF16, spec.shape, nullptr}, nullptr),
           [this, spec](const ByteSink& sink) { return StreamTensor(spec, sink); }});
    }
    ExportReport report;
    report.parameters = NumParameters(weights_->config());
    report.tensors = directory.tensors.size();
    progress_.Begin("export", report.parameters);
    TQ_RETURN_IF_ERROR(WriteModelDirectory(options_.output, options_.model, directory));
    progress_.End();
    TQ_ASSIGN_OR_RETURN(const auto written, SafetensorsDirectory::Open(options_.output));
    report.bytes = written->file_bytes();
    return report;
  }

 private:
  Status StreamTensor(const TensorSpec& spec, const ByteSink& sink) {
    const uint64_t cols = ExtentOf(spec).cols;
    std::vector<uint8_t> encoded;
    const auto consume = [&](const float* rows, uint64_t begin, uint64_t end) -> Status {
      const uint64_t values = (end - begin) * cols;
      encoded.resize(values * sizeof(uint16_t));
      const Status status = EncodeBlocks(GgufEncoding::kBF16, rows, values, encoded.data());
      if (!status.ok()) {
        return status.WithContext(fmt::format("{}: tensor {}: rows from {}",
                                              options_.model.string(), Quote(spec.name), begin));
      }
      TQ_RETURN_IF_ERROR(sink(encoded));
      done_ += values;
      progress_.Update(done_, spec.name);
      return OkStatus();
    };
    return ForEachRowBlock(*weights_, spec, 1, executor_, consume);
  }

  const ExportOptions& options_;
  Executor& executor_;
  Progress& progress_;
  std::unique_ptr<WeightRows> weights_;
  uint64_t done_ = 0;  // weights
};

}  // namespace

StatusOr<ExportReport> ExportHuggingFace(const ExportOptions& options, Executor& executor,
                                         Progress& progress) {
  return HuggingFaceExport(options, executor, progress).Run();
}

}  // namespace tq
