// The parser of GGUF headers, apart from the checks of tensors against the file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/gguf.h"
#include "tensor/mapped_file.h"

namespace tq {

struct GgufHeader {
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // offset: from the start of the data
  uint64_t data_begin = 0;
  uint64_t alignment = 32;
};

StatusOr<GgufHeader> ReadGgufHeader(const MappedFile& file);

}  // namespace tq
