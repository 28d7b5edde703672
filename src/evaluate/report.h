// What a compression did to a model, for people (one self-contained HTML file) and for programs
// (one JSON object). Filled by whoever compressed; nothing is measured here.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "evaluate/evaluate.h"

namespace tq {

// One matrix of a compressed model.
struct ReportMatrix {
  std::string name;    // "model.layers.3.mlp.down_proj"
  std::string role;    // q, k, v, o, gate, up, down, embedding, head
  int64_t layer = -1;  // -1: embedding or head
  uint64_t rows = 0, cols = 0, bytes = 0;
  double rate = 0;            // bits per weight of the codes
  double relative_error = 0;  // ||W - W^||^2 / ||W||^2
  double hessian_error = 0;   // tr(dW H dW^T) / tr(W H W^T); 0: not measured
  // KL = sensitivity * error^exponent, where the error is that of the code on Gaussian values.
  std::optional<double> sensitivity, exponent;
  std::optional<double> predicted_kl;  // at `rate`
};

// An allocation of rates that was tried, or predicted only.
struct ReportCandidate {
  std::string name;  // "uniform", "allocated"
  uint64_t bytes = 0;
  double bits_per_weight = 0;
  std::optional<double> predicted_kl;
  std::optional<EvaluateResult> measured;  // on text held apart; kl is set
  bool chosen = false;
};

// Of the curve of least predicted loss over sizes.
struct FrontierPoint {
  double bits_per_weight = 0;
  uint64_t bytes = 0;
  double predicted_kl = 0;
  bool chosen = false;
};

struct BytePart {
  std::string name;  // "decoder codes", "embedding codes", "channel scales", "norms", "header"
  uint64_t bytes = 0;
};

// The same prompt continued by the original and by the compressed model.
struct TextSample {
  std::string prompt, original, compressed;
};

// One compressed model. `compare` has several in one report.
struct ReportModel {
  std::string name;    // of the directory
  std::string method;  // "trellis", "rtn", "ternary"
  uint64_t bytes = 0;
  double bits_per_weight = 0, decoder_bits_per_weight = 0;
  double seconds = 0;
  uint64_t peak_rss_bytes = 0;
  std::vector<ReportMatrix> matrices;
  std::vector<ReportCandidate> candidates;
  std::vector<FrontierPoint> frontier;  // rising in size; empty: nothing was predicted
  std::vector<BytePart> parts;          // add up to `bytes`
  std::vector<TextSample> samples;
  std::optional<EvaluateResult> measured;  // of this model on the report's text, if any
};

// Where the memory goes when the compressed model runs.
struct MemoryUse {
  uint64_t budget = 0, context = 0;
  uint64_t weights = 0, kv_cache = 0, activations = 0, reserve = 0;
};

struct CompressionReport {
  std::string title;    // "SmolLM2-135M at 2 bits per weight"
  std::string model;    // path of the original
  std::string command;  // as it was typed
  std::string version;  // of the program, its compiler and instruction set
  uint64_t parameters = 0, original_bytes = 0;
  std::string text;  // what `measured` was measured on, with context and windows
  std::optional<EvaluateResult> original;  // perplexity of the original there
  std::optional<MemoryUse> memory;
  std::vector<ReportModel> models;
};

nlohmann::ordered_json ReportToJson(const CompressionReport& report);
nlohmann::ordered_json MemoryToJson(const MemoryUse& use);

// A whole page: styles and pictures (inline SVG) are in it, it loads nothing and runs no script.
// Text from models and paths is escaped, and bytes that are not UTF-8 are replaced.
std::string ReportToHtml(const CompressionReport& report);

}  // namespace tq
