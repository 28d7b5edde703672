// Small models as the directories that AutoGPTQ, GPTQModel and AutoAWQ write of them, packed a bit
// at a time. Link tq_checkpoint.
//
//   TinyModel model = MakeTinyModel();
//   const TinyDirectory gptq = MakeTinyExchange(model, {});  // rounds the model
//   WriteDirectory(gptq, folder / "hf");
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "codec/exchange_layout.h"
#include "tiny_directory.h"

namespace tq::testing {

struct TinyExchangeOptions {
  ExchangeFormat format = ExchangeFormat::kGptqV1;
  uint32_t bits = 4;
  int32_t group_size = 32;  // -1: all of a row
  bool ordered = false;     // inputs belong to groups in an order of their own
  bool symmetric = false;
};

// Codes [cols] of a row, in W's own order of columns, with scales and zeros [groups].
struct TinyCodes {
  std::vector<uint32_t> codes, zeros;
  std::vector<uint16_t> scales;
};

// Rounds a row to the grid that spans its groups, and makes it what the codes mean.
inline TinyCodes RoundTinyRow(float* row, const std::vector<int32_t>& group, size_t groups,
                              const TinyExchangeOptions& options) {
  const float most = static_cast<float>((1 << options.bits) - 1);
  const float middle = static_cast<float>(1 << (options.bits - 1));
  TinyCodes result{std::vector<uint32_t>(group.size()), std::vector<uint32_t>(groups),
                   std::vector<uint16_t>(groups)};
  for (size_t g = 0; g < groups; ++g) {
    float low = 0, high = 1e-3f;  // a scale of 0 says nothing
    for (size_t c = 0; c < group.size(); ++c) {
      if (static_cast<size_t>(group[c]) != g) continue;
      low = std::min(low, row[c]), high = std::max(high, row[c]);
    }
    if (options.symmetric) high = std::max(high, -low), low = -high;
    result.scales[g] = FloatToHalf((high - low) / most);
    const float scale = HalfToFloat(result.scales[g]);
    // The first version of GPTQ's format has no zero of 0.
    const float zero = std::fmax(1.0f, std::fmin(most, std::nearbyint(-low / scale)));
    result.zeros[g] = static_cast<uint32_t>(options.symmetric ? middle : zero);
  }
  for (size_t c = 0; c < group.size(); ++c) {
    const auto g = static_cast<size_t>(group[c]);
    const float scale = HalfToFloat(result.scales[g]), zero = static_cast<float>(result.zeros[g]);
    const float code = std::fmax(0.0f, std::fmin(most, std::nearbyint(row[c] / scale) + zero));
    result.codes[c] = static_cast<uint32_t>(code);
    row[c] = scale * (code - zero);
  }
  return result;
}

// Puts the bits of a value from bit `bit` on of the words at `first`, first + stride, ...
inline void PutTinyBits(Tensor& words, uint64_t first, uint64_t stride, uint64_t bit, uint32_t bits,
                        uint32_t value) {
  for (uint32_t b = 0; b < bits; ++b, ++bit) {
    words.mutable_as<uint32_t>()[first + bit / 32 * stride] |= (value >> b & 1) << (bit % 32);
  }
}

// qweight, qzeros, scales and, of GPTQ, g_idx of a weight, whose values become those of its codes.
inline ExchangeTensors RoundTinyWeight(TinyTensor& weight, const TinyExchangeOptions& options) {
  const uint64_t rows = weight.shape[0], cols = weight.shape[1];
  const uint64_t size = options.group_size < 0 ? cols : static_cast<uint64_t>(options.group_size);
  const uint64_t groups = CeilDiv(cols, size), across = rows * options.bits / 32;
  std::vector<int32_t> group(cols);
  for (uint64_t c = 0; c < cols; ++c) group[c] = static_cast<int32_t>(c / size);
  Random random(11, weight.name);
  for (uint64_t c = options.ordered ? cols : 0; c > 1; --c) {
    std::swap(group[c - 1], group[random.NextBelow(c)]);
  }
  const bool awq = options.format == ExchangeFormat::kAwq;
  ExchangeTensors t;
  t.qweight = *Tensor::Zeros(DType::kI32,
                             awq ? Shape{cols, across} : Shape{cols * options.bits / 32, rows});
  t.qzeros = *Tensor::Zeros(DType::kI32, {groups, across});
  t.scales = *Tensor::Zeros(DType::kF16, {groups, rows});
  for (uint64_t r = 0; r < rows; ++r) {
    const TinyCodes row = RoundTinyRow(weight.values.data() + r * cols, group, groups, options);
    // AWQ: eight outputs share a word, in the order 0, 2, 4, 6, 1, 3, 5, 7.
    const uint64_t place = awq ? r / 8 * 8 + (r % 2 == 0 ? r % 8 / 2 : 4 + r % 8 / 2) : r;
    for (uint64_t c = 0; c < cols; ++c) {
      if (awq) {
        PutTinyBits(t.qweight, c * across, 1, place * 4, 4, row.codes[c]);
      } else {
        PutTinyBits(t.qweight, r, rows, c * options.bits, options.bits, row.codes[c]);
      }
    }
    const uint32_t less = options.format == ExchangeFormat::kGptqV1 ? 1 : 0;
    for (uint64_t g = 0; g < groups; ++g) {
      PutTinyBits(t.qzeros, g * across, 1, place * options.bits, options.bits, row.zeros[g] - less);
      t.scales.mutable_as<uint16_t>()[g * rows + r] = row.scales[g];
    }
  }
  if (!awq) t.g_idx = *Tensor::FromValues<int32_t>(DType::kI32, {cols}, group);
  return t;
}

// Rounds the linears of `model`, so that it is the same model in floating point.
inline TinyDirectory MakeTinyExchange(TinyModel& model, const TinyExchangeOptions& options) {
  TinyDirectory directory = MakeTinyDirectory(model);
  const bool awq = options.format == ExchangeFormat::kAwq;
  nlohmann::json& fields = directory.quantization();
  fields = {{"quant_method", awq ? "awq" : "gptq"},
            {"bits", options.bits},
            {"group_size", options.group_size}};
  if (awq) {
    fields.update({{"zero_point", !options.symmetric},
                   {"version", "gemm"},
                   {"modules_to_not_convert", nullptr}});
  } else {
    fields.update({{"desc_act", options.ordered},
                   {"sym", options.symmetric},
                   {"checkpoint_format", NameOf(options.format)}});
  }
  for (TinyTensor& tensor : model.tensors) {
    if (!IsTinyLinear(tensor.name)) {
      directory.tensors.push_back(
          {tensor.name, *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values)});
      continue;
    }
    ExchangeTensors parts = RoundTinyWeight(tensor, options);
    const std::string stem = tensor.name.substr(0, tensor.name.size() - 6);  // without "weight"
    directory.tensors.push_back({stem + "qweight", std::move(parts.qweight)});
    directory.tensors.push_back({stem + "qzeros", std::move(parts.qzeros)});
    directory.tensors.push_back({stem + "scales", std::move(parts.scales)});
    if (!awq) directory.tensors.push_back({stem + "g_idx", std::move(parts.g_idx)});
  }
  return directory;
}

}  // namespace tq::testing
