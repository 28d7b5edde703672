// A language model, unquantised or packed: load it, write text with it, measure it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "turboquant/result.h"

namespace turboquant {

struct ModelInfo {
  uint64_t parameters = 0;
  uint64_t file_bytes = 0;     // of all weights as stored
  double bits_per_weight = 0;  // 8 * file_bytes / parameters, embedding included
  uint32_t vocab_size = 0;
  uint32_t max_context = 0;  // trained context, tokens
};

struct GenerateOptions {
  uint64_t max_tokens = 64;
  double temperature = 0;  // 0: always the most likely token
  uint32_t top_k = 0;      // 0: all
  double top_p = 1;
  uint64_t seed = 1;
  uint64_t context = 0;  // room for prompt and text, tokens; 0: what they need
};

struct EvaluateOptions {
  uint64_t context = 512;  // tokens per window
  uint64_t windows = 0;    // 0: all of the text
};

struct Evaluation {
  uint64_t tokens = 0, windows = 0;
  double perplexity = 0, perplexity_stderr = 0;
  bool has_kl = false;  // whether a reference was given
  double kl_mean = 0, kl_stderr = 0, kl_p99 = 0, top1_agreement = 0;
};

// How often the likeliest choice was right, as a share of questions, and its standard error.
struct TaskAccuracy {
  uint64_t questions = 0;
  double accuracy = 0, accuracy_stderr = 0;            // by log-likelihood of the choice
  double accuracy_norm = 0, accuracy_norm_stderr = 0;  // by that divided by its characters
};

// Not safe for concurrent calls on one object; different objects are independent.
class Model {
 public:
  // A Hugging Face directory, a GGUF file or a TurboQuant directory.
  // threads: 0 takes the processors that the process may use.
  static Result<Model> Load(const std::filesystem::path& path, uint32_t threads = 0);
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  ModelInfo info() const;
  std::vector<int32_t> Tokenize(std::string_view text) const;
  Result<std::string> Detokenize(const std::vector<int32_t>& tokens) const;
  // The continuation of `prompt`. `on_text`, if given, gets each piece as it is made (whole
  // UTF-8 characters) and stops the generation by returning false.
  Result<std::string> Generate(std::string_view prompt, const GenerateOptions& options = {},
                               const std::function<bool(std::string_view)>& on_text = nullptr);
  // Perplexity over windows of a text; with `reference`, KL(reference || this model).
  Result<Evaluation> Evaluate(std::string_view text, const EvaluateOptions& options = {},
                              Model* reference = nullptr);
  // Accuracy on the multiple-choice questions of a file, JSON lines or HellaSwag's text as
  // llama.cpp has it (docs/cli.md); the first `limit`, 0: all. Questions that take more than
  // max_context tokens are an error.
  Result<TaskAccuracy> EvaluateTasks(const std::filesystem::path& file, uint64_t limit = 0);

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace turboquant
