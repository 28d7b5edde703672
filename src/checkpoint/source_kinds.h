// The two kinds of ModelSource, and what they share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "base/hash.h"
#include "base/status.h"
#include "checkpoint/model_source.h"
#include "tensor/mapped_file.h"

namespace tq {

StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceSource(const std::filesystem::path& folder);
StatusOr<std::unique_ptr<ModelSource>> OpenGgufSource(const std::filesystem::path& path);

// The index of the first NaN or infinity.
std::optional<uint64_t> FindNonFinite(const float* values, uint64_t n);

// DataLoss naming file, tensor and index of the first NaN or infinity.
Status CheckFinite(const float* values, uint64_t n, const std::filesystem::path& file,
                   std::string_view tensor);

// Feeds bytes of a file to `hasher`, by pread.
Status HashFileRange(const MappedFile& file, uint64_t offset, uint64_t bytes, Hasher& hasher);

}  // namespace tq
