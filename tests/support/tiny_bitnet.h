// Small models with ternary weights, as the directories that Hugging Face's transformers writes of
// them. Link tq_checkpoint.
//
//   TinyModel model = MakeTinyModel({.architecture = "bitnet"});
//   const TinyDirectory bitnet = MakeTinyBitNet(model, BitNetForm::kBitLinear);  // rounds the
//   model WriteDirectory(bitnet, folder / "hf");
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "tiny_directory.h"

namespace tq::testing {

// Packed with a factor that divides, packed with one that multiplies, and floats that the model
// itself rounds.
enum class BitNetForm { kBitLinear, kAutoBitLinear, kOnline };
inline constexpr BitNetForm kBitNetForms[] = {BitNetForm::kBitLinear, BitNetForm::kAutoBitLinear,
                                              BitNetForm::kOnline};

// Makes W = scale t of W, with scale = mean |W| and t = W / scale, rounded to -1, 0 or 1.
inline std::vector<int8_t> RoundTinyLinear(std::vector<float>& values, float& scale) {
  double sum = 0;
  for (const float value : values) sum += std::fabs(value);
  scale = static_cast<float>(sum / static_cast<double>(values.size()));
  std::vector<int8_t> trits;
  for (float& value : values) {
    const float t = std::fmax(-1.0f, std::fmin(1.0f, std::nearbyint(value / scale)));
    trits.push_back(static_cast<int8_t>(t));
    value = t * scale;
  }
  return trits;
}

// Four rows in one: bits 2 i and 2 i + 1 of row j are t + 1 of row i * rows / 4 + j.
inline Tensor PackTinyLinear(const std::vector<int8_t>& trits, uint64_t rows, uint64_t cols) {
  Tensor packed = *Tensor::Zeros(DType::kU8, {rows / 4, cols});
  for (uint64_t row = 0; row < rows; ++row) {
    for (uint64_t c = 0; c < cols; ++c) {
      packed.mutable_data()[row % (rows / 4) * cols + c] |=
          static_cast<uint8_t>((trits[row * cols + c] + 1) << 2 * (row / (rows / 4)));
    }
  }
  return packed;
}

// Rounds the linears of `model`, so that it is the same model in floating point.
inline TinyDirectory MakeTinyBitNet(TinyModel& model, BitNetForm form) {
  TinyDirectory bitnet = MakeTinyDirectory(model);
  bitnet.quantization() = {
      {"quant_method", "bitnet"},
      {"linear_class", form == BitNetForm::kBitLinear ? "bitlinear" : "autobitlinear"},
      {"quantization_mode", form == BitNetForm::kOnline ? "online" : "offline"},
      {"modules_to_not_convert", nullptr},
      {"use_rms_norm", false},
      {"rms_norm_eps", 1e-6}};
  for (TinyTensor& tensor : model.tensors) {
    const Tensor stored = *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values);
    if (!IsTinyLinear(tensor.name)) {
      bitnet.tensors.push_back({tensor.name, stored});
      continue;
    }
    float scale;
    const std::vector<int8_t> trits = RoundTinyLinear(tensor.values, scale);
    if (form == BitNetForm::kOnline) {
      bitnet.tensors.push_back({tensor.name, stored});
      continue;
    }
    float factor = scale;
    if (form == BitNetForm::kBitLinear) {
      factor = 1 / scale;
      for (size_t i = 0; i < trits.size(); ++i) {
        tensor.values[i] = static_cast<float>(trits[i]) * (1 / factor);
      }
    }
    bitnet.tensors.push_back(
        {tensor.name, PackTinyLinear(trits, tensor.shape[0], tensor.shape[1])});
    bitnet.tensors.push_back(
        {tensor.name + "_scale",
         *Tensor::FromValues(DType::kF32, {1}, std::span<const float>(&factor, 1))});
  }
  return bitnet;
}

}  // namespace tq::testing
