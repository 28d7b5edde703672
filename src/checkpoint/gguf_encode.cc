#include "checkpoint/gguf_encode.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "checkpoint/gguf_k_quants.h"
#include "checkpoint/scale_search.h"

namespace tq {
namespace {

constexpr float kMaxHalf = 65504.0f;
constexpr float kMaxBFloat16 = 0x1.FEp127f;

void EncodeF32(const float* x, uint8_t* block) { std::memcpy(block, x, sizeof(float)); }
void EncodeF16(const float* x, uint8_t* block) { StoreU16(FloatToHalf(*x), block); }
void EncodeBF16(const float* x, uint8_t* block) { StoreU16(FloatToBFloat16(*x), block); }

// The step is rounded up, so that no value lies more than half a step from its code.
void EncodeQ8_0(const float* x, uint8_t* block) {
  constexpr int kValues = 32, kTop = 127;
  float largest = 0;
  for (int i = 0; i < kValues; ++i) largest = std::max(largest, std::abs(x[i]));
  const uint16_t d = HalfAtLeast(largest / kTop);
  StoreU16(d, block);
  const float inverse = d == 0 ? 0 : 1 / HalfToFloat(d);
  for (int i = 0; i < kValues; ++i) {
    const int q = static_cast<int>(std::lround(x[i] * inverse));
    block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(q, -kTop, kTop)));
  }
}

void EncodeQ5_0(const float* x, uint8_t* block) {
  constexpr int kValues = 32, kLevels = 16;
  const uint16_t d = FloatToHalf(SymmetricScale(x, kValues, kLevels));
  std::array<uint8_t, kValues> q;
  RoundSymmetric(x, kValues, kLevels, HalfToFloat(d), q.data());
  uint32_t high = 0;
  for (int i = 0; i < kValues; ++i) high |= static_cast<uint32_t>(q[i] >> 4) << i;
  StoreU16(d, block);
  std::memcpy(block + 2, &high, sizeof(high));
  for (int i = 0; i < kValues / 2; ++i) {
    block[6 + i] = static_cast<uint8_t>((q[i] & 15) | (q[i + 16] & 15) << 4);
  }
}

struct Encoder {
  GgufBlocks format;
  float largest;  // magnitude that the type holds
  void (*encode)(const float* x, uint8_t* block);
};

Encoder EncoderOf(GgufEncoding type) {
  switch (type) {
    case GgufEncoding::kF32:
      return {{1, 4}, std::numeric_limits<float>::max(), EncodeF32};
    case GgufEncoding::kF16:
      return {{1, 2}, kMaxHalf, EncodeF16};
    case GgufEncoding::kBF16:
      return {{1, 2}, kMaxBFloat16, EncodeBF16};
    case GgufEncoding::kQ5_0:
      return {{32, 22}, kMaxHalf, EncodeQ5_0};
    case GgufEncoding::kQ8_0:
      return {{32, 34}, kMaxHalf, EncodeQ8_0};
    case GgufEncoding::kQ4_K:
      return {{kSuperBlock, 144}, kMaxHalf, EncodeQ4_K};
    case GgufEncoding::kQ6_K:
      return {{kSuperBlock, 210}, kMaxHalf, EncodeQ6_K};
  }
  internal::CheckFailed(__FILE__, __LINE__, "a type that is written");
}

}  // namespace

GgufBlocks BlocksOf(GgufEncoding type) { return EncoderOf(type).format; }

Status EncodeBlocks(GgufEncoding type, const float* in, uint64_t blocks, uint8_t* out) {
  const Encoder encoder = EncoderOf(type);
  const uint64_t values = blocks * encoder.format.values;
  for (uint64_t i = 0; i < values; ++i) {
    if (std::abs(in[i]) > encoder.largest) {
      return InvalidArgument("element {} is {}; {} holds up to {}", i, in[i],
                             GgufTypeName(static_cast<uint32_t>(type)), encoder.largest);
    }
  }
  for (uint64_t b = 0; b < blocks; ++b) {
    encoder.encode(in + b * encoder.format.values, out + b * encoder.format.bytes);
  }
  return OkStatus();
}

}  // namespace tq
