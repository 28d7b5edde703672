// Weights of a Hugging Face directory that its quantization_config makes codes.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/model_source.h"
#include "checkpoint/quantization_config.h"
#include "checkpoint/safetensors.h"

namespace tq {

class CodedWeights {
 public:
  // A weight as files hold it, and the names of all its tensors.
  struct Description {
    SourceTensorInfo info;
    std::vector<std::string> tensors;
  };

  virtual ~CodedWeights() = default;
  virtual MatrixForm form() const = 0;  // of all of them
  // Whether this weight is coded: that of a layer's projection, by Hugging Face's name.
  virtual bool Holds(std::string_view name) const = 0;
  // Of a weight that it holds; checks the headers of its tensors.
  virtual StatusOr<Description> Describe(const TensorSpec& spec) const = 0;
  // The following are of weights that were described.
  virtual StatusOr<CodedMatrix> Load(const SourceTensorInfo& info,
                                     ternary::Packing packing) const = 0;
  // All that its values depend on, for fingerprints.
  virtual Status Hash(const SourceTensorInfo& info, Hasher& hasher) const = 0;
};

// `directory` must outlive it; null where all weights are plain.
std::unique_ptr<CodedWeights> MakeCodedWeights(const Quantization& quantization,
                                               const SafetensorsDirectory& directory);
// The kinds of it.
std::unique_ptr<CodedWeights> MakeBitNetWeights(const BitNetQuantization& quantization,
                                                const SafetensorsDirectory& directory);
std::unique_ptr<CodedWeights> MakeExchangeWeights(const ExchangeQuantization& quantization,
                                                  const SafetensorsDirectory& directory);

}  // namespace tq
