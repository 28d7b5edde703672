// Multiple-choice questions as the tokens that a model sees.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "evaluate/task_file.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// Choice i is the sequence `shared`, choices[i].tokens; the tokens from choices[i].first on are
// scored. Of these shared ones are none, nor the one before the first: 1 <= first < tokens.size().
struct QuestionTokens {
  struct Choice {
    std::vector<int32_t> tokens;
    size_t first = 0;
    uint64_t characters = 0;  // of the choice's text
  };
  uint64_t line = 0;
  uint32_t gold = 0;
  std::vector<int32_t> shared;  // none or several; run once for all choices
  std::vector<Choice> choices;

  // That the longest choice takes in a KV cache: its last token is only predicted.
  uint64_t positions() const {
    uint64_t longest = 0;
    for (const Choice& choice : choices) {
      longest = std::max<uint64_t>(longest, choice.tokens.size() - 1);
    }
    return shared.size() + longest;
  }
};

struct TaskTokens {
  std::string name;  // of the file
  std::vector<QuestionTokens> questions;

  // That the longest of all takes.
  uint64_t positions() const {
    uint64_t longest = 0;
    for (const QuestionTokens& question : questions) {
      longest = std::max(longest, question.positions());
    }
    return longest;
  }
};

// Context and choice are encoded together, after BOS where the model expects it, with a space
// between them unless the context is empty or ends, or the choice begins, with white space. As in
// lm-evaluation-harness (EleutherAI; _encode_pair) white space that ends the context belongs to
// what is scored, and so does what lies behind the tokens of the context encoded alone. Where a
// token spans both, so that they differ before that, all that differs is scored; the harness cuts
// by the number of the context's tokens. Where nothing comes before the first scored token, BOS
// does, or EOS in a tokenizer without. A choice that has no token of its own is an error.
StatusOr<TaskTokens> TokenizeTasks(const TaskFile& tasks, const Tokenizer& tokenizer);

}  // namespace tq
