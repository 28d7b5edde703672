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

// Whether a tensor (Hugging Face's name) is the weight of one of a layer's projections, which may
// be coded.
bool IsLayerMatrix(std::string_view tensor);

// All of a coded matrix as float32 [rows, cols]; `name` is for errors.
StatusOr<Tensor> DecodeCoded(const CodedMatrix& coded, std::string_view name);

// The index of the first NaN or infinity.
std::optional<uint64_t> FindNonFinite(const float* values, uint64_t n);

// DataLoss naming file, tensor and index of the first NaN or infinity of values that begin with
// element `first`.
Status CheckFinite(const float* values, uint64_t n, const std::filesystem::path& file,
                   std::string_view tensor, uint64_t first = 0);

// Feeds bytes of a file to `hasher`, by pread.
Status HashFileRange(const MappedFile& file, uint64_t offset, uint64_t bytes, Hasher& hasher);

}  // namespace tq
