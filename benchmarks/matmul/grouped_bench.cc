// Speed of products with grouped matrices per width and instruction set: billions of weights (n =
// 1) or multiply-adds (n > 1) per second, beside a plain read of the same bytes by as many threads
// in the same run, interleaved so that a change of clock hits both.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "codec/grouped_matmul.h"
#include "device/thread_pool.h"
#include "measure.h"

namespace tq {
namespace {

struct Options {
  uint64_t rows = 4096, cols = 14336;
  uint32_t group_size = 128;
  uint64_t megabytes = 256;  // of codes, gone through in turn: more than the caches hold
  int repeats = 9;
  size_t threads = 1;
  std::string zeros = "packed", level, json;
  bool in_float = false;  // the reference path
};

ZeroKind KindOf(const std::string& zeros) {
  if (zeros == "half") return ZeroKind::kHalf;
  return zeros == "packed" ? ZeroKind::kPacked : ZeroKind::kSymmetric;
}

struct Bench {
  Options options;
  std::unique_ptr<ThreadPool> threads;
  std::unique_ptr<Pool> codes, halves;
  std::vector<float> x;
  uint64_t sink = 0;
  nlohmann::json results = nlohmann::json::array();

  // The next memory of a pool, as a tensor.
  static Tensor Next(Pool& pool, DType dtype, uint64_t rows, uint64_t across) {
    const uint64_t bytes = rows * across * (dtype == DType::kF16 ? 2 : 1);
    return Tensor({dtype, {rows, across}, pool.Next(bytes)}, pool.owner());
  }
  GroupedMatrix NextMatrix(const GroupedLayout& layout) {
    GroupedTensors tensors;
    tensors.codes = Next(*codes, DType::kU8, layout.rows, layout.code_bytes());
    tensors.scale = Next(*halves, DType::kF16, layout.rows, layout.groups());
    if (layout.zeros == ZeroKind::kHalf) {
      tensors.zero = Next(*halves, DType::kF16, layout.rows, layout.groups());
    } else if (layout.zeros == ZeroKind::kPacked) {
      tensors.zero = Next(*codes, DType::kU8, layout.rows, layout.packed_zero_bytes());
    }
    return {layout, tensors};
  }

  void Run(Isa isa, uint32_t bits, uint64_t n) {
    Executor& executor = *threads;
    // About 4e9 multiply-adds a thread: fewer rows for many columns of x and for plain code.
    const uint64_t work = isa == Isa::kReference ? 20'000'000 : 4'000'000'000;
    const uint64_t most =
        std::max<uint64_t>(64, work * threads->threads() / (options.cols * n) / 64 * 64);
    GroupedLayout layout;
    layout.rows = std::min(options.rows, most);
    layout.cols = options.cols;
    layout.bits = bits;
    layout.group_size = options.group_size;
    layout.zeros = layout.ternary() ? ZeroKind::kSymmetric : KindOf(options.zeros);
    const MatmulPath path = options.in_float ? MatmulPath::kReference : MatmulPath::kFast;
    GroupedInput input;
    std::vector<float> y(layout.rows * n);
    float* const out[] = {y.data()};
    std::vector<double> prepare, product, read;
    uint64_t bytes = 0;
    for (int i = -1; i < options.repeats; ++i) {
      const GroupedMatrix matrix = NextMatrix(layout);
      const GroupedMatrix* const matrices[] = {&matrix};
      bytes = matrix.num_bytes();
      const double begin = Seconds();
      input.PrepareAt(isa, matrices, x.data(), n, path, executor);
      const double start = Seconds();
      GroupedMatmul(matrices, input, executor, out);
      const double middle = Seconds();
      sink += PlainRead(codes->Next(bytes), bytes, executor);
      const double end = Seconds();
      if (i < 0) continue;
      prepare.push_back(start - begin);
      product.push_back(middle - start);
      read.push_back(end - middle);
    }
    Report(isa, layout, n, bytes, prepare, product, read);
  }

  void Report(Isa isa, const GroupedLayout& layout, uint64_t n, uint64_t bytes,
              const std::vector<double>& prepare, const std::vector<double>& product,
              const std::vector<double>& read) {
    const double seconds = Median(product);
    const auto macs = static_cast<double>(layout.rows * layout.cols * n);
    const double bytes_per_s = static_cast<double>(bytes) / seconds;
    const double share = Median(read) / seconds;
    std::printf(
        "%-12s %g bits n=%-4llu %8.1f (best %.1f) %s %7.2f GB/s %5.1f %% of plain read, x %.1f "
        "us\n",
        std::string(IsaName(isa)).c_str(), layout.rate(), static_cast<unsigned long long>(n),
        macs / seconds * 1e-9, macs / Best(product) * 1e-9, n == 1 ? "Gweights/s" : "GMAC/s    ",
        bytes_per_s * 1e-9, 100 * share, Median(prepare) * 1e6);
    std::fflush(stdout);
    results.push_back({{"isa", IsaName(isa)},
                       {"bits", layout.rate()},
                       {"group_size", layout.group_size},
                       {"zeros", layout.ternary() ? "none" : options.zeros},
                       {"n", n},
                       {"rows", layout.rows},
                       {"cols", layout.cols},
                       {"macs_per_s", macs / seconds},
                       {"best_macs_per_s", macs / Best(product)},
                       {"bytes_per_s", bytes_per_s},
                       {"share_of_plain_read", share},
                       {"prepare_seconds", Median(prepare)}});
  }
};

// A pool of `bytes`, at random; as halves of magnitudes from 2^-8 to 2^-7 where `halves`.
StatusOr<std::unique_ptr<Pool>> MakePool(uint64_t bytes, bool halves) {
  TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(bytes, "matrices"));
  FillAtRandom(memory.get(), bytes);
  auto* words = reinterpret_cast<uint16_t*>(memory.get());
  for (uint64_t i = 0; halves && i < bytes / 2; ++i) words[i] = (words[i] & 0x83ff) | 0x1c00;
  return std::make_unique<Pool>(std::move(memory), bytes);
}

int Main(int argc, char** argv) {
  Bench bench;
  Options& options = bench.options;
  std::vector<uint64_t> batches = {1, 2, 4, 8, 16, 64, 512};
  std::vector<uint32_t> widths = {2, 3, 4, 8};
  CLI::App app("Speed of products with grouped matrices");
  app.add_option("--rows", options.rows)->check(CLI::Range(64, 1 << 20));
  app.add_option("--cols", options.cols)->check(CLI::Range(64, 1 << 20));
  app.add_option("--bits", widths, "1: ternary, 1.6 bits")->check(CLI::Range(1, 8));
  app.add_option("--group", options.group_size)->check(CLI::Range(1, 65536));
  app.add_option("--zeros", options.zeros)->check(CLI::IsMember({"half", "packed", "symmetric"}));
  app.add_option("--megabytes", options.megabytes)->check(CLI::Range(1, 1 << 14));
  app.add_option("--repeats", options.repeats)->check(CLI::Range(1, 1000));
  app.add_option("--threads", options.threads, "0: all processors")->check(CLI::Range(0, 1024));
  app.add_option("--n", batches, "rows of x")->check(CLI::Range(1, 4096));
  app.add_option("--isa", options.level, "only this level");
  app.add_flag("--float", options.in_float, "decode to float and multiply");
  app.add_option("--json", options.json, "also write results to this file, - for standard output");
  CLI11_PARSE(app, argc, argv);

  auto threads = ThreadPool::Create(options.threads);
  // Of 8 bits, zeros included; scales and zeros of one matrix as halves.
  const uint64_t codes = std::max(options.megabytes << 20, 2 * options.rows * options.cols);
  const uint64_t groups = CeilDiv<uint64_t>(options.cols, options.group_size);
  auto code_pool = MakePool(codes, false);
  auto half_pool =
      MakePool(std::max(options.megabytes << 17, 4 * options.rows * groups + 8192), true);
  for (const Status& status : {threads.status(), code_pool.status(), half_pool.status()}) {
    if (status.ok()) continue;
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  bench.threads = *std::move(threads);
  bench.codes = *std::move(code_pool);
  bench.halves = *std::move(half_pool);
  Random random(1, "x");
  bench.x.resize(*std::max_element(batches.begin(), batches.end()) * options.cols);
  for (float& value : bench.x) value = static_cast<float>(random.NextNormal());

  for (uint64_t n : batches) {
    for (Isa isa : kAllIsas) {
      if (!IsaSupported(isa) || (!options.level.empty() && IsaName(isa) != options.level)) continue;
      for (uint32_t bits : widths) bench.Run(isa, bits, n);
    }
  }
  if (!options.json.empty()) {
    WriteResults(options.json, "grouped", bench.threads->threads(), options.megabytes,
                 bench.results);
  }
  return bench.sink == 1;  // keeps the reads
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) { return tq::Main(argc, argv); }
