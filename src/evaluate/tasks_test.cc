#include "evaluate/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "../../tests/support/temp_folder.h"
#include "base/cancel.h"
#include "base/random.h"
#include "checkpoint/status_matcher_for_test.h"
#include "device/thread_pool.h"
#include "evaluate/logit_score.h"
#include "model/packed_twins_for_test.h"
#include "model/reference_forward_for_test.h"
#include "tokenizer/test_vocabulary.h"

namespace tq {
namespace {

using testing::Fails;

const ForwardContext kContext{&inline_executor, MatmulPath::kFast};

// Below 300, the vocabulary of the models.
std::unique_ptr<Tokenizer> MakeTokenizer() {
  auto data = TokenizerDataFromJson(
      testing::TestTokenizerJson({{" ", "a"}, {" ", "b"}, {"a", "b"}}).dump(), "");
  return *Tokenizer::Create(*std::move(data));
}

std::string RandomText(Random& random, uint64_t shortest, uint64_t longest) {
  std::string text(shortest + random.NextBelow(longest - shortest + 1), 'a');
  for (char& c : text) c = "abcde fgh ij"[random.NextBelow(12)];
  text.front() = text.back() = 'a';
  return text;
}

// Questions of one context and of several, with choices from a single letter up.
TaskFile RandomTasks(uint64_t questions) {
  Random random(3, "questions");
  TaskFile tasks{"tasks", {}};
  for (uint64_t i = 0; i < questions; ++i) {
    TaskQuestion question;
    question.line = i + 1;
    const bool one_context = random.NextBelow(3) > 0;
    for (uint64_t k = 2 + random.NextBelow(3); k > 0; --k) {
      if (one_context) question.choices.push_back(RandomText(random, 1, 9));
      if (!one_context) question.contexts.push_back(RandomText(random, 1, 30));
    }
    if (one_context) question.contexts.push_back(RandomText(random, 1, 30));
    if (!one_context) question.choices.push_back(RandomText(random, 1, 9));
    question.gold = static_cast<uint32_t>(random.NextBelow(question.size()));
    tasks.questions.push_back(std::move(question));
  }
  return tasks;
}

struct Pair {
  std::vector<int32_t> tokens;
  size_t first = 0;
};
Pair Encode(const Tokenizer& tokenizer, const std::string& context, const std::string& choice) {
  return {tokenizer.Encode(context + " " + choice), tokenizer.Encode(context).size()};
}

// By one forward pass over context and choice, from an empty cache.
double Direct(Transformer& model, const Pair& pair, const ForwardContext& context) {
  const uint64_t vocab = model.config().vocab_size, inputs = pair.tokens.size() - 1;
  KvCache cache = *model.NewCache(inputs);
  std::vector<float> logits(inputs * vocab);
  const Status status = model.Forward(context, cache, std::span(pair.tokens).first(inputs),
                                      Logits::kAll, logits.data());
  EXPECT_TRUE(status.ok()) << status.message();
  double nll = 0;
  for (size_t i = pair.first; i <= inputs; ++i) {
    nll += ScoreLogits(logits.data() + (i - 1) * vocab, nullptr, vocab, pair.tokens[i]).nll;
  }
  return -nll;
}

std::vector<TaskAnswer> Answer(Transformer& model, const TaskTokens& tokens,
                               const ForwardContext& context = kContext) {
  NullProgress progress;
  auto answers = AnswerTasks(model, {&tokens, 1}, context, "tasks", progress);
  EXPECT_TRUE(answers.ok()) << answers.status().message();
  EXPECT_EQ(answers->size(), 1u);
  return std::move(answers->front());
}

// What choices share is run once; the log-likelihoods are those of each choice by itself.
void ExpectDirectLikelihoods(Transformer& model, const ForwardContext& context) {
  const auto tokenizer = MakeTokenizer();
  const TaskFile tasks = RandomTasks(40);
  const TaskTokens tokens = *TokenizeTasks(tasks, *tokenizer);
  const auto answers = Answer(model, tokens, context);
  ASSERT_EQ(answers.size(), tasks.questions.size());
  uint64_t shared = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    const TaskQuestion& question = tasks.questions[i];
    ASSERT_EQ(answers[i].log_likelihoods.size(), question.size());
    for (size_t k = 0; k < question.size(); ++k) {
      const Pair pair = Encode(*tokenizer, question.context(k), question.choice(k));
      EXPECT_EQ(answers[i].log_likelihoods[k], Direct(model, pair, context))
          << "question " << i << ", choice " << k;
    }
    shared += !tokens.questions[i].shared.empty();
  }
  EXPECT_GT(shared, 20u);  // else nothing was tested
}

TEST(Tasks, SharedTokensChangeNothing) {
  ModelConfig config = SmallConfig();
  config.vocab_size = 300;
  ExpectDirectLikelihoods(**Transformer::FromSource(RandomSource(config, 1)), kContext);
}

TEST(Tasks, SharedTokensChangeNothingInAPackedModel) {
  const testing::TempFolder folder;
  const Twins twins = MakeTwins(folder / "packed", PackedConfig(true), "trellis");
  ExpectDirectLikelihoods(**Transformer::FromPacked(twins.packed), kContext);
  const auto pool = *ThreadPool::Create(2);
  ExpectDirectLikelihoods(**Transformer::FromPacked(twins.packed), {pool.get(), kContext.path});
}

// Against the equations: likelihoods, and which choice is taken by both rules.
TEST(Tasks, AgreesWithTheEquations) {
  ModelConfig config = SmallConfig();
  config.vocab_size = 300;
  const MemorySource source = RandomSource(config, 1);
  const auto tokenizer = MakeTokenizer();
  const TaskFile tasks = RandomTasks(12);
  const TaskTokens tokens = *TokenizeTasks(tasks, *tokenizer);
  const auto model = *Transformer::FromSource(source);
  const auto answers = Answer(*model, tokens);
  uint64_t right = 0, right_norm = 0, differ = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    const TaskQuestion& question = tasks.questions[i];
    std::vector<double> sums, norms;
    for (size_t k = 0; k < question.size(); ++k) {
      const Pair pair = Encode(*tokenizer, question.context(k), question.choice(k));
      const auto logits = ReferenceForward(source).Run(pair.tokens);
      double sum = 0;
      for (size_t t = pair.first; t < pair.tokens.size(); ++t) {
        double total = 0;
        for (const double x : logits[t - 1]) total += std::exp(x);
        sum += logits[t - 1][static_cast<size_t>(pair.tokens[t])] - std::log(total);
      }
      EXPECT_NEAR(answers[i].log_likelihoods[k], sum, 1e-3 * -sum);
      sums.push_back(sum);
      norms.push_back(sum / static_cast<double>(question.choice(k).size()));
    }
    const auto first_greatest = [](const std::vector<double>& v) {
      return static_cast<uint32_t>(std::max_element(v.begin(), v.end()) - v.begin());
    };
    EXPECT_EQ(answers[i].likeliest, first_greatest(sums)) << i;
    EXPECT_EQ(answers[i].likeliest_norm, first_greatest(norms)) << i;
    right += first_greatest(sums) == question.gold;
    right_norm += first_greatest(norms) == question.gold;
    differ += first_greatest(sums) != first_greatest(norms);
  }
  EXPECT_GT(differ, 0u);  // else one rule was tested twice
  const TaskScore score = ScoreTask(tokens, answers);
  EXPECT_EQ(score.right.count, right);
  EXPECT_EQ(score.right_norm.count, right_norm);
  EXPECT_EQ(score.right.questions, 12u);
}

TEST(Tasks, OfEqualChoicesTheFirstIsTaken) {
  ModelConfig config = SmallConfig();
  config.vocab_size = 300;
  const auto model = *Transformer::FromSource(RandomSource(config, 1));
  const auto tokenizer = MakeTokenizer();
  const TaskFile tasks{"tasks", {{1, {"abc"}, {"de", "de"}, 1}}};
  const auto answers = Answer(*model, *TokenizeTasks(tasks, *tokenizer));
  EXPECT_EQ(answers[0].likeliest, 0u);
  EXPECT_EQ(answers[0].likeliest_norm, 0u);
}

TEST(Tasks, SharesAndTheirErrors) {
  TaskShare share{30, 40};
  EXPECT_DOUBLE_EQ(share.value(), 0.75);
  EXPECT_DOUBLE_EQ(share.error(), std::sqrt(0.75 * 0.25 / 40));
  share.Add({10, 60});
  EXPECT_DOUBLE_EQ(share.value(), 0.4);
  EXPECT_EQ((TaskShare{7, 7}.error()), 0);
  const std::vector<TaskAnswer> a = {{{}, 0, 1}, {{}, 0, 2}, {{}, 0, 0}},
                                b = {{{}, 0, 1}, {{}, 0, 1}, {{}, 1, 0}};
  EXPECT_EQ(SameChoices(a, b).count, 2u);
  EXPECT_EQ(SameChoices(a, b).questions, 3u);
}

TEST(Tasks, SeveralFiles) {
  ModelConfig config = SmallConfig();
  config.vocab_size = 300;
  const auto model = *Transformer::FromSource(RandomSource(config, 1));
  const auto tokenizer = MakeTokenizer();
  const std::vector<TaskTokens> tasks = {*TokenizeTasks(RandomTasks(2), *tokenizer),
                                         *TokenizeTasks(RandomTasks(5), *tokenizer)};
  NullProgress progress;
  const auto answers = AnswerTasks(*model, tasks, kContext, "tasks", progress);
  ASSERT_TRUE(answers.ok()) << answers.status().message();
  ASSERT_EQ(answers->size(), 2u);
  EXPECT_EQ((*answers)[0].size(), 2u);
  EXPECT_EQ((*answers)[1].size(), 5u);
  // The same questions first.
  EXPECT_EQ((*answers)[0][1].log_likelihoods, (*answers)[1][1].log_likelihoods);
}

// Robustness case 74. Nothing is cut off to make it fit.
TEST(Tasks, QuestionsBeyondTheModelsPositionsAreNamed) {
  ModelConfig config = SmallConfig();
  config.vocab_size = 300;
  const auto model = *Transformer::FromSource(RandomSource(config, 1));
  const auto tokenizer = MakeTokenizer();
  const auto tasks = [&](size_t letters) {
    return *TokenizeTasks({"tasks", {{8, {std::string(letters, 'x')}, {"yy", "y"}, 0}}},
                          *tokenizer);
  };
  NullProgress progress;
  const TaskTokens fits = tasks(94), beyond = tasks(95);  // and " yy", whose last is not run
  EXPECT_TRUE(AnswerTasks(*model, {&fits, 1}, kContext, "tasks", progress).ok());
  EXPECT_THAT(AnswerTasks(*model, {&beyond, 1}, kContext, "tasks", progress),
              Fails(StatusCode::kInvalidArgument, "tasks: line 8", "97 positions", "96"));
}

TEST(Tasks, TokensOfAnotherModelAreAnError) {
  const auto model = *Transformer::FromSource(RandomSource(SmallConfig(), 1));  // of 61 tokens
  const auto tokenizer = MakeTokenizer();
  const TaskTokens tokens = *TokenizeTasks(RandomTasks(2), *tokenizer);
  NullProgress progress;
  const auto answers = AnswerTasks(*model, {&tokens, 1}, kContext, "tasks", progress);
  EXPECT_FALSE(answers.ok());
  EXPECT_THAT(answers.status().message(), ::testing::HasSubstr("tasks: line 1"));
}

TEST(Tasks, StopsWhenCancelled) {
  ModelConfig config = SmallConfig();
  config.vocab_size = 300;
  const auto model = *Transformer::FromSource(RandomSource(config, 1));
  const auto tokenizer = MakeTokenizer();
  const TaskTokens tokens = *TokenizeTasks(RandomTasks(2), *tokenizer);
  NullProgress progress;
  RequestCancel();
  const auto answers = AnswerTasks(*model, {&tokens, 1}, kContext, "tasks", progress);
  ClearCancel();
  EXPECT_EQ(answers.status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace tq
