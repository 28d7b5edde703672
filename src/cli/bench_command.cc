// tq bench: how fast a model runs here, beside what the memory could give.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/cancel.h"
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

class BenchCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    CLI::App* sub =
        Register(app, "bench", "Measure prompt and decode speed",
                 "  tq bench SmolLM2-2bit\n"
                 "  tq bench SmolLM2-2bit --threads 1 --prompt 256 --tokens 64 --json -");
    AddModelArgument(*sub, model_);
    sub->add_option("--prompt", prompt_, "Tokens of the prompt")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    sub->add_option("--tokens", tokens_, "Tokens to decode after it")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    sub->add_option("--repeat", repeat_, "Repetitions; the median is reported")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    compute_.AddTo(*sub);
    AddJsonOption(*sub, json_);
  }

  Status Run() override {
    TQ_ASSIGN_OR_RETURN(auto pool, compute_.MakePool());
    const double load_start = NowSeconds();
    TQ_ASSIGN_OR_RETURN(auto model, Transformer::Load(model_));
    const double load_s = NowSeconds() - load_start;
    TQ_RETURN_IF_ERROR(Measure(*model, *pool));
    // Before the buffer of the plain read enters it.
    const uint64_t peak_rss = PeakRssBytes();
    const double plain_read = PlainReadBytesPerSecond(*pool);
    const Spread prefill = SpreadOf(prefill_), decode = SpreadOf(decode_);
    const uint64_t bytes_per_token = model->BytesPerToken();
    const std::string_view isa = IsaName(CurrentIsa());

    std::FILE* out = HumanOutput(json_);
    fmt::print(out, "{}: {}, {:.3f} bits per weight; {} threads, {}\n", model_.string(),
               FormatBytes(model->file_bytes()), model->bits_per_weight(), pool->threads(), isa);
    fmt::print(out, "prompt of {:4}  {:9.1f} tokens/s  ({:.1f} .. {:.1f})\n", prompt_,
               prefill.median, prefill.lowest, prefill.highest);
    fmt::print(out, "decode of {:4}  {:9.1f} tokens/s  ({:.1f} .. {:.1f})\n", tokens_,
               decode.median, decode.lowest, decode.highest);
    fmt::print(
        out, "{} of weights per token: {:.1f} GB/s, {:.0f} % of the plain read's {:.1f} GB/s\n",
        FormatBytes(bytes_per_token), decode.median * static_cast<double>(bytes_per_token) * 1e-9,
        100 * decode.median * static_cast<double>(bytes_per_token) / plain_read, plain_read * 1e-9);
    fmt::print(out, "load {:.3f} s, peak memory {}\n", load_s, FormatBytes(peak_rss));
    return WriteJson(json_, {{"model", model_.string()},
                             {"prefill_tokens_per_s", prefill.median},
                             {"prefill_tokens_per_s_lowest", prefill.lowest},
                             {"prefill_tokens_per_s_highest", prefill.highest},
                             {"decode_tokens_per_s", decode.median},
                             {"decode_tokens_per_s_lowest", decode.lowest},
                             {"decode_tokens_per_s_highest", decode.highest},
                             {"prompt_tokens", prompt_},
                             {"decode_tokens", tokens_},
                             {"load_s", load_s},
                             {"peak_rss_bytes", peak_rss},
                             {"threads", pool->threads()},
                             {"isa", isa},
                             {"device", "cpu"},
                             {"bytes_per_token", bytes_per_token},
                             {"plain_read_bytes_per_s", plain_read}});
  }

 private:
  Status Measure(Transformer& model, Executor& pool) {
    const ForwardContext context{&pool, compute_.path()};
    const uint32_t vocab = model.config().vocab_size;
    TQ_ASSIGN_OR_RETURN(KvCache cache, KvCache::Create(model.config(), prompt_ + tokens_));
    std::vector<float> logits(vocab);
    Random random(1, "bench");
    std::vector<int32_t> prompt(prompt_);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random.NextBelow(vocab));
    // One repetition more than asked for: the first warms up and is dropped.
    for (uint64_t run = 0; run <= repeat_; ++run) {
      TQ_RETURN_IF_ERROR(CheckCancelled());
      cache.Truncate(0);
      const double start = NowSeconds();
      TQ_RETURN_IF_ERROR(model.Forward(context, cache, prompt, Logits::kLast, logits.data()));
      const double prompt_done = NowSeconds();
      for (uint64_t i = 0; i < tokens_; ++i) {
        const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
        const int32_t token = static_cast<int32_t>(best);
        TQ_RETURN_IF_ERROR(
            model.Forward(context, cache, {&token, 1}, Logits::kLast, logits.data()));
      }
      if (run == 0) continue;
      prefill_.push_back(static_cast<double>(prompt_) / (prompt_done - start));
      decode_.push_back(static_cast<double>(tokens_) / (NowSeconds() - prompt_done));
    }
    return OkStatus();
  }

  std::filesystem::path model_;
  ComputeOptions compute_;
  uint64_t prompt_ = 512, tokens_ = 64, repeat_ = 3;
  std::vector<double> prefill_, decode_;
  std::string json_;
};

}  // namespace

std::unique_ptr<Command> MakeBenchCommand() { return std::make_unique<BenchCommand>(); }

}  // namespace tq::cli
