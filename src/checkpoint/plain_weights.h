// Weights of a Hugging Face directory that are plain floats: F32, F16 or BF16.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "tensor/tensor.h"

namespace tq {

bool IsWeightType(DType dtype);

// "FILE: tensor 'NAME'", of a tensor that is there.
std::string PlaceOf(const SafetensorsDirectory& directory, std::string_view name);

// The header of a tensor; an error names folder and tensor.
StatusOr<const SafetensorsEntry*> FindWeight(const SafetensorsDirectory& directory,
                                             std::string_view name);
// That of plain floats, checked against shape and types.
StatusOr<SourceTensorInfo> DescribePlainWeight(const SafetensorsDirectory& directory,
                                               const TensorSpec& spec);
// Values of it as float32, a piece at a time; one that is not finite is an error.
StatusOr<Tensor> LoadPlainWeight(const SafetensorsDirectory& directory, std::string_view name);

}  // namespace tq
