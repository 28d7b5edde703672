// A conversation with a model: prompts go in, tokens and text come out, the KV cache is
// kept between turns.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "generate/utf8_stream.h"
#include "model/sampler.h"
#include "model/transformer.h"
#include "tokenizer/tokenizer.h"

namespace tq {

struct SessionOptions {
  uint64_t context = 0;  // positions; 0: as many as the model was trained for
  SamplerOptions sampler;
};

struct SessionStats {
  uint64_t prompt_tokens = 0;     // run through the model by Prompt
  uint64_t generated_tokens = 0;  // drawn by Next, end-of-generation tokens included
  double prompt_seconds = 0;
  double generate_seconds = 0;
  double first_token_seconds = 0;  // from the last Prompt's start to its first token
};

enum class StopReason {
  kNone,             // it goes on
  kEndOfGeneration,  // the model ended its turn
  kMaxTokens,        // the caller's limit
  kContextFull,      // no position is left
  kCancelled,        // base/cancel.h, or the caller's function returned false
};

class Session {
 public:
  // All three must outlive the session; context.executor must be set.
  static StatusOr<std::unique_ptr<Session>> Create(Transformer& model, const Tokenizer& tokenizer,
                                                   const ForwardContext& context,
                                                   const SessionOptions& options);

  // Appends `ids` to the conversation and runs them through the model. An error, which
  // leaves the conversation as it was, when there are none, when one is no token, when
  // they do not fit into what is left of the context, or when the user cancels.
  Status Prompt(std::span<const int32_t> ids);

  struct Step {
    int32_t token = -1;  // none when the context is full or the user cancels
    std::string text;    // whole characters that became complete
    StopReason stop = StopReason::kNone;
  };
  // Draws one token. After a step with a stop reason, what was held back is in its text;
  // the next thing to do is Prompt (or Next again after kCancelled). Calling it before any
  // prompt is an error.
  StatusOr<Step> Next();

  // Next until it stops or `max_tokens` are drawn; each piece of text goes to `on_text`,
  // which returns false to stop.
  StatusOr<StopReason> Generate(uint64_t max_tokens,
                                const std::function<bool(std::string_view text)>& on_text);

  // Keeps the first `length` tokens of the conversation, with what the cache has of them.
  void Truncate(size_t length);

  // Tokens that end an answer beside those that the tokenizer knows (Tokenizer::IsEndOfGeneration).
  void SetStopTokens(std::vector<int32_t> tokens);

  // Forgets the conversation, keeps the statistics and the sampler's state.
  void Reset();

  uint64_t capacity() const { return cache_.capacity(); }
  // Prompts and answers so far.
  const std::vector<int32_t>& history() const { return history_; }
  const SessionStats& stats() const { return stats_; }

 private:
  Session(Transformer& model, const Tokenizer& tokenizer, const ForwardContext& context,
          KvCache cache, Sampler sampler);
  // Brings the cache up to the end of history_ and the logits behind it into logits_.
  Status CatchUp();
  // The token that follows history_, with the cache up to its end.
  StatusOr<int32_t> ChooseToken();

  Transformer& model_;
  const Tokenizer& tokenizer_;
  ForwardContext context_;
  KvCache cache_;
  Sampler sampler_;
  Utf8Stream text_;
  std::vector<int32_t> stop_tokens_;  // ascending
  std::vector<int32_t> history_;      // the cache holds a prefix of it
  std::vector<float> logits_;         // after the last token of the cache
  SessionStats stats_;
  double prompt_start_ = 0;
  bool first_token_due_ = false;
};

}  // namespace tq
