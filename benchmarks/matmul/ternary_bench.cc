// Speed of products with ternary matrices per packing and instruction set: billions of weights
// (n = 1) or multiply-adds (n > 1) per second, beside a plain read of the same bytes by as many
// threads in the same run, interleaved so that a change of clock hits both.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "codec/ternary_matmul.h"
#include "device/thread_pool.h"
#include "measure.h"

namespace tq {
namespace {

using ternary::Packing;

struct Options {
  uint64_t rows = 4096, cols = 14336;
  uint64_t megabytes = 256;  // of codes, gone through in turn: more than the caches hold
  int repeats = 9;
  size_t threads = 1;
  std::string level, json;
};

struct Bench {
  Options options;
  std::unique_ptr<ThreadPool> threads;
  std::unique_ptr<Pool> pool;
  std::vector<float> x;
  uint64_t sink = 0;
  nlohmann::json results = nlohmann::json::array();

  void Run(Isa isa, Packing packing, uint64_t n) {
    Executor& executor = *threads;
    // About 4e9 multiply-adds a thread: fewer rows for many columns of x and for plain code.
    const uint64_t work = isa == Isa::kReference ? 20'000'000 : 4'000'000'000;
    const uint64_t most =
        std::max<uint64_t>(64, work * threads->threads() / (options.cols * n) / 64 * 64);
    TernaryMatrix matrix{std::min(options.rows, most), options.cols, packing, {}, {1.0f}};
    const uint64_t bytes = TernaryBytes(packing, matrix.rows, matrix.cols);
    TernaryInput input;
    std::vector<float> y(matrix.rows * n);
    std::vector<double> prepare, product, read;
    for (int i = -1; i < options.repeats; ++i) {
      matrix.codes = Tensor({DType::kU8, {bytes}, pool->Next(bytes)}, pool->owner());
      const double begin = Seconds();
      input.PrepareAt(isa, x.data(), n, matrix.cols, executor);
      const double start = Seconds();
      TernaryMatmul(matrix, input, executor, y.data());
      const double middle = Seconds();
      sink += PlainRead(pool->Next(bytes), bytes, executor);
      const double end = Seconds();
      if (i < 0) continue;
      prepare.push_back(start - begin);
      product.push_back(middle - start);
      read.push_back(end - middle);
    }
    Report(isa, matrix, n, prepare, product, read);
  }

  void Report(Isa isa, const TernaryMatrix& matrix, uint64_t n, const std::vector<double>& prepare,
              const std::vector<double>& product, const std::vector<double>& read) {
    const double bits = matrix.packing == Packing::k2Bits ? 2 : 1.6;
    const double seconds = Median(product);
    const double macs = static_cast<double>(matrix.rows * matrix.cols * n);
    const double bytes_per_s = static_cast<double>(matrix.codes.num_bytes()) / seconds;
    const double share = Median(read) / seconds;
    std::printf(
        "%-12s %.1f bits n=%-4llu %8.1f (best %.1f) %s %7.2f GB/s %5.1f %% of plain read, "
        "x %.1f us\n",
        std::string(IsaName(isa)).c_str(), bits, static_cast<unsigned long long>(n),
        macs / seconds * 1e-9, macs / Best(product) * 1e-9, n == 1 ? "Gweights/s" : "GMAC/s    ",
        bytes_per_s * 1e-9, 100 * share, Median(prepare) * 1e6);
    std::fflush(stdout);
    results.push_back({{"isa", IsaName(isa)},
                       {"bits", bits},
                       {"n", n},
                       {"rows", matrix.rows},
                       {"cols", matrix.cols},
                       {"macs_per_s", macs / seconds},
                       {"best_macs_per_s", macs / Best(product)},
                       {"bytes_per_s", bytes_per_s},
                       {"share_of_plain_read", share},
                       {"prepare_seconds", Median(prepare)}});
  }
};

int Main(int argc, char** argv) {
  Bench bench;
  Options& options = bench.options;
  std::vector<uint64_t> batches = {1, 2, 4, 8, 16, 64, 512};
  CLI::App app("Speed of products with ternary matrices");
  app.add_option("--rows", options.rows)->check(CLI::Range(64, 1 << 20));
  app.add_option("--cols", options.cols)->check(CLI::Range(64, 1 << 20));
  app.add_option("--megabytes", options.megabytes)->check(CLI::Range(1, 1 << 14));
  app.add_option("--repeats", options.repeats)->check(CLI::Range(1, 1000));
  app.add_option("--threads", options.threads, "0: all processors")->check(CLI::Range(0, 1024));
  app.add_option("--n", batches, "rows of x")->check(CLI::Range(1, 4096));
  app.add_option("--isa", options.level, "only this level");
  app.add_option("--json", options.json, "also write results to this file, - for standard output");
  CLI11_PARSE(app, argc, argv);

  auto threads = ThreadPool::Create(options.threads);
  if (!threads.ok()) {
    std::fprintf(stderr, "%s\n", threads.status().message().c_str());
    return 1;
  }
  bench.threads = *std::move(threads);
  const uint64_t bytes =
      std::max(options.megabytes << 20, TernaryBytes(Packing::k2Bits, options.rows, options.cols));
  auto memory = AllocateAligned(bytes, "codes");
  if (!memory.ok()) {
    std::fprintf(stderr, "%s\n", memory.status().message().c_str());
    return 1;
  }
  // Bytes that no packer writes are as fast as others.
  FillAtRandom(memory->get(), bytes);
  bench.pool = std::make_unique<Pool>(*memory, bytes);
  Random random(1, "x");
  bench.x.resize(*std::max_element(batches.begin(), batches.end()) * options.cols);
  for (float& value : bench.x) value = static_cast<float>(random.NextNormal());

  for (uint64_t n : batches) {
    for (Isa isa : kAllIsas) {
      if (!IsaSupported(isa) || (!options.level.empty() && IsaName(isa) != options.level)) continue;
      for (Packing packing : ternary::kAllPackings) bench.Run(isa, packing, n);
    }
  }
  if (!options.json.empty()) {
    WriteResults(options.json, "ternary", bench.threads->threads(), options.megabytes,
                 bench.results);
  }
  return bench.sink == 1;  // keeps the reads
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) { return tq::Main(argc, argv); }
