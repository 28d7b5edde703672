// Hugging Face's quantization_config of models with matrices of grouped codes (quant_method "gptq"
// and "awq"), as AutoGPTQ, GPTQModel, AutoAWQ and transformers write it.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>

#include "base/status.h"
#include "codec/exchange_layout.h"

namespace tq {

struct ExchangeQuantization {
  ExchangeFormat format = ExchangeFormat::kGptqV1;
  uint32_t bits = 4;
  std::optional<uint32_t> group_size;  // inputs; none: all of a row
  // desc_act: whether inputs lie in an order of their own. None: as files have it.
  std::optional<bool> ordered;
  // sym, or of AWQ the opposite of zero_point: true claims that all zeros are 2^(bits - 1), which
  // is checked when matrices are read. None: as files have it.
  std::optional<bool> symmetric;

  // Those of a matrix of this shape [out, in].
  ExchangeSizes SizesOf(const Shape& shape) const;
};

// From the fields of an object whose quant_method is "gptq" or "awq". What says how codes were
// found, or which kernels run them, changes nothing and is passed over; which matrices are coded
// is seen by their tensors. Errors name `where`, field and value: layouts other than those of
// ExchangeFormat (gemv, marlin, ...), unsupported bits, settings for single modules (dynamic;
// but not which have no codes), a coded head, and fields that we do not know.
StatusOr<ExchangeQuantization> ReadExchangeQuantization(const nlohmann::json& fields,
                                                        std::string_view where);

}  // namespace tq
