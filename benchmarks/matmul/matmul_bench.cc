// Speed of packed products per code and instruction set: billions of weights (n = 1) or
// multiply-adds (n > 1) per second, beside a plain read of the same bytes by as many threads in
// the same run, interleaved so that a change of clock hits both.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "codec/packed_matmul.h"
#include "codec/rotation.h"
#include "device/thread_pool.h"
#include "kernels/trellis_matmul/trellis_matmul.h"
#include "measure.h"

namespace tq {
namespace {

struct Options {
  uint64_t rows = 4096, cols = 14336;
  uint64_t megabytes = 256;  // of codes, gone through in turn: more than the caches hold
  int repeats = 9;
  size_t threads = 1;
  int state_bits = 16;
  std::string level, json;
};

Tensor Ones(uint64_t n) {
  const std::vector<uint16_t> ones(n, 0x3c00);
  return *Tensor::FromValues<uint16_t>(DType::kF16, {n}, ones);
}

// A matrix whose codes are the next piece of `pool` with every call of Next.
class Matrices {
 public:
  Matrices(Pool& pool, uint64_t rows, uint64_t cols, trellis::Code code) : pool_(pool) {
    matrix_.rows = rows;
    matrix_.cols = cols;
    matrix_.segments = MakeSegments(rows, cols, code, code, rows);
    matrix_.out_scale = Ones(rows);
    matrix_.out_block = LargestHadamardOrder(rows, 128);
    matrix_.input = std::make_shared<InputTransform>(
        InputTransform{Ones(cols), LargestHadamardOrder(cols, 128)});
    bytes_ = SegmentBytes(matrix_.segments[0], cols);
  }
  uint64_t bytes() const { return bytes_; }
  const PackedMatrix& Next() {
    matrix_.codes = Tensor({DType::kU8, {bytes_}, pool_.Next(bytes_)}, pool_.owner());
    return matrix_;
  }

 private:
  Pool& pool_;
  uint64_t bytes_ = 0;
  PackedMatrix matrix_;
};

struct Bench {
  Options options;
  std::unique_ptr<ThreadPool> threads;
  std::unique_ptr<Pool> pool;
  std::vector<float> x;
  uint64_t sink = 0;
  nlohmann::json results = nlohmann::json::array();

  void Run(Isa isa, trellis::Code code, uint64_t n) {
    Executor& executor = *threads;
    // About 2e9 multiply-adds a thread: fewer rows for many columns of x and for plain code.
    const uint64_t work = isa == Isa::kReference ? 20'000'000 : 2'000'000'000;
    const uint64_t most =
        std::max<uint64_t>(64, work * threads->threads() / (options.cols * n) / 64 * 64);
    const uint64_t rows = std::min(options.rows, most);
    Matrices matrices(*pool, rows, options.cols, code);
    RotatedInput input;
    input.PrepareAt(isa, *matrices.Next().input, x.data(), n, options.cols, {&code, 1},
                    MatmulPath::kFast, executor);
    std::vector<float> y(rows * n);
    std::vector<double> product, read;
    for (int i = -1; i < options.repeats; ++i) {
      const double start = Seconds();
      PackedMatmul(matrices.Next(), input, MatmulPath::kFast, executor, y.data());
      const double middle = Seconds();
      sink += PlainRead(matrices.Next().codes.data(), matrices.bytes(), executor);
      const double end = Seconds();
      if (i < 0) continue;
      product.push_back(middle - start);
      read.push_back(end - middle);
    }
    const double seconds = Median(product), weights = static_cast<double>(rows * options.cols);
    const double rate = weights * static_cast<double>(n) / seconds * 1e-9;
    const double best = rate * seconds / Best(product);
    const double share = Median(read) / seconds;
    const double bytes_per_s = static_cast<double>(matrices.bytes()) / seconds;
    std::printf(
        "%-10s V=%d k=%d (%.2f bits) n=%-4llu %8.1f (best %.1f) %s %7.2f GB/s %5.1f %% of plain "
        "read\n",
        std::string(IsaName(isa)).c_str(), code.values, code.bits, code.rate(),
        static_cast<unsigned long long>(n), rate, best, n == 1 ? "Gweights/s" : "GMAC/s    ",
        bytes_per_s * 1e-9, 100 * share);
    std::fflush(stdout);
    results.push_back({{"isa", IsaName(isa)},
                       {"values", code.values},
                       {"bits", code.bits},
                       {"state_bits", code.state_bits},
                       {"n", n},
                       {"rows", rows},
                       {"cols", options.cols},
                       {"macs_per_s", rate * 1e9},
                       {"best_macs_per_s", best * 1e9},
                       {"bytes_per_s", bytes_per_s},
                       {"share_of_plain_read", share}});
  }

  void RunPrepare(Isa isa, uint64_t cols, uint64_t n) {
    Executor& executor = *threads;
    const InputTransform input{Ones(cols), LargestHadamardOrder(cols, 128)};
    const trellis::Code code{2, 4};
    RotatedInput rotated;
    std::vector<double> times;
    const int loops = 50;
    for (int i = 0; i < options.repeats + 1; ++i) {
      const double start = Seconds();
      for (int j = 0; j < loops; ++j) {
        rotated.PrepareAt(isa, input, x.data(), n, cols, {&code, 1}, MatmulPath::kFast, executor);
      }
      times.push_back((Seconds() - start) / loops);
    }
    const double seconds = Median(times);
    std::printf("%-10s prepare %llu x %llu: %.2f us, %.2f ns per activation\n",
                std::string(IsaName(isa)).c_str(), static_cast<unsigned long long>(n),
                static_cast<unsigned long long>(cols), seconds * 1e6,
                seconds * 1e9 / static_cast<double>(n * cols));
    results.push_back(
        {{"isa", IsaName(isa)}, {"prepare_cols", cols}, {"n", n}, {"seconds", seconds}});
  }
};

int Main(int argc, char** argv) {
  Bench bench;
  Options& options = bench.options;
  std::vector<uint64_t> batches = {1, 8, 512};
  CLI::App app("Speed of packed products");
  app.add_option("--rows", options.rows)->check(CLI::Range(64, 1 << 20));
  app.add_option("--cols", options.cols)->check(CLI::Range(64, 1 << 20));
  app.add_option("--megabytes", options.megabytes)->check(CLI::Range(1, 1 << 14));
  app.add_option("--repeats", options.repeats)->check(CLI::Range(1, 1000));
  app.add_option("--threads", options.threads, "0: all processors")->check(CLI::Range(0, 1024));
  app.add_option("--n", batches, "rows of x")->check(CLI::Range(1, 4096));
  app.add_option("--state-bits", options.state_bits, "L, 12 or 16")->check(CLI::IsMember({12, 16}));
  app.add_option("--isa", options.level, "only this level");
  app.add_option("--json", options.json, "also write results to this file, - for standard output");
  CLI11_PARSE(app, argc, argv);

  auto threads = ThreadPool::Create(options.threads);
  if (!threads.ok()) {
    std::fprintf(stderr, "%s\n", threads.status().message().c_str());
    return 1;
  }
  bench.threads = *std::move(threads);
  // No code takes more than 8 bits; padding to whole tiles adds less than 64 rows and 32 columns.
  const uint64_t bytes =
      std::max(options.megabytes << 20, (options.rows + 64) * (options.cols + 32));
  auto memory = AllocateAligned(bytes, "codes");
  if (!memory.ok()) {
    std::fprintf(stderr, "%s\n", memory.status().message().c_str());
    return 1;
  }
  FillAtRandom(memory->get(), bytes);
  bench.pool = std::make_unique<Pool>(*memory, bytes);
  Random random(1, "x");
  bench.x.resize(*std::max_element(batches.begin(), batches.end()) *
                 std::max<uint64_t>(options.cols, 14336));
  for (float& value : bench.x) value = static_cast<float>(random.NextNormal());

  for (Isa isa : kAllIsas) {
    if (!IsaSupported(isa) || (!options.level.empty() && IsaName(isa) != options.level)) continue;
    for (uint64_t cols : {576, 1536, 4096, 14336}) bench.RunPrepare(isa, cols, 1);
    for (uint64_t n : batches) {
      for (trellis::Code code : trellis::kMatmulCodes) {
        if (code.state_bits == options.state_bits) bench.Run(isa, code, n);
      }
    }
  }
  if (!options.json.empty()) {
    WriteResults(options.json, "matmul", bench.threads->threads(), options.megabytes,
                 bench.results);
  }
  return bench.sink == 1;  // keeps the reads
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) { return tq::Main(argc, argv); }
