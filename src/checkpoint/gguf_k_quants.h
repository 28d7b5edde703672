// Encoders of ggml's formats of 256 values whose scales are integers under a scale of their own.
#pragma once

#include <cstdint>

namespace tq {

inline constexpr int kSuperBlock = 256;

// x [256] to 144 and 210 bytes (gguf_encode.h). Magnitudes are at most 65504.
void EncodeQ4_K(const float* x, uint8_t* block);
void EncodeQ6_K(const float* x, uint8_t* block);

}  // namespace tq
