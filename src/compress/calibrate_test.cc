#include "compress/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "../../tests/support/tiny_model.h"
#include "base/progress.h"
#include "device/thread_pool.h"
#include "model/transformer.h"

namespace tq {
namespace {

using testing::TempFolder;

std::string SomeText(size_t words) {
  static constexpr const char* kWords[] = {"the ", "cat ", "sat, ", "on ", "a mat. ", "42\n"};
  std::string text;
  for (size_t i = 0; i < words; ++i) text += kWords[(i * i + i / 3) % 6];
  return text;
}

struct Model {
  TempFolder folder;
  std::unique_ptr<ModelSource> source;
  std::unique_ptr<Tokenizer> tokenizer;

  explicit Model(testing::TinyModel model) {
    testing::WriteHuggingFace(model, folder / "model");
    source = *ModelSource::Open(folder / "model");
    tokenizer = *Tokenizer::FromModel(folder / "model");
  }
  explicit Model(const testing::TinyModelOptions& options = {})
      : Model(testing::MakeTinyModel(options)) {}
};

// Full names of a layer's groups.
std::set<std::string> GroupsOfLayer(uint32_t layer) {
  std::set<std::string> names;
  for (const char* group : {"self_attn.qkv", "self_attn.o", "mlp.gate_up", "mlp.down"}) {
    names.insert(fmt::format("model.layers.{}.{}", layer, group));
  }
  return names;
}

TEST(CalibrationTokensTest, WindowsAreSpreadOverTheText) {
  const Model m({.add_bos = true});
  const std::string text = SomeText(3000);
  const std::vector<int32_t> all = m.tokenizer->Encode(text);
  const auto tokens = CutCalibrationText(text, "t", *m.tokenizer, 1000, 100);
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(tokens->windows(), 10u);
  for (uint64_t i = 0; i < 10; ++i) {
    EXPECT_EQ(tokens->window(i)[0], m.tokenizer->bos());
    const uint64_t start = (all.size() - 100) * i / 9;
    EXPECT_TRUE(std::equal(tokens->window(i).begin() + 1, tokens->window(i).end(),
                           all.begin() + static_cast<ptrdiff_t>(start) + 1));
  }
  // More than there is: all of it; shorter than a window: one short window.
  EXPECT_EQ(CutCalibrationText(text, "t", *m.tokenizer, 1u << 30, 100)->windows(),
            all.size() / 100);
  EXPECT_EQ(CutCalibrationText(text, "t", *m.tokenizer, 1000, 1u << 20)->context, all.size());
}

// No token is in two windows, and those held apart are spread over the text.
TEST(CalibrationTokensTest, SomeWindowsAreHeldApart) {
  const Model m({.add_bos = true});
  for (const size_t words : {300u, 3000u, 20000u}) {
    const std::string text = SomeText(words);
    const std::vector<int32_t> all = m.tokenizer->Encode(text);
    const uint64_t windows = all.size() / 50;
    const auto set = CutCalibrationSet(text, "t", *m.tokenizer, 2000, 50);
    ASSERT_TRUE(set.ok()) << set.status().message();
    EXPECT_EQ(set->held_apart.windows(), std::clamp<uint64_t>(windows / 4, 2, kMaxHeldApart));
    EXPECT_EQ(set->text.windows(), std::min<uint64_t>(40, windows - set->held_apart.windows()));
    // Windows are whole pieces of the text, in order: each is found behind the one before.
    std::vector<bool> used(windows, false);
    for (const CalibrationTokens* tokens : {&set->text, &set->held_apart}) {
      uint64_t next = 0;
      for (uint64_t i = 0; i < tokens->windows(); ++i) {
        const auto window = tokens->window(i);
        EXPECT_EQ(window[0], m.tokenizer->bos());
        while (next < windows &&
               (used[next] || !std::equal(window.begin() + 1, window.end(),
                                          all.begin() + static_cast<ptrdiff_t>(next * 50) + 1))) {
          ++next;
        }
        ASSERT_LT(next, windows);
        used[next++] = true;
      }
    }
  }
  const auto refused = CutCalibrationSet(SomeText(40), "t", *m.tokenizer, 2000, 50);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("at least 3 windows of 50"), std::string::npos)
      << refused.status().message();
}

TEST(CalibrationTokensTest, ShortWindowsAreBeginnings) {
  CalibrationTokens tokens;
  tokens.context = 10;
  for (int32_t i = 0; i < 80; ++i) tokens.ids.push_back(i);
  const CalibrationTokens cut = ShortWindows(tokens, 16, 4);
  EXPECT_EQ(cut.context, 4u);
  EXPECT_EQ(cut.ids,
            (std::vector<int32_t>{0, 1, 2, 3, 20, 21, 22, 23, 40, 41, 42, 43, 60, 61, 62, 63}));
  EXPECT_EQ(ShortWindows(tokens, 1000, 100).ids, tokens.ids);
}

// Robustness case 50.
TEST(CalibrationTokensTest, EmptyTinyAndBinaryTextsAreRefused) {
  const Model m;
  for (const auto& [text, what] : std::vector<std::pair<std::string, std::string>>{
           {"", "is empty"},
           {"a", "tokens"},
           {std::string("abc\0def", 7), "NUL at byte 3"},
           {std::string(500, '\x02'), "control"}}) {
    const auto tokens = CutCalibrationText(text, "file.txt", *m.tokenizer, 1000, 100);
    ASSERT_FALSE(tokens.ok());
    EXPECT_NE(tokens.status().message().find(what), std::string::npos) << tokens.status().message();
    EXPECT_NE(tokens.status().message().find("file.txt"), std::string::npos);
  }
}

TEST(CalibrationTokensTest, SamplesFromTheModel) {
  const Model m;
  auto pool = ThreadPool::Create(2);
  InlineExecutor one;
  NullProgress progress;
  const auto a = SampleCalibrationTokens(*m.source, 0, 300, 32, 5, **pool, progress);
  const auto b = SampleCalibrationTokens(*m.source, 0, 300, 32, 5, one, progress);
  const auto c = SampleCalibrationTokens(*m.source, 0, 300, 32, 6, one, progress);
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_EQ(a->windows(), 9u);
  EXPECT_EQ(a->ids, b->ids);
  EXPECT_NE(a->ids, c->ids);
  for (uint64_t i = 0; i < 9; ++i) EXPECT_EQ(a->window(i)[0], 0);
  // The sampler runs the same model as everybody else: its tokens are likelier under it than
  // random ones.
  auto model = Transformer::FromSource(*m.source);
  ASSERT_TRUE(model.ok());
  ForwardContext context;
  context.executor = &one;
  const uint32_t vocab = m.source->config().vocab_size;
  double sampled = 0, random = 0;
  Random draw(1, "random tokens");
  for (uint64_t w = 0; w < 9; ++w) {
    auto cache = KvCache::Create(m.source->config(), 32);
    std::vector<float> logits(32 * vocab);
    ASSERT_TRUE((*model)->Forward(context, *cache, a->window(w), Logits::kAll, logits.data()).ok());
    for (uint64_t i = 0; i + 1 < 32; ++i) {
      sampled += logits[i * vocab + a->window(w)[i + 1]];
      random += logits[i * vocab + draw.NextBelow(vocab)];
    }
  }
  EXPECT_GT(sampled, random + 50);
}

TEST(CalibrationStreamTest, SpilledStatesGiveTheSameHessians) {
  const Model m;
  InlineExecutor executor;
  auto tokens = *CutCalibrationText(SomeText(500), "t", *m.tokenizer, 400, 50);
  std::vector<Tensor> hessians[2];
  for (int spill = 0; spill < 2; ++spill) {
    auto stream =
        CalibrationStream::Create(*m.source, tokens, spill ? 1 : 1 << 30, m.folder.path());
    ASSERT_TRUE(stream.ok()) << stream.status().message();
    for (uint32_t layer = 0; layer < 2; ++layer) {
      auto sums = stream->RunLayer(GroupsOfLayer(layer), executor);
      ASSERT_TRUE(sums.ok()) << sums.status().message();
      ASSERT_EQ(sums->size(), 4u);
      for (HessianSum& sum : *sums) hessians[spill].push_back(*std::move(sum).Finish(executor));
    }
    auto head = stream->HeadInput(executor);
    ASSERT_TRUE(head.ok());
    EXPECT_EQ(head->count(), tokens.ids.size());
    hessians[spill].push_back(*std::move(*head).Finish(executor));
  }
  ASSERT_EQ(hessians[0].size(), 9u);
  for (size_t i = 0; i < 9; ++i) {
    ASSERT_EQ(hessians[0][i].num_bytes(), hessians[1][i].num_bytes());
    EXPECT_EQ(std::memcmp(hessians[0][i].data(), hessians[1][i].data(), hessians[0][i].num_bytes()),
              0);
  }
}

// The head's input is normed: its mean square is that of the norm's weight, about.
TEST(CalibrationStreamTest, HeadInputIsNormed) {
  const Model m;
  InlineExecutor executor;
  auto stream = CalibrationStream::Create(
      *m.source, *CutCalibrationText(SomeText(500), "t", *m.tokenizer, 400, 50), 1 << 30, "");
  ASSERT_TRUE(stream.ok());
  for (uint32_t layer = 0; layer < 2; ++layer) {
    ASSERT_TRUE(stream->RunLayer({}, executor).ok());
  }
  const Tensor h = *std::move(*stream->HeadInput(executor)).Finish(executor);
  const uint64_t n = h.shape()[0];
  const Tensor norm = *m.source->LoadFloat("model.norm.weight");
  double trace = 0, want = 0;
  for (uint64_t i = 0; i < n; ++i) {
    trace += h.as<float>()[i * n + i];
    want += norm.as<float>()[i] * norm.as<float>()[i];
  }
  EXPECT_NEAR(trace, want, 0.3 * want);
}

// Robustness case 48: activations that overflow are an error naming the layer.
TEST(CalibrationStreamTest, NonFiniteActivationsNameTheLayer) {
  testing::TinyModel tiny = testing::MakeTinyModel({});
  for (const char* name : {"gate_proj", "up_proj"}) {
    for (float& w : tiny.Get(fmt::format("model.layers.1.mlp.{}.weight", name)).values) w *= 1e25f;
  }
  const Model m(std::move(tiny));
  InlineExecutor executor;
  auto stream = CalibrationStream::Create(
      *m.source, *CutCalibrationText(SomeText(500), "t", *m.tokenizer, 400, 50), 1 << 30, "");
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE(stream->RunLayer({"model.layers.0.mlp.down"}, executor).ok());
  const auto sums = stream->RunLayer({"model.layers.1.mlp.down"}, executor);
  ASSERT_FALSE(sums.ok());
  EXPECT_EQ(sums.status().code(), StatusCode::kDataLoss);
  EXPECT_NE(sums.status().message().find("layers.1"), std::string::npos) << sums.status().message();
}

}  // namespace
}  // namespace tq
