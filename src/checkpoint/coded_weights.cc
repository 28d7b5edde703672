#include "checkpoint/coded_weights.h"

#include <variant>

namespace tq {

std::unique_ptr<CodedWeights> MakeCodedWeights(const Quantization& quantization,
                                               const SafetensorsDirectory& directory) {
  if (const auto* bitnet = std::get_if<BitNetQuantization>(&quantization)) {
    return MakeBitNetWeights(*bitnet, directory);
  }
  if (const auto* exchange = std::get_if<ExchangeQuantization>(&quantization)) {
    return MakeExchangeWeights(*exchange, directory);
  }
  return nullptr;
}

}  // namespace tq
