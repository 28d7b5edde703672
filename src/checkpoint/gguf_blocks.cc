#include "checkpoint/gguf_blocks.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <string_view>

namespace tq {
namespace {

float LoadHalf(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof(half));
  return HalfToFloat(half);
}

void DequantizeQ4_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 16; ++i) {
    const int byte = block[2 + i];
    out[i] = d * static_cast<float>((byte & 15) - 8);
    out[i + 16] = d * static_cast<float>((byte >> 4) - 8);
  }
}

void DequantizeQ4_1(const uint8_t* block, float* out) {
  const float d = LoadHalf(block), m = LoadHalf(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int byte = block[4 + i];
    out[i] = d * static_cast<float>(byte & 15) + m;
    out[i + 16] = d * static_cast<float>(byte >> 4) + m;
  }
}

void DequantizeQ8_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 32; ++i) {
    out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
  }
}

// Each half of 128 values takes 64 bytes of low bits and 32 of high bits; a high byte
// serves the values i, i + 32, i + 64 and i + 96 of its half, lowest bits first.
void DequantizeQ6_K(const uint8_t* block, float* out) {
  const uint8_t* low = block;
  const uint8_t* high = block + 128;
  const uint8_t* scales = block + 192;
  const float d = LoadHalf(block + 208);
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 128; ++i) {
      const int nibble = (low[64 * half + i % 64] >> (i < 64 ? 0 : 4)) & 15;
      const int top = (high[32 * half + i % 32] >> (2 * (i / 32))) & 3;
      const int value = 128 * half + i;
      const auto scale = static_cast<float>(static_cast<int8_t>(scales[value / 16]));
      out[value] = (d * scale) * static_cast<float>((nibble | top << 4) - 32);
    }
  }
}

using BlockDecoder = void (*)(const uint8_t* block, float* out);
void Repeat(BlockDecoder decode, GgufBlocks format, const uint8_t* in, uint64_t blocks,
            float* out) {
  for (uint64_t b = 0; b < blocks; ++b) decode(in + b * format.bytes, out + b * format.values);
}

}  // namespace

std::string GgufTypeName(uint32_t type) {
  // By id; empty: removed from the format.
  static constexpr std::array<std::string_view, 40> kNames = {
      "F32",     "F16",    "Q4_0",    "Q4_1",  "",       "",      "Q5_0",  "Q5_1",
      "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
      "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
      "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16",  "",
      "",        "",       "TQ1_0",   "TQ2_0", "",       "",      "",      "MXFP4"};
  if (type < kNames.size() && !kNames[type].empty()) return std::string(kNames[type]);
  return fmt::format("number {} (unknown)", type);
}

std::optional<GgufBlocks> GgufBlockFormat(uint32_t type) {
  switch (static_cast<GgufType>(type)) {
    case GgufType::kF32:
      return GgufBlocks{1, 4};
    case GgufType::kF16:
    case GgufType::kBF16:
      return GgufBlocks{1, 2};
    case GgufType::kQ4_0:
      return GgufBlocks{32, 18};
    case GgufType::kQ4_1:
      return GgufBlocks{32, 20};
    case GgufType::kQ8_0:
      return GgufBlocks{32, 34};
    case GgufType::kQ6_K:
      return GgufBlocks{256, 210};
  }
  return std::nullopt;
}

void DequantizeBlocks(GgufType type, const uint8_t* in, uint64_t blocks, float* out) {
  const GgufBlocks format = *GgufBlockFormat(static_cast<uint32_t>(type));
  switch (type) {
    case GgufType::kF32:
      std::memcpy(out, in, blocks * sizeof(float));
      return;
    case GgufType::kF16:
      for (uint64_t i = 0; i < blocks; ++i) out[i] = LoadHalf(in + 2 * i);
      return;
    case GgufType::kBF16:
      for (uint64_t i = 0; i < blocks; ++i) {
        uint16_t bits;
        std::memcpy(&bits, in + 2 * i, sizeof(bits));
        out[i] = BFloat16ToFloat(bits);
      }
      return;
    case GgufType::kQ4_0:
      return Repeat(DequantizeQ4_0, format, in, blocks, out);
    case GgufType::kQ4_1:
      return Repeat(DequantizeQ4_1, format, in, blocks, out);
    case GgufType::kQ8_0:
      return Repeat(DequantizeQ8_0, format, in, blocks, out);
    case GgufType::kQ6_K:
      return Repeat(DequantizeQ6_K, format, in, blocks, out);
  }
}

}  // namespace tq
