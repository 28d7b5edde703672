// Size figures of a model of any kind.
#pragma once

#include <cstdint>
#include <filesystem>

#include "base/status.h"

namespace tq::cli {

struct ModelInfo {
  uint64_t parameters = 0;
  uint64_t file_bytes = 0;  // of all weights as stored
  // Whole model: embedding included, tied ones once.
  double bits_per_weight() const {
    return parameters == 0
               ? 0
               : 8.0 * static_cast<double>(file_bytes) / static_cast<double>(parameters);
  }
};

StatusOr<ModelInfo> GetModelInfo(const std::filesystem::path& path);

}  // namespace tq::cli
