// Accuracy on multiple-choice questions: which choice a model finds likeliest.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "evaluate/task_tokens.h"
#include "model/transformer.h"

namespace tq {

// What a model says to a question. The likeliest choice, of equals the first, is taken by the
// log-likelihood of its tokens (lm-evaluation-harness: acc), and by that divided by the characters
// of its text (acc_norm), which does not favour short choices and does not depend on how a
// tokenizer cuts them.
struct TaskAnswer {
  std::vector<double> log_likelihoods;  // of the choices
  uint32_t likeliest = 0, likeliest_norm = 0;
};

// A share of questions, and its standard error as that of a binomial proportion.
struct TaskShare {
  uint64_t count = 0, questions = 0;
  double value() const;
  double error() const;
  void Add(const TaskShare& other);
};

struct TaskScore {
  TaskShare right, right_norm;
};

// Questions that take more positions than the model has are an error that names the file and the
// line: nothing is cut off.
Status CheckTaskPositions(std::span<const TaskTokens> tasks, const ModelConfig& config);

// Answers to all questions, by file. The tokens that choices share are run once. With
// ForwardContext's fast path on the processor the log-likelihoods are, to the bit, those of each
// choice run by itself. Fails as CheckTaskPositions does; stops with kCancelled between choices.
// `stage`: the name of the progress.
StatusOr<std::vector<std::vector<TaskAnswer>>> AnswerTasks(Transformer& model,
                                                           std::span<const TaskTokens> tasks,
                                                           const ForwardContext& context,
                                                           std::string_view stage,
                                                           Progress& progress);

// `answers`: to all of the questions.
TaskScore ScoreTask(const TaskTokens& task, std::span<const TaskAnswer> answers);

// How often two models take the same choice by likeliest_norm. As many answers each.
TaskShare SameChoices(std::span<const TaskAnswer> a, std::span<const TaskAnswer> b);

}  // namespace tq
