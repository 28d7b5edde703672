// Compress a model. Lives in the library turboquant::compress_api; programs that only run
// models link turboquant::turboquant alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "turboquant/result.h"

namespace turboquant {

// The others than kTrellis are there to be compared with: scalar codes of one width in groups.
enum class Method { kTrellis, kRoundToNearest, kGptq, kAwq, kTernary };

struct QuantizeOptions {
  std::filesystem::path model, output;
  Method method = Method::kTrellis;
  // kTrellis: average of the whole file; else width of the decoder's code, 2 to 8, for
  // kTernary 1.6.
  double bits = 2;
  // Others than kTrellis: columns of a group, 32, 64 or 128, or 0: a row is one group.
  uint32_t group_size = 128;
  bool symmetric = false;  // others than kTrellis: no zero points, which kTernary never has
  bool act_order = true;   // kGptq: columns by descending activation
  // kTrellis, instead of bits: the best model that runs `context` positions in this memory; 0: by
  // bits.
  uint64_t memory_bytes = 0, context = 4096;
  bool uniform = false;              // one rate for the decoder; else rates by measured sensitivity
  std::string calibration = "self";  // a text file, or "self": sampled from the model
  uint64_t seed = 1;
  bool fast = false;     // 12-bit states: ten times faster, a little worse
  bool fresh = false;    // start over instead of resuming
  uint32_t threads = 0;  // 0: the processors that the process may use
};

struct QuantizeSummary {
  uint64_t parameters = 0, file_bytes = 0;
  double bits_per_weight = 0, decoder_bits_per_weight = 0;
  double seconds = 0;
  // KL(original || compressed) on text held apart from calibration; negative: not measured.
  double kl_divergence = -1;
};

// `on_line`, if given, gets one line per finished matrix.
Result<QuantizeSummary> Quantize(const QuantizeOptions& options,
                                 const std::function<void(std::string_view)>& on_line = nullptr);

}  // namespace turboquant
