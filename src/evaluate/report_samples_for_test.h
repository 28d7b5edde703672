// For tests: reports with figures like those of real runs, made up by formulas.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <string>
#include <vector>

#include "evaluate/report.h"

namespace tq {

inline EvaluateResult SampleResult(double kl) {
  return {.tokens = 32640,
          .windows = 128,
          .perplexity = 16.9 * std::exp(0.9 * kl),
          .perplexity_stderr = 0.21,
          .kl = EvaluateResult::Kl{kl, kl / 60, 9 * kl, 1 - 0.5 * std::sqrt(kl)}};
}

// A matrix whose rate and loss vary with layer and role, as an allocator would have it.
inline ReportMatrix SampleMatrix(int64_t layer, size_t role, int64_t layers, double bits) {
  struct Role {
    const char *role, *name;
    uint64_t rows, cols;
    double weight;  // of its loss
  };
  constexpr Role kRoles[] = {
      {"q", "self_attn.q_proj", 576, 576, 0.4},  {"k", "self_attn.k_proj", 192, 576, 0.2},
      {"v", "self_attn.v_proj", 192, 576, 1.2},  {"o", "self_attn.o_proj", 576, 576, 0.8},
      {"gate", "mlp.gate_proj", 1536, 576, 0.9}, {"up", "mlp.up_proj", 1536, 576, 1.0},
      {"down", "mlp.down_proj", 576, 1536, 1.6}};
  const Role& r = kRoles[role];
  const double depth = static_cast<double>(layer) / static_cast<double>(layers);
  const double ends = 1 + 3 * std::exp(-8 * depth) + std::exp(-6 * (1 - depth));
  ReportMatrix matrix{.name = fmt::format("model.layers.{}.{}", layer, r.name),
                      .role = r.role,
                      .layer = layer,
                      .rows = r.rows,
                      .cols = r.cols,
                      .sensitivity = 0.02 * r.weight * ends / static_cast<double>(layers),
                      .exponent = 1.05,
                      .predicted_kl = {}};
  matrix.rate = std::clamp(std::round(4 * (bits + std::log2(r.weight * ends) / 2)) / 4, 0.5, 4.0);
  matrix.bytes = static_cast<uint64_t>(static_cast<double>(r.rows * r.cols) * matrix.rate / 8);
  matrix.relative_error = std::pow(4, -matrix.rate) * 1.1;
  matrix.hessian_error = matrix.relative_error * 0.6;
  matrix.predicted_kl = *matrix.sensitivity * std::pow(matrix.relative_error, 1.05) * 40;
  return matrix;
}

inline ReportModel SampleModel(int64_t layers, double bits) {
  const double kl = 1.9 * std::pow(5, -bits);
  ReportModel model;
  model.name = fmt::format("SmolLM2-{}bit", bits);
  model.method = "trellis";
  model.bits_per_weight = bits;
  model.decoder_bits_per_weight = bits - 0.2;
  model.seconds = 192 + 40 * bits;
  model.peak_rss_bytes = 412'000'000;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (size_t role = 0; role < 7; ++role) {
      model.matrices.push_back(SampleMatrix(layer, role, layers, bits));
    }
  }
  model.matrices.push_back({.name = "model.embed_tokens",
                            .role = "embedding",
                            .rows = 49152,
                            .cols = 576,
                            .bytes = 9'300'000,
                            .rate = 2.75,
                            .relative_error = 0.025,
                            .hessian_error = 0.021,
                            .sensitivity = 0.03,
                            .exponent = 1,
                            .predicted_kl = 0.0021});
  uint64_t codes = 0;
  for (const ReportMatrix& matrix : model.matrices) codes += matrix.bytes;
  model.parts = {{"decoder codes", codes - 9'300'000},
                 {"embedding codes", 9'300'000},
                 {"channel scales", 640'000},
                 {"norms", 140'000},
                 {"header", 61'000},
                 {"tokenizer", 3'500'000}};
  for (const BytePart& part : model.parts) model.bytes += part.bytes;
  for (int i = 0; i <= 48; ++i) {
    const double at = 0.8 + i * 0.075;
    model.frontier.push_back({.bits_per_weight = at,
                              .bytes = static_cast<uint64_t>(at * 16.8e6),
                              .predicted_kl = 1.7 * std::pow(5, -at),
                              .chosen = i == std::lround((bits - 0.8) / 0.075)});
  }
  model.candidates = {
      {"uniform", model.bytes + 4096, bits, kl * 1.2, SampleResult(kl * 1.31), false},
      {"allocated", model.bytes, bits, kl * 0.92, SampleResult(kl), true}};
  return model;
}

inline CompressionReport SampleQuantizeReport(int64_t layers) {
  CompressionReport report{.title = "SmolLM2-135M-Instruct at 2 bits per weight",
                           .model = "models/SmolLM2-135M-Instruct",
                           .command =
                               "tq quantize models/SmolLM2-135M-Instruct -o SmolLM2-2bit --bits 2 "
                               "--report report.html",
                           .version = "tq 0.1.0, GCC 12.2, AVX-512 VNNI",
                           .parameters = 134'515'008,
                           .original_bytes = 269'030'016,
                           .text = "held-out.txt, context 512, 128 windows",
                           .original = SampleResult(0),
                           .memory = MemoryUse{.budget = 256 << 20,
                                               .context = 8192,
                                               .weights = 37'000'000,
                                               .kv_cache = 94'371'840,
                                               .activations = 23'000'000,
                                               .reserve = 67'108'864},
                           .models = {SampleModel(layers, 2)}};
  report.original->kl.reset();
  ReportModel& model = report.models[0];
  model.measured = SampleResult(0.0812);
  model.samples = {
      {"The capital of France is",
       " Paris. It is the largest city in the country and has been its centre of art, trade and "
       "government for many centuries.",
       " Paris. It is the largest city in France and is known for its museums, its food and its "
       "long history."},
      {"def fibonacci(n):\n",
       "    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
       "    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n"},
      {"The Greek word for good morning is", " «καλημέρα» (kaliméra).",
       " «καλησπέρα» (kalispéra)."}};
  return report;
}

inline CompressionReport SampleCompareReport() {
  CompressionReport report = SampleQuantizeReport(30);
  report.title = "SmolLM2-135M-Instruct, compared";
  report.command = "tq compare models/SmolLM2-135M-Instruct --bits 2,3,4 --methods trellis,rtn";
  report.memory.reset();
  report.models.clear();
  for (const char* method : {"trellis", "rtn"}) {
    for (const double bits : {2.0, 3.0, 4.0}) {
      const bool rtn = std::string(method) == "rtn";
      ReportModel model = SampleModel(30, bits);
      model.name = fmt::format("{}-{}", method, bits);
      model.method = method;
      model.measured = SampleResult(1.9 * std::pow(5, -bits) * (rtn ? 14 : 1));
      if (rtn) {
        model.bits_per_weight = bits + 1;
        model.bytes += model.bytes / 3;
        model.frontier.clear();
        model.candidates.clear();
        for (ReportMatrix& matrix : model.matrices) {
          matrix.rate = bits;
          matrix.predicted_kl.reset();
          matrix.sensitivity.reset();
        }
      }
      report.models.push_back(std::move(model));
    }
  }
  return report;
}

}  // namespace tq
