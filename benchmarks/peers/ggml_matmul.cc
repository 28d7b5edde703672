// ggml_matmul [--rows N] [--cols N] [--n N] [--threads N] [--megabytes N] [--repeats N] TYPE...
//
// Speed of ggml's product of a quantised matrix with `n` columns, per type: the peer of
// bench_matmul. Weights fill `megabytes`, more than the caches hold, and are gone through once per
// repetition; the median and the best go to standard output as one JSON object per type. A type
// TYPE:repack lies in the layout that llama.cpp loads it in (its CPU_REPACK buffer).
//
// Compiles against llama.cpp's ggml and against ik_llama.cpp's (README.md says how); not part of
// our build.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"
#if __has_include("ggml-cpu.h")
#include "ggml-cpu.h"
#define HAS_REPACK 1
#else
#define HAS_REPACK 0
#endif

namespace {

struct Options {
  int64_t rows = 4096, cols = 14336, n = 1, megabytes = 256;
  int threads = 1, repeats = 9;
  std::vector<std::string> types;
};

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "ggml_matmul: %s\n", message.c_str());
  std::exit(1);
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg.rfind("--", 0) != 0) {
      options.types.push_back(arg);
      continue;
    }
    if (i + 1 == argc) Fail(arg + ": needs a value");
    const long long value = std::atoll(argv[++i]);
    if (value < 1) Fail(arg + ": must be positive");
    if (arg == "--rows")
      options.rows = value;
    else if (arg == "--cols")
      options.cols = value;
    else if (arg == "--n")
      options.n = value;
    else if (arg == "--megabytes")
      options.megabytes = value;
    else if (arg == "--threads")
      options.threads = static_cast<int>(value);
    else if (arg == "--repeats")
      options.repeats = static_cast<int>(value);
    else
      Fail(arg + ": unknown");
  }
  if (options.types.empty()) Fail("no type given");
  return options;
}

ggml_type TypeNamed(const std::string& name) {
  for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
    const char* known = ggml_type_name(static_cast<ggml_type>(i));
    if (known != nullptr && name == known) return static_cast<ggml_type>(i);
  }
  Fail(name + ": unknown type");
}

ggml_backend_buffer_type_t RepackBuffer(ggml_backend_t cpu) {
#if HAS_REPACK
  ggml_backend_dev_t device = ggml_backend_get_device(cpu);
  const auto list =
      reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
          ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
  for (auto* type = list != nullptr ? list(device) : nullptr; type != nullptr && *type; ++type) {
    if (std::strstr(ggml_backend_buft_name(*type), "REPACK") != nullptr) return *type;
  }
#endif
  (void)cpu;
  Fail("this build does not repack");
}

// ggml_quantize_chunk, to which ik_llama.cpp has added an argument.
template <typename Function>
void QuantiseRows(Function quantise, ggml_type type, const float* values, void* out, int64_t rows,
                  int64_t cols, const float* importance) {
  if constexpr (std::is_invocable_v<Function, ggml_type, const float*, void*, int64_t, int64_t,
                                    int64_t, const float*>) {
    quantise(type, values, out, 0, rows, cols, importance);
  } else {
    quantise(type, values, out, 0, rows, cols, importance, nullptr);
  }
}

// Gaussian rows; few of them, repeated, as quantising takes long and speed does not depend on it.
std::vector<uint8_t> Quantised(ggml_type type, int64_t rows, int64_t cols) {
  constexpr int64_t kUnique = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(kUnique * cols), importance(cols, 1.0f);
  for (float& v : values) v = normal(random);
  const size_t block = ggml_row_size(type, cols) * kUnique;
  std::vector<uint8_t> bytes(ggml_row_size(type, cols) * rows);
  QuantiseRows(ggml_quantize_chunk, type, values.data(), bytes.data(), kUnique, cols,
               importance.data());
  for (size_t at = block; at < bytes.size(); at += block) {
    std::memcpy(bytes.data() + at, bytes.data(), std::min(block, bytes.size() - at));
  }
  return bytes;
}

void Measure(const Options& options, const std::string& name, ggml_backend_t cpu) {
  const bool repack = name.size() > 7 && name.substr(name.size() - 7) == ":repack";
  const ggml_type type = TypeNamed(repack ? name.substr(0, name.size() - 7) : name);
  const std::vector<uint8_t> bytes = Quantised(type, options.rows, options.cols);
  const auto count = static_cast<int>(
      std::max<int64_t>(1, (options.megabytes << 20) / static_cast<int64_t>(bytes.size())));

  const size_t overhead = ggml_tensor_overhead() * (3 * count + 8) + ggml_graph_overhead();
  ggml_context* weights = ggml_init({overhead, nullptr, true});
  ggml_context* rest = ggml_init({overhead, nullptr, true});
  std::vector<ggml_tensor*> w;
  for (int i = 0; i < count; ++i) {
    w.push_back(ggml_new_tensor_2d(weights, type, options.cols, options.rows));
  }
  ggml_tensor* x = ggml_new_tensor_2d(rest, GGML_TYPE_F32, options.cols, options.n);
  ggml_cgraph* graph = ggml_new_graph(rest);
  for (ggml_tensor* matrix : w) ggml_build_forward_expand(graph, ggml_mul_mat(rest, matrix, x));
  ggml_backend_buffer_t weight_buffer = ggml_backend_alloc_ctx_tensors_from_buft(
      weights, repack ? RepackBuffer(cpu) : ggml_backend_get_default_buffer_type(cpu));
  ggml_backend_buffer_t rest_buffer = ggml_backend_alloc_ctx_tensors(rest, cpu);
  if (weight_buffer == nullptr || rest_buffer == nullptr) Fail("no memory");
  if (repack && w[0]->extra == nullptr) Fail(name + ": has no layout of its own here");
  for (ggml_tensor* matrix : w) ggml_backend_tensor_set(matrix, bytes.data(), 0, bytes.size());
  const std::vector<float> ones(options.cols * options.n, 0.5f);
  ggml_backend_tensor_set(x, ones.data(), 0, ones.size() * sizeof(float));

  std::vector<double> seconds;
  for (int i = 0; i <= options.repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    ggml_backend_graph_compute(cpu, graph);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (i > 0) seconds.push_back(taken.count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double work = static_cast<double>(options.rows * options.cols * count);
  std::printf(
      "{\"type\": \"%s\", \"bits_per_weight\": %.3f, \"n\": %lld, \"threads\": %d, "
      "\"gweights_per_s\": %.3f, \"best_gweights_per_s\": %.3f, \"gmacs_per_s\": %.3f}\n",
      name.c_str(), 8.0 * static_cast<double>(bytes.size()) / (work / count),
      static_cast<long long>(options.n), options.threads, work / median / 1e9,
      work / seconds[0] / 1e9, work * static_cast<double>(options.n) / median / 1e9);
  std::fflush(stdout);
  ggml_backend_buffer_free(weight_buffer);
  ggml_backend_buffer_free(rest_buffer);
  ggml_free(weights);
  ggml_free(rest);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  ggml_backend_t cpu = ggml_backend_cpu_init();
  if (cpu == nullptr) Fail("no CPU backend");
  ggml_backend_cpu_set_n_threads(cpu, options.threads);
  for (const std::string& type : options.types) Measure(options, type, cpu);
  ggml_backend_free(cpu);
}
