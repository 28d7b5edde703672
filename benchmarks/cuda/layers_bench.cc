// Where the time of a token goes on a GPU: layers, head, and what the host does.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

#include "device/executor.h"
#include "model/backend.h"
#include "model/embedding.h"
#include "model/packed_decoder.h"

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

Status Run(const std::string& path, uint64_t repeats, uint64_t context) {
  TQ_ASSIGN_OR_RETURN(std::shared_ptr<const PackedModel> model, PackedModel::Open(path));
  TQ_ASSIGN_OR_RETURN(const PackedDecoder decoder, FindPackedDecoder(*model));
  TQ_ASSIGN_OR_RETURN(const auto embedding, MakeStoredEmbedding(decoder.embedding, model));
  const ModelConfig& config = model->config();
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
    TQ_ASSIGN_OR_RETURN(const auto backend, MakeCudaBackend(model, {fuse}));
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
  }
  return status;
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  CLI::App app("Where the time of a token goes on a GPU.");
  std::string model;
  uint64_t repeats = 31, context = 64;
  app.add_option("MODEL", model, "directory made by tq quantize")->required();
  app.add_option("--repeats", repeats, "runs, of which the median counts");
  app.add_option("--context", context, "positions before");
  CLI11_PARSE(app, argc, argv);
  const tq::Status status = tq::Run(model, repeats, context);
  if (!status.ok()) std::fprintf(stderr, "layers_bench: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
