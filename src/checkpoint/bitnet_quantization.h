// Hugging Face's quantization_config of models with ternary weights (quant_method "bitnet"): which
// matrices are ternary, and how files hold them. As transformers' replace_with_bitnet_linear and
// its classes BitLinear and AutoBitLinear have it (src/transformers/integrations/bitnet.py).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codec/ternary_matrix.h"

namespace tq {

struct BitNetQuantization {
  // Files hold codes, U8 [rows / 4, cols], and a factor [1] of the whole matrix beside them. Else
  // they hold floats, which become ternary when they are read (TernaryMatrixFromFloats).
  bool packed = true;
  WeightScale scale = WeightScale::kDivides;  // what the factor means
  // Modules that stay as they are: a name, what all their names begin or what they end with.
  std::vector<std::string> kept;

  // Whether the weight of this name is ternary: that of a layer's linear that is not kept.
  bool Holds(std::string_view tensor) const;
};

// From the fields of an object whose quant_method is "bitnet". Errors name `where` and what is not
// honoured: norms before each linear (use_rms_norm), patterns among the names of
// modules_to_not_convert, a head that would be ternary, and fields that we do not know.
StatusOr<BitNetQuantization> ReadBitNetQuantization(const nlohmann::json& fields,
                                                    std::string_view where);

}  // namespace tq
