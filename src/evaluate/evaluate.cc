#include "evaluate/evaluate.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/cancel.h"
#include "base/checked.h"
#include "evaluate/logit_score.h"

namespace tq {
namespace {

// Logits held at once for the reference: a whole half window for common vocabularies
// (256 positions of 49,152 tokens take 48 MiB), a part of it for longer windows.
constexpr uint64_t kReferenceLogitBytes = uint64_t{64} << 20;

struct MeanAndError {
  double mean = 0, stderr_ = 0;
};

MeanAndError MeanOf(const std::vector<double>& values) {
  const double n = static_cast<double>(values.size());
  double sum = 0;
  for (const double v : values) sum += v;
  const double mean = sum / n;
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / n / (n - 1)) : 0};
}

// Linear between the two nearest of the sorted values.
double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

// A model on the reference path as the reference of another.
class TransformerReference final : public LogitReference {
 public:
  static StatusOr<TransformerReference> Create(Transformer& model, uint64_t window,
                                               Executor& executor) {
    TQ_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(window));
    return TransformerReference(model, executor, std::move(cache));
  }
  const ModelConfig& config() const override { return model_.config(); }
  Status Begin(uint64_t, std::span<const int32_t> window) override {
    window_ = window;
    cache_.Truncate(0);
    return OkStatus();
  }
  Status Logits(uint64_t first, uint64_t count, float* out) override {
    const uint64_t skipped = first - cache_.length();
    if (skipped > 0) {
      TQ_RETURN_IF_ERROR(model_.Forward(context_, cache_, window_.subspan(cache_.length(), skipped),
                                        tq::Logits::kNone, nullptr));
    }
    return model_.Forward(context_, cache_, window_.subspan(first, count), tq::Logits::kAll, out);
  }

 private:
  TransformerReference(Transformer& model, Executor& executor, KvCache cache)
      : model_(model), context_{&executor, MatmulPath::kReference}, cache_(std::move(cache)) {}

  Transformer& model_;
  ForwardContext context_;
  KvCache cache_;
  std::span<const int32_t> window_;
};

// Runs windows and gathers the scores of their positions.
class WindowScorer {
 public:
  static StatusOr<WindowScorer> Create(Transformer& model, LogitReference* reference,
                                       uint64_t window, bool single_tokens,
                                       const ForwardContext& context) {
    TQ_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(window));
    return WindowScorer(model, reference, single_tokens, context, std::move(cache));
  }

  // Scores the predictions of tokens size/2 + 1 .. size - 1.
  Status Run(uint64_t index, std::span<const int32_t> window) {
    const uint64_t first = window.size() / 2, end = window.size() - 1;
    const uint64_t vocab = model_.config().vocab_size;
    const uint64_t step =
        std::clamp<uint64_t>(kReferenceLogitBytes / (vocab * sizeof(float)), 1, end - first);
    cache_.Truncate(0);
    TQ_RETURN_IF_ERROR(ForEachRun(window.first(first), [&](uint64_t, auto tokens) {
      return model_.Forward(context_, cache_, tokens, Logits::kNone, nullptr);
    }));
    if (reference_ != nullptr) {
      TQ_RETURN_IF_ERROR(reference_->Begin(index, window).WithContext("reference"));
      reference_logits_.resize(step * vocab);
    }
    for (uint64_t at = first; at < end; at += step) {
      const auto piece = window.subspan(at, std::min(step, end - at));
      if (reference_ != nullptr) {
        TQ_RETURN_IF_ERROR(reference_->Logits(at, piece.size(), reference_logits_.data())
                               .WithContext("reference"));
      }
      const int32_t* targets = window.data() + at + 1;
      TQ_RETURN_IF_ERROR(ForEachRun(piece, [&](uint64_t run, auto tokens) {
        const auto score = [&](uint64_t begin, uint64_t count, const float* logits) {
          Score(logits, run + begin, count, targets + run + begin);
          return OkStatus();
        };
        return model_.ForwardBlocks(context_, cache_, tokens, 0, score);
      }));
    }
    return OkStatus();
  }

  const std::vector<double>& nll() const { return nll_; }
  const std::vector<double>& reference_nll() const { return reference_nll_; }
  const std::vector<double>& kl() const { return kl_; }
  uint64_t top1() const { return top1_; }

 private:
  WindowScorer(Transformer& model, LogitReference* reference, bool single_tokens,
               const ForwardContext& context, KvCache cache)
      : model_(model),
        reference_(reference),
        single_tokens_(single_tokens),
        context_(context),
        cache_(std::move(cache)) {}

  // run(first, tokens) for all tokens at once, or for each.
  template <typename Run>
  Status ForEachRun(std::span<const int32_t> tokens, const Run& run) const {
    const uint64_t step = single_tokens_ ? 1 : tokens.size();
    for (uint64_t i = 0; i < tokens.size(); i += step) {
      TQ_RETURN_IF_ERROR(run(i, tokens.subspan(i, step)));
    }
    return OkStatus();
  }

  // `begin`: of the block within reference_logits_.
  void Score(const float* logits, uint64_t begin, uint64_t count, const int32_t* targets) {
    const uint64_t vocab = model_.config().vocab_size;
    const float* other = reference_ != nullptr ? reference_logits_.data() + begin * vocab : nullptr;
    scores_.resize(count);
    ScoreLogits(*context_.executor, logits, other, vocab, targets, scores_);
    for (const LogitScore& score : scores_) {
      nll_.push_back(score.nll);
      if (reference_ == nullptr) continue;
      reference_nll_.push_back(score.reference_nll);
      kl_.push_back(score.kl);
      top1_ += score.top1;
    }
  }

  Transformer& model_;
  LogitReference* reference_;
  bool single_tokens_;
  ForwardContext context_;
  KvCache cache_;
  std::vector<float> reference_logits_;  // [step, vocab]
  std::vector<LogitScore> scores_;
  std::vector<double> nll_, reference_nll_, kl_;  // by position, in the text's order
  uint64_t top1_ = 0;
};

Status CheckOptions(const ModelConfig& model, const ModelConfig* reference,
                    std::span<const int32_t> tokens, const EvaluateOptions& options) {
  if (options.context < 4 || options.context > model.max_position) {
    return InvalidArgument("context {}: must be from 4 to the model's {} positions",
                           options.context, model.max_position);
  }
  if (options.bos < -1 || options.bos >= static_cast<int64_t>(model.vocab_size)) {
    return InvalidArgument("bos {}: no token of the vocabulary of {}", options.bos,
                           model.vocab_size);
  }
  if (reference != nullptr && reference->vocab_size != model.vocab_size) {
    return InvalidArgument("reference: its vocabulary has {} tokens, the model's {}",
                           reference->vocab_size, model.vocab_size);
  }
  if (reference != nullptr && options.context > reference->max_position) {
    return InvalidArgument("context {}: the reference has only {} positions", options.context,
                           reference->max_position);
  }
  if (tokens.size() / options.context < 2) {
    return InvalidArgument("text: {} tokens are fewer than two windows of {}", tokens.size(),
                           options.context);
  }
  return OkStatus();
}

StatusOr<EvaluateResult> Run(Transformer& model, LogitReference* reference,
                             std::span<const int32_t> tokens, const EvaluateOptions& options,
                             const ForwardContext& context, Progress& progress) {
  uint64_t windows = tokens.size() / options.context;
  if (options.max_windows != 0) windows = std::min(windows, options.max_windows);
  TQ_ASSIGN_OR_RETURN(WindowScorer scorer, WindowScorer::Create(model, reference, options.context,
                                                                options.single_tokens, context));

  const ProgressStage stage(progress, "evaluate", windows);
  std::vector<int32_t> window;
  double total_nll = 0;
  for (uint64_t w = 0; w < windows; ++w) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    const auto source = tokens.subspan(w * options.context, options.context);
    window.assign(source.begin(), source.end());
    if (options.bos >= 0) window[0] = options.bos;
    const size_t scored = scorer.nll().size();
    TQ_RETURN_IF_ERROR(scorer.Run(w, window).WithContext(fmt::format("window {}", w)));
    for (size_t i = scored; i < scorer.nll().size(); ++i) total_nll += scorer.nll()[i];
    const double perplexity = std::exp(total_nll / static_cast<double>(scorer.nll().size()));
    progress.Update(w + 1, fmt::format("perplexity {:.4f}", perplexity));
  }

  EvaluateResult result;
  result.windows = windows;
  result.tokens = scorer.nll().size();
  const MeanAndError nll = MeanOf(scorer.nll());
  result.perplexity = std::exp(nll.mean);
  result.perplexity_stderr = nll.stderr_ * result.perplexity;
  if (reference != nullptr) {
    const MeanAndError kl = MeanOf(scorer.kl()), reference_nll = MeanOf(scorer.reference_nll());
    result.kl =
        EvaluateResult::Kl{kl.mean,
                           kl.stderr_,
                           Quantile(scorer.kl(), 0.99),
                           static_cast<double>(scorer.top1()) / static_cast<double>(result.tokens),
                           std::exp(reference_nll.mean),
                           reference_nll.stderr_ * std::exp(reference_nll.mean)};
  }
  return result;
}

}  // namespace

StatusOr<EvaluateResult> Evaluate(Transformer& model, Transformer* reference,
                                  std::span<const int32_t> tokens, const EvaluateOptions& options,
                                  const ForwardContext& context, Progress& progress) {
  TQ_RETURN_IF_ERROR(CheckOptions(
      model.config(), reference != nullptr ? &reference->config() : nullptr, tokens, options));
  if (reference == nullptr) return Run(model, nullptr, tokens, options, context, progress);
  TQ_ASSIGN_OR_RETURN(auto logits,
                      TransformerReference::Create(*reference, options.context, *context.executor));
  return Run(model, &logits, tokens, options, context, progress);
}

StatusOr<EvaluateResult> Evaluate(Transformer& model, LogitReference& reference,
                                  std::span<const int32_t> tokens, const EvaluateOptions& options,
                                  const ForwardContext& context, Progress& progress) {
  TQ_RETURN_IF_ERROR(CheckOptions(model.config(), &reference.config(), tokens, options));
  return Run(model, &reference, tokens, options, context, progress);
}

}  // namespace tq
