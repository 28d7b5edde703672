// The sampling options that generate and chat share.
#pragma once

#include <CLI/CLI.hpp>

#include "generate/session.h"

namespace tq::cli {

inline void AddSamplingOptions(CLI::App& app, SessionOptions& options) {
  SamplerOptions& sampler = options.sampler;
  app.add_option("--temperature", sampler.temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--top-k", sampler.top_k, "Draw from the K most likely tokens (0: all)")
      ->capture_default_str();
  app.add_option("--top-p", sampler.top_p, "Draw from the fewest tokens of this probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--repetition-penalty", sampler.repetition_penalty,
                 "Divides the logits of recent tokens")
      ->check(CLI::Range(0.1, 10.0))
      ->capture_default_str();
  app.add_option("--seed", sampler.seed, "Seed of the draws")->capture_default_str();
  app.add_option("--context", options.context,
                 "Positions for prompt and text (0: as many as the model was trained for)")
      ->capture_default_str();
}

}  // namespace tq::cli
