// Packed models of random codes: weights as good as any where only time and memory are measured.
#pragma once

#include <filesystem>

#include "base/status.h"
#include "checkpoint/packed_model.h"

namespace tq {

// Writes a model whose matrices all have the native code of `rate`, from contents that hold all
// but the tensors. Codes are in memory until they are written. An error for other rates.
Status WriteRandomCodes(const std::filesystem::path& folder, double rate,
                        PackedModelContents contents);

}  // namespace tq
