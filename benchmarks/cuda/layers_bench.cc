// Where the time of a token goes on a GPU: layers, head, and what the host does; and how long a
// prompt takes beside its matrix products alone in half precision.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "checkpoint/model_config.h"
#include "device/cublas.h"
#include "device/cuda_device.h"
#include "device/executor.h"
#include "device/thread_pool.h"
#include "model/backend.h"
#include "model/embedding.h"
#include "model/packed_decoder.h"
#include "model/sampler.h"

namespace tq {
namespace {

double Microseconds(const std::function<Status()>& body, uint64_t repeats, Status& status) {
  std::vector<double> times;
  for (uint64_t i = 0; i < repeats + 2 && status.ok(); ++i) {
    const auto begin = std::chrono::steady_clock::now();
    status = body();
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
    if (i >= 2) times.push_back(time.count());
  }
  if (times.empty()) return 0;
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

// Random numbers of half precision on the device, the same ones again and again.
StatusOr<DeviceMemory> RandomHalves(const CudaDevice& device, uint64_t count) {
  constexpr uint64_t kDistinct = uint64_t{1} << 20;
  Random random(1, "halves");
  std::vector<uint16_t> halves(kDistinct);
  for (uint16_t& half : halves) {  // +-[0.5, 2)
    half = static_cast<uint16_t>(0x3800 + random.NextBelow(0x800) + random.NextBelow(2) * 0x8000);
  }
  TQ_ASSIGN_OR_RETURN(DeviceMemory memory, device.Allocate(count * sizeof(uint16_t), "halves"));
  for (uint64_t at = 0; at < count; at += kDistinct) {
    const uint64_t part = std::min(kDistinct, count - at);
    TQ_RETURN_IF_ERROR(device.Upload(halves.data(), part * sizeof(uint16_t),
                                     static_cast<uint16_t*>(memory.get()) + at));
  }
  TQ_RETURN_IF_ERROR(device.Synchronize());
  return memory;
}

// The products of all layers with n rows of x through cuBLAS, on weights that lie in half
// precision: those of one layer, which no cache holds.
Status DenseProducts(const ModelConfig& config, uint64_t n, uint64_t repeats) {
  TQ_ASSIGN_OR_RETURN(const auto device, CudaDevice::Open());
  TQ_ASSIGN_OR_RETURN(const auto blas, Cublas::Load(*device));
  const uint64_t hidden = config.hidden_size, wide = config.intermediate_size;
  const std::pair<uint64_t, uint64_t> shapes[] = {{config.q_size() + 2 * config.kv_size(), hidden},
                                                  {hidden, config.q_size()},
                                                  {2 * wide, hidden},
                                                  {hidden, wide}};
  const uint64_t widest =
      std::max<uint64_t>({2 * wide, hidden, config.q_size() + 2 * config.kv_size()});
  TQ_ASSIGN_OR_RETURN(const DeviceMemory x, RandomHalves(*device, n * widest));
  TQ_ASSIGN_OR_RETURN(const DeviceMemory y, RandomHalves(*device, n * widest));
  std::vector<DeviceMemory> weights;
  double operations = 0;
  for (const auto& [rows, cols] : shapes) {
    TQ_ASSIGN_OR_RETURN(DeviceMemory matrix, RandomHalves(*device, rows * cols));
    weights.push_back(std::move(matrix));
    operations += 2.0 * static_cast<double>(n * rows * cols * config.num_layers);
  }
  Status status;
  const double time = Microseconds(
      [&]() -> Status {
        for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
          for (size_t i = 0; i < weights.size(); ++i) {
            const auto& [rows, cols] = shapes[i];
            TQ_RETURN_IF_ERROR(
                blas->StartProduct({n, rows, cols, static_cast<const uint16_t*>(x.get()), cols,
                                    static_cast<const uint16_t*>(weights[i].get()), cols,
                                    static_cast<uint16_t*>(y.get()), rows}));
          }
        }
        return device->Synchronize();
      },
      repeats, status);
  TQ_RETURN_IF_ERROR(status);
  fmt::print("cuBLAS products of {} tokens in half precision: {:.2f} ms, {:.0f} TFLOP/s\n", n,
             time * 1e-3, operations / time * 1e-6);
  return OkStatus();
}

Status Prompt(std::shared_ptr<const PackedModel> model, uint64_t n, uint64_t repeats) {
  TQ_ASSIGN_OR_RETURN(const auto pool, ThreadPool::Create(0));
  const ForwardContext forward{pool.get(), MatmulPath::kFast};
  const std::vector<int32_t> tokens(n, 1);
  for (const uint64_t megabytes : {32, 64, 128, 256, 1024}) {
    CudaOptions options;
    options.prefill_rows = n, options.prefill_weight_bytes = megabytes << 20;
    options.positions = n;
    TQ_ASSIGN_OR_RETURN(const auto backend, MakeCudaBackend(model, options));
    TQ_ASSIGN_OR_RETURN(KvCache cache, backend->NewCache(n));
    const uint64_t chunk = backend->Chunk(n);
    Status status;
    const double time = Microseconds(
        [&] { return backend->RunLayers(forward, cache, std::span(tokens).first(chunk)); }, repeats,
        status);
    TQ_RETURN_IF_ERROR(status);
    fmt::print("prompt of {} tokens, {} MiB of decoded weights: {:.2f} ms\n", chunk, megabytes,
               time * 1e-3);
  }
  return DenseProducts(model->config(), n, repeats);
}

// A token, layers and head included, by how the next is chosen.
Status Choices(Backend& backend, const ForwardContext& forward, KvCache& cache, uint32_t vocab,
               uint64_t repeats) {
  std::pair<const char*, SamplerOptions> choices[] = {
      {"likeliest", {}}, {"drawn", {}}, {"drawn by top-p", {}}, {"drawn by all steps", {}}};
  for (const size_t i : {1, 2, 3}) choices[i].second.temperature = 0.8f;
  for (const size_t i : {2, 3}) choices[i].second.top_p = 0.95f;
  choices[3].second.top_k = 1000, choices[3].second.repetition_penalty = 1.1f;
  std::vector<int32_t> history(64);
  std::iota(history.begin(), history.end(), 0);
  Status status;
  for (const auto& [name, options] : choices) {
    TQ_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create(options));
    const TokenChoice choice{vocab, &sampler, history};
    const double time = Microseconds(
        [&] { return backend.NextToken(forward, cache, 1, choice).status(); }, repeats, status);
    fmt::print("token {}: {:.1f} us\n", name, time);
  }
  return status;
}

Status Run(const std::string& path, uint64_t repeats, uint64_t context, uint64_t prompt) {
  TQ_ASSIGN_OR_RETURN(std::shared_ptr<const PackedModel> model, PackedModel::Open(path));
  TQ_ASSIGN_OR_RETURN(const PackedDecoder decoder, FindPackedDecoder(*model));
  TQ_ASSIGN_OR_RETURN(
      const auto embedding,
      MakeStoredEmbedding(decoder.embedding, EmbeddingScale(model->config()), model));
  const ModelConfig& config = model->config();
  if (prompt > 0) return Prompt(model, prompt, repeats);
  std::vector<float> logits(16 * config.vocab_size), row(config.hidden_size);
  InlineExecutor executor;
  const ForwardContext forward{&executor, MatmulPath::kFast};
  const std::vector<int32_t> tokens(16, 1);
  Status status;
  fmt::print("embedding {:.1f} us\n", Microseconds(
                                          [&] {
                                            embedding->Lookup(std::span(tokens).first(1),
                                                              row.data());
                                            return OkStatus();
                                          },
                                          repeats, status));
  using Fuse = CudaOptions::Fuse;
  for (const Fuse fuse : {Fuse::kWherePossible, Fuse::kNever}) {
    CudaOptions options;
    options.fuse = fuse, options.positions = context + 16;
    TQ_ASSIGN_OR_RETURN(const auto backend, MakeCudaBackend(model, options));
    TQ_ASSIGN_OR_RETURN(KvCache cache, backend->NewCache(context + 16));
    cache.Advance(context);
    for (const uint64_t n : {1, 4, 16}) {
      const auto part = std::span(tokens).first(n);
      const double layers =
          Microseconds([&] { return backend->RunLayers(forward, cache, part); }, repeats, status);
      const double head = Microseconds(
          [&] { return backend->Head(forward, 0, n, context, logits.data()); }, repeats, status);
      fmt::print("{} {} tokens after {}: layers {:.1f} us, head {:.1f} us\n",
                 fuse == Fuse::kNever ? "plain" : "fused", n, context, layers, head);
    }
    TQ_RETURN_IF_ERROR(status);
    TQ_RETURN_IF_ERROR(Choices(*backend, forward, cache, config.vocab_size, repeats));
  }
  return status;
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  CLI::App app("Where the time of a token goes on a GPU.");
  std::string model;
  uint64_t repeats = 31, context = 64, prompt = 0;
  app.add_option("MODEL", model, "directory made by tq quantize")->required();
  app.add_option("--repeats", repeats, "runs, of which the median counts");
  app.add_option("--context", context, "positions before");
  app.add_option("--prompt", prompt, "tokens of a prompt, to measure that instead");
  CLI11_PARSE(app, argc, argv);
  const tq::Status status = tq::Run(model, repeats, context, prompt);
  if (!status.ok()) std::fprintf(stderr, "layers_bench: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
