#include "compress/verify.h"

#include <fmt/format.h>

#include <utility>

#include "model/layer_tensors.h"
#include "model/output_head.h"
#include "model/transformer.h"
#include "model/transformer_ops.h"

namespace tq {

StatusOr<std::unique_ptr<StreamedReference>> StreamedReference::Create(
    const ModelSource& source, CalibrationTokens text, uint64_t memory_limit,
    const std::filesystem::path& folder, Executor& executor, Progress& progress,
    const DenseDevice* device) {
  const ModelConfig& c = source.config();
  TQ_ASSIGN_OR_RETURN(CalibrationStream stream,
                      CalibrationStream::Create(source, text, memory_limit, folder, device));
  progress.Begin("reference", c.num_layers);
  for (uint32_t layer = 0; layer < c.num_layers; ++layer) {
    TQ_RETURN_IF_ERROR(stream.RunLayer({}, executor).status());
    progress.Update(layer + 1, fmt::format("layer {}", layer));
  }
  progress.End();
  auto reference = std::unique_ptr<StreamedReference>(
      new StreamedReference(source, std::move(text), std::move(stream), executor));
  TQ_ASSIGN_OR_RETURN(reference->norm_, LoadFinalNorm(c, VectorsOf(source)));
  TQ_ASSIGN_OR_RETURN(Tensor head, source.LoadFloat(c.tie_embeddings ? "model.embed_tokens.weight"
                                                                     : "lm_head.weight"));
  TQ_ASSIGN_OR_RETURN(reference->head_, MakeDenseGroup("the head", {std::move(head)}, device));
  return reference;
}

Status StreamedReference::Begin(uint64_t index, std::span<const int32_t> window) {
  TQ_CHECK(index < text_.windows() && window.size() == text_.context);
  window_ = index;
  return OkStatus();
}

Status StreamedReference::Logits(uint64_t first, uint64_t count, float* out) {
  const ModelConfig& c = config();
  ForwardContext context;
  context.executor = executor_;
  TQ_RETURN_IF_ERROR(HeadLogits(context, c, norm_, *head_,
                                stream_.States(window_) + first * c.hidden_size, count, normed_,
                                out));
  const uint64_t bad = FirstNonFinite(out, count * c.vocab_size);
  if (bad == count * c.vocab_size) return OkStatus();
  return DataLoss("the logits of position {} have {} for token {}", first + bad / c.vocab_size,
                  out[bad], bad % c.vocab_size);
}

StatusOr<EvaluateResult> StreamedReference::Score(const std::filesystem::path& path,
                                                  Progress& progress) {
  TQ_ASSIGN_OR_RETURN(const auto model, Transformer::Load(path));
  EvaluateOptions options;
  options.context = text_.context;  // the first token of each window is BOS already, if it is used
  ForwardContext context;
  context.executor = executor_;
  return Evaluate(*model, *this, text_.ids, options, context, progress);
}

}  // namespace tq
