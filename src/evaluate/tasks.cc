#include "evaluate/tasks.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/cancel.h"
#include "evaluate/logit_score.h"

namespace tq {
namespace {

using Choice = QuestionTokens::Choice;

class QuestionScorer {
 public:
  // For questions of up to `positions` positions.
  static StatusOr<QuestionScorer> Create(Transformer& model, uint64_t positions,
                                         const ForwardContext& context) {
    TQ_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(positions));
    return QuestionScorer(model, context, std::move(cache));
  }

  StatusOr<TaskAnswer> Answer(const QuestionTokens& question) {
    cache_.Truncate(0);
    if (!question.shared.empty()) {
      TQ_RETURN_IF_ERROR(model_.Forward(context_, cache_, question.shared, Logits::kNone, nullptr));
    }
    TaskAnswer answer;
    double best = 0;
    for (const Choice& choice : question.choices) {
      TQ_RETURN_IF_ERROR(CheckCancelled());
      cache_.Truncate(question.shared.size());
      TQ_ASSIGN_OR_RETURN(const double log_likelihood, LogLikelihood(choice));
      const double norm = log_likelihood / static_cast<double>(choice.characters);
      const auto index = static_cast<uint32_t>(answer.log_likelihoods.size());
      if (index == 0 || norm > best) {
        best = norm;
        answer.likeliest_norm = index;
      }
      answer.log_likelihoods.push_back(log_likelihood);
      if (log_likelihood > answer.log_likelihoods[answer.likeliest]) answer.likeliest = index;
    }
    return answer;
  }

 private:
  QuestionScorer(Transformer& model, const ForwardContext& context, KvCache cache)
      : model_(model), context_(context), cache_(std::move(cache)) {}

  // Of tokens [first, size), behind what the cache holds.
  StatusOr<double> LogLikelihood(const Choice& choice) {
    const auto inputs = std::span(choice.tokens).first(choice.tokens.size() - 1);
    const uint64_t first = choice.first - 1;
    // A packed head rounds a row that comes alone to fewer bits: it comes with the one before.
    const uint64_t from =
        std::min<uint64_t>(first, inputs.size() - std::min<uint64_t>(inputs.size(), 2));
    double nll = 0;
    TQ_RETURN_IF_ERROR(model_.ForwardBlocks(
        context_, cache_, inputs, from, [&](uint64_t begin, uint64_t count, const float* logits) {
          scores_.resize(count);
          ScoreLogits(*context_.executor, logits, nullptr, model_.config().vocab_size,
                      choice.tokens.data() + begin + 1, scores_);
          for (uint64_t i = 0; i < count; ++i) {
            if (begin + i >= first) nll += scores_[i].nll;
          }
          return OkStatus();
        }));
    return -nll;
  }

  Transformer& model_;
  ForwardContext context_;
  KvCache cache_;
  std::vector<LogitScore> scores_;
};

uint64_t CountTokens(const QuestionTokens& question) {
  uint64_t count = question.shared.size();
  for (const Choice& choice : question.choices) count += choice.tokens.size();
  return count;
}

}  // namespace

double TaskShare::value() const {
  return static_cast<double>(count) / static_cast<double>(questions);
}

double TaskShare::error() const {
  return std::sqrt(value() * (1 - value()) / static_cast<double>(questions));
}

void TaskShare::Add(const TaskShare& other) {
  count += other.count;
  questions += other.questions;
}

Status CheckTaskPositions(std::span<const TaskTokens> tasks, const ModelConfig& config) {
  for (const TaskTokens& task : tasks) {
    for (const QuestionTokens& question : task.questions) {
      if (question.positions() <= config.max_position) continue;
      return InvalidArgument("{}: line {}: the question takes {} positions, the model has {}",
                             task.name, question.line, question.positions(), config.max_position);
    }
  }
  return OkStatus();
}

StatusOr<std::vector<std::vector<TaskAnswer>>> AnswerTasks(Transformer& model,
                                                           std::span<const TaskTokens> tasks,
                                                           const ForwardContext& context,
                                                           std::string_view stage,
                                                           Progress& progress) {
  TQ_RETURN_IF_ERROR(CheckTaskPositions(tasks, model.config()));
  uint64_t positions = 1, tokens = 0, done = 0;
  for (const TaskTokens& task : tasks) {
    positions = std::max(positions, task.positions());
    for (const QuestionTokens& question : task.questions) tokens += CountTokens(question);
  }
  TQ_ASSIGN_OR_RETURN(QuestionScorer scorer, QuestionScorer::Create(model, positions, context));

  const ProgressStage shown(progress, stage, tokens);
  std::vector<std::vector<TaskAnswer>> answers;
  for (const TaskTokens& task : tasks) {
    uint64_t right = 0;
    std::vector<TaskAnswer>& own = answers.emplace_back();
    for (const QuestionTokens& question : task.questions) {
      auto answer = scorer.Answer(question);
      if (!answer.ok()) {
        return answer.status().WithContext(fmt::format("{}: line {}", task.name, question.line));
      }
      right += answer->likeliest_norm == question.gold;
      own.push_back(*std::move(answer));
      done += CountTokens(question);
      progress.Update(done, fmt::format("{}: {} of {} right", task.name, right, own.size()));
    }
  }
  return answers;
}

TaskScore ScoreTask(const TaskTokens& task, std::span<const TaskAnswer> answers) {
  TQ_CHECK(task.questions.size() == answers.size());
  TaskScore score;
  score.right.questions = score.right_norm.questions = answers.size();
  for (size_t i = 0; i < answers.size(); ++i) {
    score.right.count += answers[i].likeliest == task.questions[i].gold;
    score.right_norm.count += answers[i].likeliest_norm == task.questions[i].gold;
  }
  return score;
}

TaskShare SameChoices(std::span<const TaskAnswer> a, std::span<const TaskAnswer> b) {
  TQ_CHECK(a.size() == b.size());
  TaskShare same;
  same.questions = a.size();
  for (size_t i = 0; i < a.size(); ++i) same.count += a[i].likeliest_norm == b[i].likeliest_norm;
  return same;
}

}  // namespace tq
