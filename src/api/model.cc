#include "turboquant/model.h"

#include <algorithm>

#include "api/status_bridge.h"
#include "device/thread_pool.h"
#include "evaluate/evaluate.h"
#include "evaluate/task_file.h"
#include "evaluate/task_tokens.h"
#include "evaluate/tasks.h"
#include "generate/session.h"
#include "kernels/isa.h"
#include "tokenizer/tokenizer.h"

namespace turboquant {

struct Model::Impl {
  std::unique_ptr<tq::ThreadPool> pool;
  std::unique_ptr<tq::Tokenizer> tokenizer;
  std::unique_ptr<tq::Transformer> transformer;
  ModelInfo info;

  tq::ForwardContext context() const { return {pool.get(), tq::MatmulPath::kFast}; }
};

namespace {

tq::StatusOr<std::string> RunSession(tq::Session& session, const std::vector<int32_t>& prompt,
                                     uint64_t max_tokens,
                                     const std::function<bool(std::string_view)>& on_text) {
  TQ_RETURN_IF_ERROR(session.Prompt(prompt));
  std::string text;
  TQ_ASSIGN_OR_RETURN(const tq::StopReason reason,
                      session.Generate(max_tokens, [&](std::string_view piece) {
                        text += piece;
                        return !on_text || on_text(piece);
                      }));
  (void)reason;  // every way to stop leaves a text
  return text;
}

tq::StatusOr<tq::TaskScore> ScoreFile(const std::filesystem::path& file, uint64_t limit,
                                      const tq::Tokenizer& tokenizer, tq::Transformer& model,
                                      const tq::ForwardContext& context) {
  TQ_ASSIGN_OR_RETURN(const tq::TaskFile tasks, tq::ReadTasks(file, limit));
  TQ_ASSIGN_OR_RETURN(const tq::TaskTokens tokens, tq::TokenizeTasks(tasks, tokenizer));
  tq::NullProgress progress;
  TQ_ASSIGN_OR_RETURN(const auto answers,
                      tq::AnswerTasks(model, {&tokens, 1}, context, "questions", progress));
  return tq::ScoreTask(tokens, answers[0]);
}

}  // namespace

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Result<Model> Model::Load(const std::filesystem::path& path, uint32_t threads) {
  auto impl = std::make_unique<Impl>();
  const tq::Status status = [&]() -> tq::Status {
    TQ_RETURN_IF_ERROR(tq::CheckIsa());
    TQ_ASSIGN_OR_RETURN(impl->pool, tq::ThreadPool::Create(threads));
    TQ_ASSIGN_OR_RETURN(impl->tokenizer, tq::Tokenizer::FromModel(path));
    TQ_ASSIGN_OR_RETURN(impl->transformer, tq::Transformer::Load(path));
    return tq::OkStatus();
  }();
  if (!status.ok()) return tq::ToPublicError(status);
  const tq::Transformer& model = *impl->transformer;
  impl->info = {.parameters = model.num_parameters(),
                .file_bytes = model.file_bytes(),
                .bits_per_weight = model.bits_per_weight(),
                .vocab_size = model.config().vocab_size,
                .max_context = model.config().max_position};
  return Model(std::move(impl));
}

ModelInfo Model::info() const { return impl_->info; }

std::vector<int32_t> Model::Tokenize(std::string_view text) const {
  return impl_->tokenizer->Encode(text);
}

Result<std::string> Model::Detokenize(const std::vector<int32_t>& tokens) const {
  tq::StatusOr<std::string> text = impl_->tokenizer->Decode(tokens);
  if (!text.ok()) return tq::ToPublicError(text.status());
  return *std::move(text);
}

Result<std::string> Model::Generate(std::string_view prompt, const GenerateOptions& options,
                                    const std::function<bool(std::string_view)>& on_text) {
  const std::vector<int32_t> ids = impl_->tokenizer->EncodePrompt(prompt);
  tq::SessionOptions session_options;
  session_options.context =
      options.context != 0
          ? options.context
          : std::min<uint64_t>(ids.size() + options.max_tokens, impl_->info.max_context);
  session_options.sampler.temperature = static_cast<float>(options.temperature);
  session_options.sampler.top_k = options.top_k;
  session_options.sampler.top_p = static_cast<float>(options.top_p);
  session_options.sampler.seed = options.seed;
  auto session = tq::Session::Create(*impl_->transformer, *impl_->tokenizer, impl_->context(),
                                     session_options);
  if (!session.ok()) return tq::ToPublicError(session.status());
  auto text = RunSession(**session, ids, options.max_tokens, on_text);
  if (!text.ok()) return tq::ToPublicError(text.status());
  return *std::move(text);
}

Result<Evaluation> Model::Evaluate(std::string_view text, const EvaluateOptions& options,
                                   Model* reference) {
  tq::EvaluateOptions evaluate;
  evaluate.context = options.context;
  evaluate.max_windows = options.windows;
  evaluate.bos = impl_->tokenizer->window_bos();
  tq::NullProgress progress;
  auto result =
      tq::Evaluate(*impl_->transformer, reference ? reference->impl_->transformer.get() : nullptr,
                   Tokenize(text), evaluate, impl_->context(), progress);
  if (!result.ok()) return tq::ToPublicError(result.status());
  Evaluation out;
  out.tokens = result->tokens;
  out.windows = result->windows;
  out.perplexity = result->perplexity;
  out.perplexity_stderr = result->perplexity_stderr;
  if (result->kl) {
    out.has_kl = true;
    out.kl_mean = result->kl->mean;
    out.kl_stderr = result->kl->stderr_;
    out.kl_p99 = result->kl->p99;
    out.top1_agreement = result->kl->top1_agreement;
  }
  return out;
}

Result<TaskAccuracy> Model::EvaluateTasks(const std::filesystem::path& file, uint64_t limit) {
  const auto score =
      ScoreFile(file, limit, *impl_->tokenizer, *impl_->transformer, impl_->context());
  if (!score.ok()) return tq::ToPublicError(score.status());
  TaskAccuracy out;
  out.questions = score->right.questions;
  out.accuracy = score->right.value();
  out.accuracy_stderr = score->right.error();
  out.accuracy_norm = score->right_norm.value();
  out.accuracy_norm_stderr = score->right_norm.error();
  return out;
}

}  // namespace turboquant
