// The names, keys and types of a GGUF file are those that llama.cpp's converter gives a model, and
// its quantiser where a type does not fit.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>

#include "checkpoint/gguf.h"
#include "checkpoint/gguf_names.h"
#include "checkpoint/gguf_writer.h"
#include "checkpoint/quote.h"
#include "checkpoint/rope_factors.h"
#include "export/export.h"
#include "export/gguf_description.h"
#include "export/weight_rows.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

struct FileType {
  uint32_t id;  // general.file_type
  GgufEncoding matrices, head;
};

FileType FileTypeOf(GgufFileType type) {
  switch (type) {
    case GgufFileType::kF32:
      return {0, GgufEncoding::kF32, GgufEncoding::kF32};
    case GgufFileType::kF16:
      return {1, GgufEncoding::kF16, GgufEncoding::kF16};
    case GgufFileType::kBF16:
      return {32, GgufEncoding::kBF16, GgufEncoding::kBF16};
    case GgufFileType::kQ8_0:
      return {7, GgufEncoding::kQ8_0, GgufEncoding::kQ8_0};
    case GgufFileType::kQ4_K:
      return {14, GgufEncoding::kQ4_K, GgufEncoding::kQ6_K};
  }
  internal::CheckFailed(__FILE__, __LINE__, "a known file type");
}

bool IsQuantized(GgufEncoding type) { return BlocksOf(type).values > 1; }

// What rows of `cols` values are stored in where `wanted` has other blocks.
GgufEncoding Fitting(GgufEncoding wanted, uint64_t cols) {
  const auto fits = [&](GgufEncoding type) { return cols % BlocksOf(type).values == 0; };
  if (fits(wanted)) return wanted;
  const GgufEncoding next = wanted == GgufEncoding::kQ4_K   ? GgufEncoding::kQ5_0
                            : wanted == GgufEncoding::kQ6_K ? GgufEncoding::kQ8_0
                                                            : GgufEncoding::kF16;
  return fits(next) ? next : GgufEncoding::kF16;
}

GgufEncoding WantedType(const TensorSpec& spec, const ModelConfig& config, const FileType& type) {
  if (spec.shape.size() == 1) return GgufEncoding::kF32;
  const bool head = spec.name == "lm_head.weight" ||
                    (config.tie_embeddings && spec.name == "model.embed_tokens.weight");
  return head ? type.head : type.matrices;
}

class GgufExport {
 public:
  GgufExport(const ExportOptions& options, Executor& executor, Progress& progress)
      : options_(options), executor_(executor), progress_(progress) {}

  StatusOr<ExportReport> Run() {
    TQ_RETURN_IF_ERROR(CheckOutputFile(options_.output, options_.model));
    TQ_ASSIGN_OR_RETURN(weights_, WeightRows::Open(options_.model));
    auto config = DescribeForGguf(weights_->config(), report_.notes);
    if (!config.ok()) return config.status().WithContext(options_.model.string());
    config_ = *std::move(config);
    PlanTensors();
    TQ_ASSIGN_OR_RETURN(const GgufKeys keys, MakeKeys());
    TQ_ASSIGN_OR_RETURN(GgufWriter writer, GgufWriter::Create(options_.output, keys, outputs_));
    report_.parameters = NumParameters(config_);
    report_.bytes = writer.file_bytes();
    report_.tensors = outputs_.size();
    progress_.Begin("export", report_.parameters);
    for (size_t i = 0; i < specs_.size(); ++i) TQ_RETURN_IF_ERROR(WriteTensor(i, writer));
    if (!rope_factors_.empty()) {
      TQ_RETURN_IF_ERROR(writer.Append({reinterpret_cast<const uint8_t*>(rope_factors_.data()),
                                        rope_factors_.size() * sizeof(float)}));
    }
    progress_.End();
    // Meanwhile somebody else may have made the file.
    TQ_RETURN_IF_ERROR(CheckOutputFile(options_.output, options_.model));
    TQ_RETURN_IF_ERROR(writer.Commit());
    return report_;
  }

 private:
  void PlanTensors() {
    const FileType type = FileTypeOf(options_.type);
    specs_ = ModelTensors(config_);
    for (const TensorSpec& spec : specs_) {
      const GgufEncoding wanted = WantedType(spec, config_, type);
      const GgufEncoding stored = Fitting(wanted, spec.shape.back());
      outputs_.push_back({GgufTensorName(spec.name, config_), stored, spec.shape});
      if (stored != wanted) CountFallback(wanted, stored);
    }
    if (config_.rope_scaling.kind == RopeScaling::Kind::kLlama3) {
      rope_factors_ = RopeFactors(config_.head_dim, config_.rope_theta, config_.rope_scaling);
      outputs_.push_back(
          {std::string(kGgufRopeFactors), GgufEncoding::kF32, Shape{rope_factors_.size()}});
    }
  }

  void CountFallback(GgufEncoding wanted, GgufEncoding type) {
    for (TypeFallback& fallback : report_.fallbacks) {
      if (fallback.wanted != wanted || fallback.type != type) continue;
      ++fallback.tensors;
      return;
    }
    report_.fallbacks.push_back({wanted, type, 1});
  }

  StatusOr<GgufKeys> MakeKeys() {
    const FileType type = FileTypeOf(options_.type);
    GgufKeys keys;
    AppendConfigKeys(config_, keys);
    keys.Uint("general.file_type", type.id);
    // The version of the block formats.
    if (IsQuantized(type.matrices)) keys.Uint("general.quantization_version", 2);
    TQ_ASSIGN_OR_RETURN(TokenizerData data, weights_->gguf() != nullptr
                                                ? TokenizerDataFromGguf(*weights_->gguf())
                                                : TokenizerDataFromFolder(options_.model));
    // The tokenizer's word counts, as in llama.cpp's converter.
    if (data.bos < 0) data.bos = config_.bos_id;
    if (data.eos < 0) data.eos = config_.eos_id;
    const auto unsaid = AppendTokenizerKeys(data, config_.vocab_size, keys);
    if (!unsaid.ok()) return unsaid.status().WithContext(options_.model.string());
    for (const std::string& what : *unsaid) {
      report_.notes.push_back(fmt::format("GGUF has no word for: {}", what));
    }
    return keys;
  }

  Status WriteTensor(size_t index, GgufWriter& writer) {
    const TensorSpec& spec = specs_[index];
    const GgufOutputTensor& output = outputs_[index];
    const bool reordered = HasRotaryRows(spec.name, config_);
    const bool adds_one = config_.norm_plus_one && IsGgufNorm(spec.name);
    const uint64_t head_dim = reordered ? config_.head_dim : 1;
    const Extent extent = ExtentOf(spec);
    const uint64_t blocks = extent.cols / BlocksOf(output.type).values;
    const uint64_t row_bytes = output.row_bytes();
    std::vector<uint8_t> encoded;
    std::vector<Status> results;
    std::vector<float> sums;
    const auto consume = [&](const float* rows, uint64_t begin, uint64_t end) -> Status {
      if (adds_one) {
        sums.assign(rows, rows + (end - begin) * extent.cols);
        for (float& value : sums) value += 1;
        rows = sums.data();
      }
      encoded.resize((end - begin) * row_bytes);
      results.assign(end - begin, OkStatus());
      // Blocks hold whole heads, inside which rows change places.
      const auto source_of = [&](uint64_t row) {
        return reordered ? HuggingFaceRow(row, head_dim) : row;
      };
      executor_.ParallelFor(end - begin, 1, [&](size_t from, size_t to, size_t) {
        for (size_t row = from; row < to; ++row) {
          results[row] = EncodeBlocks(output.type, rows + source_of(row) * extent.cols, blocks,
                                      &encoded[row * row_bytes]);
        }
      });
      for (uint64_t row = 0; row < end - begin; ++row) {
        if (results[row].ok()) continue;
        return results[row].WithContext(fmt::format("{}: tensor {}: row {}",
                                                    options_.model.string(), Quote(spec.name),
                                                    begin + source_of(row)));
      }
      TQ_RETURN_IF_ERROR(writer.Append(encoded));
      done_ += (end - begin) * extent.cols;
      progress_.Update(done_, output.name);
      return OkStatus();
    };
    return ForEachRowBlock(*weights_, spec, head_dim, executor_, consume);
  }

  const ExportOptions& options_;
  Executor& executor_;
  Progress& progress_;
  std::unique_ptr<WeightRows> weights_;
  ModelConfig config_;  // as the file describes the model
  std::vector<TensorSpec> specs_;
  std::vector<float> rope_factors_;        // empty: the model has none
  std::vector<GgufOutputTensor> outputs_;  // those of specs_, then that of rope_factors_
  uint64_t done_ = 0;                      // weights
  ExportReport report_;
};

}  // namespace

StatusOr<ExportReport> ExportGguf(const ExportOptions& options, Executor& executor,
                                  Progress& progress) {
  return GgufExport(options, executor, progress).Run();
}

}  // namespace tq
