// Compressing a model: calibrate, quantise every matrix, write the directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "codec/dense_device.h"
#include "compress/methods/trellis/rounding.h"
#include "compress/overrides.h"
#include "device/executor.h"
#include "evaluate/evaluate.h"
#include "evaluate/report.h"

namespace tq {

enum class Method { kTrellis, kRtn, kGptq, kAwq, kTernary };
// "trellis", "rtn", "gptq", "awq", "ternary"
std::string_view NameOf(Method method);
// Whether the decoder has scalar codes of one width in groups of columns.
constexpr bool IsScalar(Method method) { return method != Method::kTrellis; }
// Whether the method rounds with the Hessian, and not only reports errors with it.
constexpr bool NeedsHessian(Method method) {
  return method == Method::kGptq || method == Method::kAwq;
}

// What rates are allocated by (sensitivity.h); kNone: one rate for the decoder.
enum class SensitivityMeasure { kNone, kHessian, kKl };
std::string_view NameOf(SensitivityMeasure measure);  // "uniform", "hessian", "kl"

struct QuantizeOptions {
  std::filesystem::path model, output;
  Method method = Method::kTrellis;
  // Trellis: whole-model average; scalar: width of the decoder's code, for ternary kTernaryRate.
  double bits = 2.0;
  uint64_t budget_bytes = 0;  // trellis: bytes of the file instead of `bits`; 0: by bits
  // Trellis, instead of both: memory in which the model runs `context` positions on `run_threads`
  // threads, with this much left over; 0: no matter.
  uint64_t memory_bytes = 0, context = 4096, reserve_bytes = 0;
  size_t run_threads = 4;
  // Scalar codes: columns of a group, 32, 64 or 128, or 0: a row is one group.
  uint32_t group_size = 128;
  bool symmetric = false;            // scalar: no zero points (ternary has none anyway)
  bool act_order = true;             // gptq: columns by descending activation
  std::string calibration = "self";  // a text file, or "self": sampled from the model
  uint64_t calibration_tokens = 65536;
  uint64_t calibration_context = 512;
  uint64_t calibration_memory = uint64_t{4} << 30;  // states above this are spilled to disk
  uint64_t seed = 1;
  // Rates of trellis codes, by matrix; with scalar codes of embedding and head alone.
  std::vector<RateOverride> overrides;
  SensitivityMeasure sensitivity = SensitivityMeasure::kKl;
  std::filesystem::path sensitivity_file;  // read if it is there, else written; empty: neither
  bool verify = true;                   // the true KL decides between allocated and uniform rates
  double min_bits = 0.5, max_bits = 8;  // trellis: rates of the codes of the other matrices
  bool fast = false;                    // Viterbi with 12-bit states
  bool fresh = false;                   // forget earlier work
  // Where the original's layers are multiplied and Hessians summed and factored, with a result that
  // differs by rounding; null: on the processor.
  std::shared_ptr<const DenseDevice> dense;
  // Where matrices are rounded, with a result that differs as much; null: on the processor.
  std::shared_ptr<const RoundingDevice> rounding;
  // Ablations for research (tq quantize --ablate NAME), each the name of what is left out:
  bool no_rotation = false, no_hessian = false, hessian_without_scales = false, v1 = false;
};

struct MatrixReport {
  std::string name;
  uint64_t rows = 0, cols = 0, bytes = 0;
  double bits = 0;            // of this matrix, everything counted
  double rate = 0;            // bits per weight of the codes
  double relative_error = 0;  // ||W - W^||^2 / ||W||^2
  double hessian_error = 0;   // tr(dW H dW^T) / tr(W H W^T)
  double seconds = 0;
  // Loss = scale * D^exponent at error D of the code: of the matrix, or of each slice of a
  // vocabulary. Empty: not measured.
  struct Sensitivity {
    double scale = 0, exponent = 1;
  };
  std::vector<Sensitivity> sensitivity;
  double predicted_loss = 0;  // at its rate, alone
};

struct QuantizeReport {
  uint64_t parameters = 0, bytes = 0;
  double bits_per_weight = 0, decoder_bits_per_weight = 0;
  double seconds = 0, sensitivity_seconds = 0;
  uint64_t peak_rss_bytes = 0;
  SensitivityMeasure measure = SensitivityMeasure::kNone;  // that rates were allocated by
  std::vector<ReportCandidate> candidates;                 // the one that was written comes first
  std::vector<FrontierPoint> frontier;                     // rising; empty: KL was not measured
  std::vector<BytePart> parts;                             // of the file
  std::optional<MemoryUse> memory;
  std::vector<MatrixReport> matrices;
};

// What Quantize would make, from the model's config; if the sensitivity file is there, from its
// sensitivities too, and the weights are read once, to tell that they are this model's.
struct QuantizePreview {
  std::string rates;  // "allocated", or "uniform" where sensitivities are not known yet
  double decoder_rate = 0, embedding_rate = 0;  // of the codes
  uint64_t parameters = 0;
  uint64_t bytes = 0;         // of the file; allocated rates fill the same size
  uint64_t budget_bytes = 0;  // that it may have
  double bits_per_weight = 0;
  std::optional<double> predicted_kl;
  std::optional<MemoryUse> memory;
  // Of the work, from rates of this machine measured in a second: about.
  double seconds = 0;
  uint64_t peak_bytes = 0, disk_bytes = 0;
};
StatusOr<QuantizePreview> PreviewQuantize(const QuantizeOptions& options, Executor& executor);

// Resumes by itself from the work folder beside the output (OUT.work); the result is the
// same to the byte as an uninterrupted run, for any number of threads.
StatusOr<QuantizeReport> Quantize(const QuantizeOptions& options, Executor& executor,
                                  Progress& progress);

}  // namespace tq
