// Float kernels on one core: products at the shapes of small Llama models, attention at
// several depths, and rows of logits. Prints FLOP/s (or bytes/s) per level.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "codec/grouped_matrix.h"
#include "codec/grouped_rounding.h"
#include "device/executor.h"
#include "kernels/gemm/gemm_f32.h"
#include "kernels/isa.h"
#include "kernels/transformer/attention.h"
#include "kernels/transformer/elementwise.h"
#include "kernels/transformer/logits.h"

namespace tq {
namespace {

using benchmark::Counter;

std::vector<float> RandomFloats(size_t count) {
  Random random(1, "dense_bench");
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.NextUniform() - 0.5);
  return values;
}

void SetRate(benchmark::State& state, const char* name, double per_iteration) {
  state.counters[name] =
      Counter(per_iteration, Counter::kIsIterationInvariantRate, Counter::kIs1000);
}

// n x m x k.
void MatmulNt(benchmark::State& state, Isa isa) {
  const size_t n = state.range(0), m = state.range(1), k = state.range(2);
  const std::vector<float> x = RandomFloats(n * k), w = RandomFloats(m * k);
  std::vector<float> y(n * m);
  for (auto _ : state) {
    gemm::MatmulNt({n, m, k, x.data(), k, w.data(), k, y.data(), m, false}, isa);
    benchmark::DoNotOptimize(y.data());
  }
  SetRate(state, "FLOP/s", 2.0 * n * m * k);
  if (n == 1) SetRate(state, "B/s", 4.0 * m * k);
}

uint64_t Sum(const uint64_t* values, size_t n) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= n; i += 8) {
    for (size_t s = 0; s < 8; ++s) sums[s] += values[i + s];
  }
  return std::accumulate(std::begin(sums), std::end(sums), uint64_t{0});
}

// What the memory gives one core: the roof of products with one row.
void PlainRead(benchmark::State& state) {
  const std::vector<uint64_t> values(state.range(0) / sizeof(uint64_t), 1);
  for (auto _ : state) benchmark::DoNotOptimize(Sum(values.data(), values.size()));
  SetRate(state, "B/s", static_cast<double>(state.range(0)));
}

// The update of the remaining columns after a block of 16, or a whole panel.
void MatmulNn(benchmark::State& state, Isa isa) {
  const size_t n = state.range(0), m = state.range(1), k = state.range(2);
  const std::vector<float> a = RandomFloats(n * k), b = RandomFloats(m * k);
  std::vector<float> c(n * m);
  for (auto _ : state) {
    gemm::MatmulNn({n, m, k, a.data(), k, b.data(), m, c.data(), m, true}, isa);
    benchmark::DoNotOptimize(c.data());
  }
  SetRate(state, "FLOP/s", 2.0 * n * m * k);
}

// n rows of k into the upper triangle; counts its k (k + 1) / 2 elements only.
void Syrk(benchmark::State& state, Isa isa) {
  const size_t n = state.range(0), k = state.range(1);
  const std::vector<float> x = RandomFloats(n * k);
  std::vector<float> h(k * k);
  for (auto _ : state) {
    gemm::SyrkUpper({n, k, x.data(), k, h.data(), k, 0, k}, isa);
    benchmark::DoNotOptimize(h.data());
  }
  SetRate(state, "FLOP/s", 1.0 * n * k * (k + 1));
}

// n x rows x cols at a width in bits, at the level in force.
void Grouped(benchmark::State& state) {
  const size_t n = state.range(0), rows = state.range(1), cols = state.range(2);
  const std::vector<float> x = RandomFloats(n * cols), w = RandomFloats(rows * cols);
  InlineExecutor executor;
  const auto matrix = QuantizeToNearest(w.data(), rows, cols, state.range(3), 32, executor);
  std::vector<float> y(n * rows);
  for (auto _ : state) {
    GroupedMatmul(*matrix, x.data(), n, executor, y.data());
    benchmark::DoNotOptimize(y.data());
  }
  SetRate(state, "FLOP/s", 2.0 * n * rows * cols);
  SetRate(state, "weights/s", 1.0 * rows * cols);
}

// n queries ending at `depth`, group 3, head dimension 64 (SmolLM2) or 4 x 128.
void Attention(benchmark::State& state, Isa isa) {
  const size_t n = state.range(0), depth = state.range(1);
  const size_t dim = state.range(2), group = dim == 64 ? 3 : 4;
  const std::vector<float> q = RandomFloats(n * group * dim), floats = RandomFloats(depth * dim);
  std::vector<uint16_t> cache(depth * dim);
  transformer::FloatToHalf(floats.data(), floats.size(), cache.data());
  std::vector<float> out(q.size());
  transformer::AttentionArgs args;
  args.n = n, args.group = group, args.head_dim = dim, args.first = depth - n;
  args.scale = 0.125f;
  args.q = q.data(), args.q_stride = group * dim;
  args.keys = args.values = cache.data();
  args.out = out.data(), args.out_stride = group * dim;
  for (auto _ : state) {
    transformer::Attention(args, isa);
    benchmark::DoNotOptimize(out.data());
  }
  const double keys = n * (depth - 0.5 * (n - 1));
  SetRate(state, "FLOP/s", 4.0 * group * dim * keys);
  SetRate(state, "keys/s", keys);
}

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One query of `group` heads per KV head, keys and values of so many positions, beside a plain
// read of as many bytes after each. {group, positions, head dimension, MiB of caches in turn}.
void AttentionOfToken(benchmark::State& state, Isa isa) {
  const size_t group = state.range(0), length = state.range(1), dim = state.range(2);
  const size_t halves = 2 * length * dim, bytes = halves * sizeof(uint16_t);
  const size_t count = std::max<size_t>(1, (state.range(3) << 20) / bytes);
  const std::vector<float> q = RandomFloats(group * dim), floats = RandomFloats(halves);
  std::vector<uint16_t> caches(count * halves);
  for (size_t i = 0; i < count; ++i) {
    transformer::FloatToHalf(floats.data(), halves, caches.data() + i * halves);
  }
  std::vector<float> out(q.size());
  transformer::AttentionArgs args;
  args.n = 1, args.group = group, args.head_dim = dim, args.first = length - 1;
  args.scale = 0.125f;
  args.q = q.data(), args.q_stride = group * dim;
  args.out = out.data(), args.out_stride = group * dim;
  size_t next = 0;
  const auto cache = [&] { return caches.data() + next++ % count * halves; };
  double read_seconds = 0, seconds = 0;
  for (auto _ : state) {
    args.keys = cache();
    args.values = args.keys + length * dim;
    const double start = Seconds();
    transformer::Attention(args, isa);
    const double middle = Seconds();
    benchmark::DoNotOptimize(out.data());
    benchmark::DoNotOptimize(Sum(reinterpret_cast<const uint64_t*>(cache()), bytes / 8));
    read_seconds += Seconds() - middle;
    seconds += middle - start;
    state.SetIterationTime(middle - start);
  }
  SetRate(state, "B/s", static_cast<double>(bytes));
  state.counters["of_plain_read"] = read_seconds / seconds;
}

void RowDivergence(benchmark::State& state, Isa isa) {
  const size_t n = state.range(0);
  const std::vector<float> p = RandomFloats(n), q = RandomFloats(n);
  for (auto _ : state) {
    benchmark::DoNotOptimize(transformer::RowDivergence(p.data(), q.data(), n, isa));
  }
  SetRate(state, "logits/s", n);
}

void Elementwise(benchmark::State& state, Isa isa) {
  const size_t n = state.range(0);
  const std::vector<float> a = RandomFloats(n), b = RandomFloats(n);
  std::vector<float> out(n);
  const auto& kernels = transformer::ElementwiseFor(isa);
  for (auto _ : state) {
    kernels.silu_multiply(a.data(), b.data(), n, out.data());
    benchmark::DoNotOptimize(out.data());
  }
  SetRate(state, "values/s", n);
}

void RegisterAll() {
  benchmark::RegisterBenchmark("plain_read", PlainRead)
      ->Arg(3 << 20)
      ->Arg(108 << 20)
      ->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark("grouped", Grouped)
      ->Args({1, 1536, 576, 4})
      ->Args({1, 1536, 576, 3})
      ->Args({512, 1536, 576, 4})
      ->Unit(benchmark::kMicrosecond);
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaSupported(isa)) continue;
    const auto add = [&](const char* what, void (*run)(benchmark::State&, Isa)) {
      const std::string name = fmt::format("{}/{}", what, IsaName(isa));
      return benchmark::RegisterBenchmark(name.c_str(), run, isa);
    };
    auto* nt = add("matmul_nt", MatmulNt)
                   ->Args({512, 576, 1536})
                   ->Args({512, 1536, 576})
                   ->Args({1, 576, 1536})
                   ->Args({1, 1536, 576})
                   ->Args({8, 1536, 576});
    auto* nn = add("matmul_nn", MatmulNn)->Args({1536, 512, 16});
    auto* syrk = add("syrk", Syrk)->Args({512, 576});
    auto* attention = add("attention", Attention)->Args({1, 512, 64});
    if (isa != Isa::kReference) {
      nt->Args({512, 49152, 576})->Args({1, 49152, 576})->Args({512, 4096, 4096});
      nt->Args({28, 14336, 4096})->Args({512, 14336, 4096});
      nn->Args({1536, 1536, 128});
      syrk->Args({512, 1536})->Args({512, 2048})->Args({28, 14336})->Args({512, 14336});
      attention->Args({1, 4096, 64})->Args({1, 4096, 128});
      attention->Args({512, 512, 64})->Args({512, 4096, 64})->Args({512, 4096, 128});
    }
    for (auto* bench : {nt, nn, syrk, attention}) bench->Unit(benchmark::kMicrosecond);
    auto* token = add("attention_of_token", AttentionOfToken)->Args({3, 2048, 64, 256});
    if (isa != Isa::kReference) {
      for (int64_t group : {1, 4, 8}) token->Args({group, 2048, 64, 256});
      for (int64_t group : {1, 3, 4, 8}) token->Args({group, 128, 64, 0});
      token->Args({4, 2048, 128, 256});
    }
    token->UseManualTime()->Unit(benchmark::kMicrosecond);
    add("row_divergence", RowDivergence)->Arg(49152)->Unit(benchmark::kMicrosecond);
    add("silu_multiply", Elementwise)->Arg(1536)->Unit(benchmark::kNanosecond);
  }
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  tq::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
