#include "generate/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "../../tests/support/tiny_tokenizer.h"
#include "base/cancel.h"
#include "device/thread_pool.h"
#include "generate/scripted_model_for_test.h"
#include "model/memory_source_for_test.h"

namespace tq {
namespace {

using ::testing::HasSubstr;
namespace support = tq::testing;

InlineExecutor inline_executor;
const ForwardContext kContext{&inline_executor, MatmulPath::kFast};

std::unique_ptr<Tokenizer> MakeTokenizer() {
  const support::TinyTokenizer tiny = support::MakeTinyTokenizer(kVocab);
  auto data = TokenizerDataFromJson(TokenizerJson(tiny), TokenizerConfigJson(tiny));
  TQ_CHECK(data.ok());
  return *Tokenizer::Create(*std::move(data));
}

struct Fixture {
  std::unique_ptr<Tokenizer> tokenizer = MakeTokenizer();
  std::unique_ptr<Transformer> model = *Transformer::FromSource(RandomSource(Config(), 1));

  std::unique_ptr<Session> Make(const SessionOptions& options = {},
                                const ForwardContext& context = kContext) const {
    auto session = Session::Create(*model, *tokenizer, context, options);
    EXPECT_TRUE(session.ok()) << session.status().message();
    return *std::move(session);
  }
};

StatusOr<StopReason> Generate(Session& session, uint64_t tokens, std::string* text = nullptr) {
  return session.Generate(tokens, [&](std::string_view piece) {
    if (text != nullptr) *text += piece;
    return true;
  });
}

TEST(Session, GreedyIsTheArgMaxOfTheWholePrefix) {
  const Fixture f;
  auto session = f.Make();
  std::vector<int32_t> ids{5, 9, 100};
  ASSERT_TRUE(session->Prompt(ids).ok());
  for (int i = 0; i < 20; ++i) {
    KvCache cache = *KvCache::Create(f.model->config(), ids.size());
    std::vector<float> logits(kVocab);
    ASSERT_TRUE(f.model->Forward(kContext, cache, ids, Logits::kLast, logits.data()).ok());
    const auto step = session->Next();
    ASSERT_TRUE(step.ok());
    EXPECT_EQ(step->token, std::max_element(logits.begin(), logits.end()) - logits.begin());
    ids.push_back(step->token);
    if (step->stop != StopReason::kNone) break;
  }
  EXPECT_EQ(session->history(), ids);
}

// Whatever chooses the tokens, they are those that a sampler draws from the prefix' logits.
TEST(Session, DrawsAreTheSamplers) {
  const Fixture f;
  SessionOptions options;
  options.sampler.temperature = 1.2f;
  options.sampler.top_k = 50;
  options.sampler.top_p = 0.9f;
  options.sampler.repetition_penalty = 1.2f;
  options.sampler.seed = 5;
  auto session = f.Make(options);
  Sampler sampler = *Sampler::Create(options.sampler);
  std::vector<int32_t> ids{5, 9, 100};
  ASSERT_TRUE(session->Prompt(ids).ok());
  KvCache cache = *f.model->NewCache(64);
  std::vector<float> logits(kVocab);
  auto rest = std::span<const int32_t>(ids);
  for (int i = 0; i < 30; ++i) {
    ASSERT_TRUE(f.model->Forward(kContext, cache, rest, Logits::kLast, logits.data()).ok());
    const int32_t expected = *sampler.Sample(logits, ids);
    const auto step = session->Next();
    ASSERT_TRUE(step.ok());
    ASSERT_EQ(step->token, expected) << i;
    ids.push_back(expected);
    rest = std::span<const int32_t>(ids).last(1);
  }
}

TEST(Session, ThreadsAndSeeds) {
  const Fixture f;
  auto pool = *ThreadPool::Create(2);
  const auto run = [&](uint64_t seed, const ForwardContext& context) {
    SessionOptions options;
    options.sampler.temperature = 1;
    options.sampler.seed = seed;
    auto session = f.Make(options, context);
    EXPECT_TRUE(session->Prompt(std::vector<int32_t>{7, 8}).ok());
    EXPECT_TRUE(Generate(*session, 30).ok());
    return session->history();
  };
  EXPECT_EQ(run(1, kContext), run(1, {pool.get(), MatmulPath::kFast}));
  EXPECT_NE(run(1, kContext), run(2, kContext));
}

TEST(Session, StopsAtTheEndToken) {
  Fixture f;
  f.model = ScriptedModel({{ByteId('a'), ByteId('b')}, {ByteId('b'), kEnd}});
  auto session = f.Make();
  ASSERT_TRUE(session->Prompt(std::vector<int32_t>{ByteId('a')}).ok());
  std::string text;
  EXPECT_EQ(*Generate(*session, 10, &text), StopReason::kEndOfGeneration);
  EXPECT_EQ(text, "b");
  EXPECT_EQ(session->history(), (std::vector<int32_t>{ByteId('a'), ByteId('b'), kEnd}));
  EXPECT_EQ(session->stats().prompt_tokens, 1u);
  EXPECT_EQ(session->stats().generated_tokens, 2u);
  EXPECT_GE(session->stats().first_token_seconds, 0);
}

TEST(Session, HoldsBackHalfCharacters) {
  Fixture f;
  // a -> E2 -> 82 -> AC -> E2 ...: the euro sign again and again.
  f.model = ScriptedModel({{ByteId('a'), ByteId(0xE2)},
                           {ByteId(0xE2), ByteId(0x82)},
                           {ByteId(0x82), ByteId(0xAC)},
                           {ByteId(0xAC), ByteId(0xE2)}});
  auto session = f.Make();
  ASSERT_TRUE(session->Prompt(std::vector<int32_t>{ByteId('a')}).ok());
  std::vector<std::string> pieces;
  const auto reason = session->Generate(5, [&](std::string_view piece) {
    pieces.emplace_back(piece);
    return true;
  });
  EXPECT_EQ(*reason, StopReason::kMaxTokens);
  // One whole character, and the cut one as U+FFFD at the end.
  EXPECT_EQ(pieces, (std::vector<std::string>{"\xE2\x82\xAC", "\xEF\xBF\xBD"}));
}

TEST(Session, TheContextsEnd) {
  Fixture f;
  f.model = ScriptedModel({{ByteId('a'), ByteId('a')}});
  SessionOptions options;
  options.context = 6;
  auto session = f.Make(options);
  EXPECT_EQ(session->capacity(), 6u);
  const std::vector<int32_t> seven(7, ByteId('a'));
  const Status status = session->Prompt(seven);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("7 tokens"));
  EXPECT_THAT(status.message(), HasSubstr("context's 6 positions"));
  EXPECT_TRUE(session->history().empty());

  ASSERT_TRUE(session->Prompt(std::span(seven).first(4)).ok());
  std::string text;
  // Two tokens fill the context; a third is drawn from the last position.
  EXPECT_EQ(*Generate(*session, 100, &text), StopReason::kContextFull);
  EXPECT_EQ(text, "aaa");
  EXPECT_EQ(session->Next()->stop, StopReason::kContextFull);
  EXPECT_EQ(session->Prompt(std::span(seven).first(1)).code(), StatusCode::kInvalidArgument);
  session->Reset();
  EXPECT_TRUE(session->Prompt(std::span(seven).first(6)).ok());
  EXPECT_EQ(session->Next()->token, ByteId('a'));
}

// Turns continue the cache: the second answer is that of one long prompt.
TEST(Session, TurnsContinueTheCache) {
  const Fixture f;
  auto session = f.Make();
  const std::vector<int32_t> first{5, 9, 100}, second{44, 45};
  ASSERT_TRUE(session->Prompt(first).ok());
  ASSERT_TRUE(Generate(*session, 7).ok());
  const auto middle = session->history();
  ASSERT_TRUE(session->Prompt(second).ok());
  ASSERT_TRUE(Generate(*session, 7).ok());

  auto fresh = f.Make();
  std::vector<int32_t> all = middle;
  all.insert(all.end(), second.begin(), second.end());
  ASSERT_TRUE(fresh->Prompt(all).ok());
  ASSERT_TRUE(Generate(*fresh, 7).ok());
  EXPECT_EQ(session->history(), fresh->history());
}

// What is taken back has left no trace: the answer is that of the prompt that was never longer.
TEST(Session, TruncateTakesTokensBack) {
  const Fixture f;
  auto session = f.Make(), fresh = f.Make();
  const std::vector<int32_t> first{5, 9, 100}, second{44, 45};
  ASSERT_TRUE(session->Prompt(first).ok());
  ASSERT_TRUE(Generate(*session, 7).ok());
  session->Truncate(100);  // more than there is
  EXPECT_GT(session->history().size(), 3u);
  session->Truncate(3);
  EXPECT_EQ(session->history(), first);
  ASSERT_TRUE(session->Prompt(second).ok());
  ASSERT_TRUE(Generate(*session, 7).ok());
  ASSERT_TRUE(fresh->Prompt(std::vector<int32_t>{5, 9, 100, 44, 45}).ok());
  ASSERT_TRUE(Generate(*fresh, 7).ok());
  EXPECT_EQ(session->history(), fresh->history());
}

TEST(Session, StopTokensEndAnAnswer) {
  Fixture f;
  f.model = ScriptedModel({{ByteId('a'), ByteId('b')}, {ByteId('b'), ByteId('c')}});
  auto session = f.Make();
  session->SetStopTokens({ByteId('x'), ByteId('c')});
  ASSERT_TRUE(session->Prompt(std::vector<int32_t>{ByteId('a')}).ok());
  std::string text;
  EXPECT_EQ(*Generate(*session, 10, &text), StopReason::kEndOfGeneration);
  EXPECT_EQ(text, "b");
}

TEST(Session, AnErrorLeavesTheConversation) {
  const Fixture f;
  auto session = f.Make(), other = f.Make();
  const std::vector<int32_t> prompt{5, 9, 100};
  ASSERT_TRUE(session->Prompt(prompt).ok());
  EXPECT_THAT(session->Prompt(std::vector<int32_t>{4, 300}).message(), HasSubstr("token 300"));
  EXPECT_EQ(session->Prompt({}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session->history(), prompt);
  ASSERT_TRUE(other->Prompt(prompt).ok());
  EXPECT_EQ(session->Next()->token, other->Next()->token);
}

TEST(Session, Cancelling) {
  const Fixture f;
  auto session = f.Make(), other = f.Make();
  const std::vector<int32_t> prompt{5, 9, 100};
  RequestCancel();
  EXPECT_EQ(session->Prompt(prompt).code(), StatusCode::kCancelled);
  ClearCancel();
  ASSERT_TRUE(session->Prompt(prompt).ok());
  RequestCancel();
  EXPECT_EQ(session->Next()->stop, StopReason::kCancelled);
  EXPECT_EQ(*Generate(*session, 5), StopReason::kCancelled);
  ClearCancel();
  // It can go on as if nothing had been.
  ASSERT_TRUE(other->Prompt(prompt).ok());
  EXPECT_EQ(session->Next()->token, other->Next()->token);

  int calls = 0;
  auto reason = session->Generate(50, [&](std::string_view) { return ++calls < 2; });
  EXPECT_TRUE(*reason == StopReason::kCancelled || *reason == StopReason::kEndOfGeneration);
  EXPECT_LE(calls, 2);
}

TEST(Session, PaddingRowsAreNeverDrawn) {
  Fixture f;
  ModelConfig config = Config(kVocab + 20);
  config.tie_embeddings = false;
  MemorySource source = RandomSource(config, 3);
  float* head = source.Mutable("lm_head.weight");
  // The padding rows would win: twice the row of every other token, of either sign.
  for (uint32_t row = kVocab; row < config.vocab_size; ++row) {
    for (uint32_t i = 0; i < config.hidden_size; ++i) {
      head[row * config.hidden_size + i] = (row % 2 ? 5.0f : -5.0f) * head[i];
    }
  }
  f.model = *Transformer::FromSource(source);
  SessionOptions options;
  options.sampler.temperature = 1;
  auto session = f.Make(options);
  ASSERT_TRUE(session->Prompt(std::vector<int32_t>{5}).ok());
  ASSERT_TRUE(Generate(*session, 40).ok());
  for (const int32_t id : session->history()) EXPECT_LT(id, static_cast<int32_t>(kVocab));
}

TEST(Session, RefusesBadOptions) {
  const Fixture f;
  const auto refuses = [&](const SessionOptions& options) {
    return !Session::Create(*f.model, *f.tokenizer, kContext, options).ok();
  };
  SessionOptions options;
  options.context = 65;
  EXPECT_TRUE(refuses(options));
  options = {};
  options.sampler.top_p = 2;
  EXPECT_TRUE(refuses(options));
  const auto small = *Transformer::FromSource(RandomSource(Config(200), 1));
  EXPECT_FALSE(Session::Create(*small, *f.tokenizer, kContext, {}).ok());
  EXPECT_EQ(f.Make()->Next().status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace tq
