#include "generate/session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/cancel.h"
#include "base/checked.h"

namespace tq {
namespace {

// Tokens of a prompt run between two looks at the cancel flag, rounded up to what runs at once.
constexpr uint64_t kCancelInterval = 512;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Session::Session(Transformer& model, const Tokenizer& tokenizer, const ForwardContext& context,
                 KvCache cache, Sampler sampler)
    : model_(model),
      tokenizer_(tokenizer),
      context_(context),
      cache_(std::move(cache)),
      sampler_(std::move(sampler)) {}

StatusOr<std::unique_ptr<Session>> Session::Create(Transformer& model, const Tokenizer& tokenizer,
                                                   const ForwardContext& context,
                                                   const SessionOptions& options) {
  const uint64_t trained = model.config().max_position;
  const uint64_t capacity = options.context != 0 ? options.context : trained;
  if (capacity > trained) {
    return InvalidArgument("context {}: the model was trained for at most {} positions", capacity,
                           trained);
  }
  if (tokenizer.vocab_size() > model.config().vocab_size) {
    return InvalidArgument("tokenizer: {} tokens, but the model's vocabulary has {}",
                           tokenizer.vocab_size(), model.config().vocab_size);
  }
  TQ_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(capacity));
  TQ_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create(options.sampler));
  return std::unique_ptr<Session>(
      new Session(model, tokenizer, context, std::move(cache), std::move(sampler)));
}

Status Session::CatchUp() {
  logits_.resize(model_.config().vocab_size);
  const uint64_t start = cache_.length();
  const auto rest = std::span<const int32_t>(history_).subspan(start);
  const uint64_t together = RoundUp(kCancelInterval, model_.positions_at_once());
  for (size_t at = 0; at < rest.size(); at += together) {
    const auto piece = rest.subspan(at, std::min<size_t>(together, rest.size() - at));
    const bool last = at + piece.size() == rest.size();
    Status status = CheckCancelled();
    if (status.ok()) {
      status = model_.Forward(context_, cache_, piece, last ? Logits::kLast : Logits::kNone,
                              logits_.data());
    }
    if (!status.ok()) {
      // The last token will be run again, so that the logits are those behind it.
      cache_.Truncate(start == 0 ? 0 : start - 1);
      return status;
    }
  }
  return OkStatus();
}

Status Session::Prompt(std::span<const int32_t> ids) {
  if (ids.empty()) return InvalidArgument("prompt: it has no tokens");
  const uint64_t left = cache_.capacity() - std::min<uint64_t>(cache_.capacity(), history_.size());
  if (ids.size() > left) {
    return InvalidArgument("prompt: {} tokens, but only {} of the context's {} positions are free",
                           ids.size(), left, cache_.capacity());
  }
  prompt_start_ = Now();
  const size_t before = history_.size();
  history_.insert(history_.end(), ids.begin(), ids.end());
  if (Status status = CatchUp(); !status.ok()) {
    history_.resize(before);
    return status.WithContext("prompt");
  }
  text_ = Utf8Stream();
  stats_.prompt_tokens += ids.size();
  stats_.prompt_seconds += Now() - prompt_start_;
  first_token_due_ = true;
  return OkStatus();
}

StatusOr<int32_t> Session::ChooseToken() {
  // Rows beyond the tokenizer's vocabulary are padding: they have logits, but no text.
  const auto limit = static_cast<uint32_t>(tokenizer_.vocab_size());
  const TokenChoice choice{limit, sampler_.is_greedy() ? nullptr : &sampler_, history_};
  if (cache_.length() > 0 && history_.size() == cache_.length() + 1) {
    return model_.NextToken(context_, cache_, {&history_.back(), 1}, choice);
  }
  TQ_RETURN_IF_ERROR(CatchUp());
  return tq::ChooseToken(logits_, choice);
}

StatusOr<Session::Step> Session::Next() {
  if (history_.empty()) return FailedPrecondition("session: Next before any prompt");
  const double start = Now();
  if (history_.size() > cache_.capacity()) {
    return Step{-1, text_.Finish(), StopReason::kContextFull};
  }
  if (CancelRequested()) return Step{-1, text_.Finish(), StopReason::kCancelled};
  TQ_ASSIGN_OR_RETURN(const int32_t token, ChooseToken());
  Step step{token, {}, StopReason::kNone};
  if (tokenizer_.IsEndOfGeneration(token) ||
      std::binary_search(stop_tokens_.begin(), stop_tokens_.end(), token)) {
    step.text = text_.Finish();
    step.stop = StopReason::kEndOfGeneration;
  } else {
    TQ_ASSIGN_OR_RETURN(const std::string_view bytes, tokenizer_.DecodeNext(token));
    step.text = text_.Push(bytes);
  }
  history_.push_back(token);
  ++stats_.generated_tokens;
  stats_.generate_seconds += Now() - start;
  if (std::exchange(first_token_due_, false)) stats_.first_token_seconds = Now() - prompt_start_;
  return step;
}

StatusOr<StopReason> Session::Generate(uint64_t max_tokens,
                                       const std::function<bool(std::string_view text)>& on_text) {
  for (uint64_t i = 0; i < max_tokens; ++i) {
    TQ_ASSIGN_OR_RETURN(const Step step, Next());
    if (!step.text.empty() && !on_text(step.text)) return StopReason::kCancelled;
    if (step.stop != StopReason::kNone) return step.stop;
  }
  const std::string rest = text_.Finish();
  if (!rest.empty() && !on_text(rest)) return StopReason::kCancelled;
  return StopReason::kMaxTokens;
}

void Session::Truncate(size_t length) {
  if (length >= history_.size()) return;
  history_.resize(length);
  // The last token will be run again, so that the logits are those behind it.
  cache_.Truncate(length == 0 ? 0 : length - 1);
  text_ = Utf8Stream();
}

void Session::SetStopTokens(std::vector<int32_t> tokens) {
  stop_tokens_ = std::move(tokens);
  std::sort(stop_tokens_.begin(), stop_tokens_.end());
}

void Session::Reset() { Truncate(0); }

}  // namespace tq
