// Split GGUF files, as llama.cpp's gguf-split writes them: parts NAME-00001-of-00003.gguf,
// NAME-00002-of-00003.gguf, ..., each a sound GGUF file with the keys
//   split.no             which part it is, from 0
//   split.count          how many there are
//   split.tensors.count  tensors of all parts together
// The first part has the model's metadata, too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/gguf.h"

namespace tq {

inline constexpr std::string_view kSplitTensors = "split.tensors.count";

// The paths of parts 1 to count - 1, all of which exist; parts that are missing are an error
// that lists them, or the first of many. `first` must be part 0 and be called so.
StatusOr<std::vector<std::filesystem::path>> FindOtherParts(const GgufFile& first, uint64_t count);

// Part `number` must say that it is that, and contradict the first part in nothing.
Status CheckPart(const GgufFile& first, const GgufFile& part, uint64_t number);

}  // namespace tq
