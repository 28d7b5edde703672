// tq bench: how fast a model runs here, beside what the memory could give.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/cancel.h"
#include "base/file_io.h"
#include "base/memory_usage.h"
#include "base/random.h"
#include "cli/command.h"
#include "kernels/isa.h"
#include "model/transformer.h"

namespace tq::cli {
namespace {

struct Spread {
  double median = 0, lowest = 0, highest = 0;
};

Spread SpreadOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

// Bytes per second that all threads together read from a buffer far larger than the
// caches (1 GiB would take seconds to fault in; 256 MiB is above most last-level caches
// per core, and the first pass is not timed).
double PlainReadBytesPerSecond(Executor& executor) {
  constexpr size_t kBytes = size_t{256} << 20, kBlock = size_t{1} << 16;
  constexpr int kPasses = 5;
  const std::vector<uint64_t> buffer(kBytes / sizeof(uint64_t), 1);
  std::vector<uint64_t> sums(kBytes / kBlock, 0);
  double best = 0;
  for (int pass = 0; pass <= kPasses; ++pass) {
    const double start = NowSeconds();
    executor.ParallelFor(sums.size(), 64, [&](size_t begin, size_t end, size_t) {
      for (size_t block = begin; block < end; ++block) {
        const uint64_t* words = buffer.data() + block * (kBlock / sizeof(uint64_t));
        uint64_t sum = 0;
        for (size_t i = 0; i < kBlock / sizeof(uint64_t); ++i) sum ^= words[i];
        sums[block] += sum;
      }
    });
    if (pass > 0) best = std::max(best, static_cast<double>(kBytes) / (NowSeconds() - start));
  }
  // Keeps the sums alive, so that the loop is not removed.
  return std::accumulate(sums.begin(), sums.end(), uint64_t{0}) == 1 ? 0 : best;
}

// One row of the result: a prompt, or tokens decoded one by one after it.
struct Measurement {
  bool decode = false;
  uint64_t prompt = 0, tokens = 0;
  std::vector<double> speeds;  // tokens per second, one per repetition

  std::string Name() const {
    return decode ? fmt::format("decode {} after {}", tokens, prompt)
                  : fmt::format("prompt of {}", prompt);
  }
};

class BenchCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    CLI::App* sub =
        Register(app, "bench", "Measure prompt and decode speed",
                 "  tq bench SmolLM2-2bit\n"
                 "  tq bench SmolLM2-2bit --threads 1 --prompt 128,2048 --tokens 64 --json -\n"
                 "  tq bench SmolLM2-2bit --repeat 9 --markdown speed.md");
    AddModelArgument(*sub, model_);
    sub->add_option("--prompt", prompts_, "Tokens of the prompt; several: 128,2048")
        ->delimiter(',')
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    sub->add_option("--tokens", tokens_, "Tokens to decode after each prompt; several: 32,256")
        ->delimiter(',')
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    sub->add_option("--repeat", repeat_, "Repetitions; the median is reported")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    sub->add_option("--markdown", markdown_, "Write the table here too (-: standard output)");
    compute_.AddTo(*sub);
    AddJsonOption(*sub, json_);
  }

  Status Run() override {
    TQ_RETURN_IF_ERROR(CheckOutputFiles({json_, markdown_}));
    TQ_ASSIGN_OR_RETURN(auto pool, compute_.MakePool());
    const double load_start = NowSeconds();
    const uint64_t positions = *std::max_element(prompts_.begin(), prompts_.end()) +
                               *std::max_element(tokens_.begin(), tokens_.end());
    TQ_ASSIGN_OR_RETURN(auto model, compute_.LoadModel(model_, positions));
    load_s_ = NowSeconds() - load_start;
    for (const uint64_t prompt : prompts_) TQ_RETURN_IF_ERROR(Measure(*model, *pool, prompt));
    // Before the buffer of the plain read enters it.
    peak_rss_ = PeakRssBytes();
    threads_ = pool->threads();
    if (compute_.device == "cpu") plain_read_ = PlainReadBytesPerSecond(*pool);
    Print(*model);
    TQ_RETURN_IF_ERROR(WriteMarkdown(*model));
    return WriteJson(json_, Json(*model));
  }

 private:
  Status Measure(Transformer& model, Executor& pool, uint64_t prompt_tokens) {
    const ForwardContext context{&pool, compute_.path()};
    const uint32_t vocab = model.config().vocab_size;
    const uint64_t longest = *std::max_element(tokens_.begin(), tokens_.end());
    TQ_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(prompt_tokens + longest));
    std::vector<float> logits(vocab);
    Random random(1, "bench");
    std::vector<int32_t> prompt(prompt_tokens);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random.NextBelow(vocab));
    const size_t first = measurements_.size();
    measurements_.push_back({false, prompt_tokens, prompt_tokens, {}});
    for (const uint64_t n : tokens_) measurements_.push_back({true, prompt_tokens, n, {}});
    // One repetition more than asked for: the first warms up and is dropped.
    for (uint64_t run = 0; run <= repeat_; ++run) {
      TQ_RETURN_IF_ERROR(CheckCancelled());
      cache.Truncate(0);
      double start = NowSeconds();
      TQ_RETURN_IF_ERROR(model.Forward(context, cache, prompt, Logits::kLast, logits.data()));
      Add(first, run, prompt_tokens, start);
      for (size_t i = 0; i < tokens_.size(); ++i) {
        cache.Truncate(prompt_tokens);
        start = NowSeconds();
        TQ_RETURN_IF_ERROR(Decode(model, context, cache, tokens_[i]));
        Add(first + 1 + i, run, tokens_[i], start);
      }
    }
    return OkStatus();
  }

  static Status Decode(Transformer& model, const ForwardContext& context, KvCache& cache,
                       uint64_t tokens) {
    int32_t token = 0;
    for (uint64_t i = 0; i < tokens; ++i) {
      TQ_ASSIGN_OR_RETURN(
          token, model.NextToken(context, cache, {&token, 1}, {model.config().vocab_size}));
    }
    return OkStatus();
  }

  void Add(size_t measurement, uint64_t run, uint64_t tokens, double start) {
    if (run == 0) return;
    measurements_[measurement].speeds.push_back(static_cast<double>(tokens) /
                                                (NowSeconds() - start));
  }

  // What a row of decoding does with the weights; in a prompt many tokens share one reading.
  struct Traffic {
    double weights = 0, bytes = 0;  // per second
    double share = 0;               // of the plain read, where there is one
  };
  Traffic TrafficOf(const Transformer& model, double tokens_per_s) const {
    const double bytes = tokens_per_s * static_cast<double>(model.BytesPerToken());
    return {tokens_per_s * static_cast<double>(model.WeightsPerToken()), bytes,
            plain_read_ > 0 ? bytes / plain_read_ : 0};
  }

  std::string Header(const Transformer& model) const {
    const std::string machine =
        compute_.device == "cpu" ? fmt::format("{} threads, {}, plain read {:.1f} GB/s", threads_,
                                               IsaName(CurrentIsa()), plain_read_ * 1e-9)
                                 : model.device_name();
    return fmt::format("{}: {}, {:.3f} bits per weight; {}; medians of {}\n", model_.string(),
                       FormatBytes(model.file_bytes()), model.bits_per_weight(), machine, repeat_);
  }

  std::string Footer() const {
    return fmt::format("load {:.3f} s, peak memory {}\n", load_s_, FormatBytes(peak_rss_));
  }

  void Print(const Transformer& model) const {
    std::FILE* out = HumanOutput(json_);
    fmt::print(out, "{}", Header(model));
    for (const Measurement& m : measurements_) {
      const Spread speed = SpreadOf(m.speeds);
      fmt::print(out, "{:24} {:9.1f} tokens/s  ({:.1f} .. {:.1f})", m.Name(), speed.median,
                 speed.lowest, speed.highest);
      if (m.decode) {
        const Traffic traffic = TrafficOf(model, speed.median);
        fmt::print(out, ", {:.1f} GB/s of weights", traffic.bytes * 1e-9);
        if (plain_read_ > 0) fmt::print(out, ", {:.0f} % of the plain read", 100 * traffic.share);
      }
      fmt::print(out, "\n");
    }
    fmt::print(out, "{}", Footer());
  }

  Status WriteMarkdown(const Transformer& model) const {
    if (markdown_.empty()) return OkStatus();
    std::string text = Header(model);
    text +=
        "\n| test | tokens/s, median | lowest .. highest | 1e9 weights/s | GB/s | of plain read |\n"
        "|---|---|---|---|---|---|\n";
    for (const Measurement& m : measurements_) {
      const Spread speed = SpreadOf(m.speeds);
      text += fmt::format("| {} | {:.1f} | {:.1f} .. {:.1f} | ", m.Name(), speed.median,
                          speed.lowest, speed.highest);
      const Traffic traffic = TrafficOf(model, speed.median);
      if (m.decode) {
        text += fmt::format("{:.2f} | {:.1f} | ", traffic.weights * 1e-9, traffic.bytes * 1e-9);
      } else {
        text += "- | - | ";
      }
      text +=
          m.decode && plain_read_ > 0 ? fmt::format("{:.0f} % |\n", 100 * traffic.share) : "- |\n";
    }
    text += "\n" + Footer();
    if (markdown_ != "-") return WriteFileAtomically(markdown_, text);
    fmt::print("{}", text);
    return OkStatus();
  }

  nlohmann::ordered_json Json(const Transformer& model) const {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const Measurement& m : measurements_) {
      const Spread speed = SpreadOf(m.speeds);
      nlohmann::ordered_json row = {{"test", m.decode ? "decode" : "prompt"},
                                    {"prompt_tokens", m.prompt},
                                    {"tokens", m.tokens},
                                    {"repetitions", m.speeds.size()},
                                    {"tokens_per_s", speed.median},
                                    {"tokens_per_s_lowest", speed.lowest},
                                    {"tokens_per_s_highest", speed.highest},
                                    {"tokens_per_s_each", m.speeds}};
      if (m.decode) {
        const Traffic traffic = TrafficOf(model, speed.median);
        row["weights_per_s"] = traffic.weights;
        row["bytes_per_s"] = traffic.bytes;
        if (plain_read_ > 0) row["share_of_plain_read"] = traffic.share;
      }
      rows.push_back(std::move(row));
    }
    return {{"model", model_.string()},
            {"bits_per_weight", model.bits_per_weight()},
            // Of the first prompt, and of the first decoding.
            {"prefill_tokens_per_s", SpreadOf(measurements_[0].speeds).median},
            {"decode_tokens_per_s", SpreadOf(measurements_[1].speeds).median},
            {"measurements", std::move(rows)},
            {"load_s", load_s_},
            {"peak_rss_bytes", peak_rss_},
            {"threads", threads_},
            {"isa", IsaName(CurrentIsa())},
            {"device", compute_.device},
            {"device_name", model.device_name()},
            {"positions_at_once", model.positions_at_once()},
            {"bytes_per_token", model.BytesPerToken()},
            {"weights_per_token", model.WeightsPerToken()},
            {"plain_read_bytes_per_s", plain_read_}};
  }

  std::filesystem::path model_;
  ComputeOptions compute_;
  std::vector<uint64_t> prompts_ = {512}, tokens_ = {64};
  uint64_t repeat_ = 3;
  std::string json_, markdown_;

  // For each prompt its own measurement, then those of the tokens after it.
  std::vector<Measurement> measurements_;
  double load_s_ = 0, plain_read_ = 0;  // 0: not on the processor, not measured
  uint64_t peak_rss_ = 0;
  size_t threads_ = 0;
};

}  // namespace

std::unique_ptr<Command> MakeBenchCommand() { return std::make_unique<BenchCommand>(); }

}  // namespace tq::cli
