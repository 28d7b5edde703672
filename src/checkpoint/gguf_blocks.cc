#include "checkpoint/gguf_blocks.h"

#include <fmt/format.h>

#include <algorithm>
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

// Value v of 32 in 16 bytes: the low nibbles, then the high ones.
int Nibble(const uint8_t* bytes, int v) { return (bytes[v % 16] >> (v / 16 * 4)) & 15; }

// Value v of 256 in 128 bytes: 32 bytes hold 64 values as above.
int NibbleOf64(const uint8_t* bytes, int v) {
  return (bytes[v / 64 * 32 + v % 32] >> (v % 64 / 32 * 4)) & 15;
}

// Value v of 256 in 64 bytes of two bits each: 32 bytes hold the values i, i + 32, i + 64 and
// i + 96 of one half, lowest bits first.
int Pair(const uint8_t* bytes, int v) {
  return (bytes[v / 128 * 32 + v % 32] >> (v % 128 / 32 * 2)) & 3;
}

// Value v of 256 in 32 bytes: bit b of byte i is value 32 b + i.
int Bit(const uint8_t* bytes, int v) { return (bytes[v % 32] >> (v / 32)) & 1; }

// The fifth bits of 32 values, in order.
int FifthBit(const uint8_t* bytes, int v) { return ((bytes[v / 8] >> (v % 8)) & 1) << 4; }

void DecodeF32(const uint8_t* block, float* out) { std::memcpy(out, block, sizeof(*out)); }
void DecodeF16(const uint8_t* block, float* out) { *out = LoadHalf(block); }
void DecodeBF16(const uint8_t* block, float* out) {
  uint16_t bits;
  std::memcpy(&bits, block, sizeof(bits));
  *out = BFloat16ToFloat(bits);
}

void DecodeQ4_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int v = 0; v < 32; ++v) out[v] = d * static_cast<float>(Nibble(block + 2, v) - 8);
}

void DecodeQ4_1(const uint8_t* block, float* out) {
  const float d = LoadHalf(block), m = LoadHalf(block + 2);
  for (int v = 0; v < 32; ++v) out[v] = d * static_cast<float>(Nibble(block + 4, v)) + m;
}

void DecodeQ5_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int v = 0; v < 32; ++v) {
    const int code = Nibble(block + 6, v) | FifthBit(block + 2, v);
    out[v] = d * static_cast<float>(code - 16);
  }
}

void DecodeQ5_1(const uint8_t* block, float* out) {
  const float d = LoadHalf(block), m = LoadHalf(block + 2);
  for (int v = 0; v < 32; ++v) {
    const int code = Nibble(block + 8, v) | FifthBit(block + 4, v);
    out[v] = d * static_cast<float>(code) + m;
  }
}

void DecodeQ8_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int v = 0; v < 32; ++v) {
    out[v] = d * static_cast<float>(static_cast<int8_t>(block[2 + v]));
  }
}

void DecodeQ2_K(const uint8_t* block, float* out) {
  const float d = LoadHalf(block + 80), m = LoadHalf(block + 82);
  for (int group = 0; group < 16; ++group) {
    const float scale = d * static_cast<float>(block[group] & 15);
    const float min = m * static_cast<float>(block[group] >> 4);
    for (int v = 16 * group; v < 16 * group + 16; ++v) {
      out[v] = scale * static_cast<float>(Pair(block + 16, v)) - min;
    }
  }
}

// Scales: the low nibbles of bytes 0 to 7 and then the high ones are the low bits of
// s_0 ... s_15; bytes 8 to 11 have their top bits, four times two a byte, s_j in byte 8 + j % 4.
void DecodeQ3_K(const uint8_t* block, float* out) {
  const uint8_t* scales = block + 96;
  const float d = LoadHalf(block + 108);
  for (int group = 0; group < 16; ++group) {
    const int low = (scales[group % 8] >> (group / 8 * 4)) & 15;
    const int top = (scales[8 + group % 4] >> (group / 4 * 2)) & 3;
    const float scale = d * static_cast<float>((low | top << 4) - 32);
    for (int v = 16 * group; v < 16 * group + 16; ++v) {
      const int code = Pair(block + 32, v) | Bit(block, v) << 2;
      out[v] = scale * static_cast<float>(code - 4);
    }
  }
}

struct ScaleAndMin {
  float scale, min;
};
// Of Q4_K and Q5_K: s_0 ... s_3 are the low 6 bits of bytes 0 to 3, t_0 ... t_3 those of bytes
// 4 to 7. Bytes 8 to 11 have the low nibbles of s_4 ... s_7 (low) and t_4 ... t_7 (high), whose
// top two bits are those of bytes 0 to 3 and 4 to 7.
ScaleAndMin UnpackScales(const uint8_t* packed, int group) {
  int scale, min;
  if (group < 4) {
    scale = packed[group] & 63;
    min = packed[group + 4] & 63;
  } else {
    scale = (packed[group + 4] & 15) | packed[group - 4] >> 6 << 4;
    min = packed[group + 4] >> 4 | packed[group] >> 6 << 4;
  }
  return {static_cast<float>(scale), static_cast<float>(min)};
}

void DecodeQ4_K(const uint8_t* block, float* out) {
  const float d = LoadHalf(block), m = LoadHalf(block + 2);
  for (int group = 0; group < 8; ++group) {
    const auto [s, t] = UnpackScales(block + 4, group);
    const float scale = d * s, min = m * t;
    for (int v = 32 * group; v < 32 * group + 32; ++v) {
      out[v] = scale * static_cast<float>(NibbleOf64(block + 16, v)) - min;
    }
  }
}

void DecodeQ5_K(const uint8_t* block, float* out) {
  const float d = LoadHalf(block), m = LoadHalf(block + 2);
  for (int group = 0; group < 8; ++group) {
    const auto [s, t] = UnpackScales(block + 4, group);
    const float scale = d * s, min = m * t;
    for (int v = 32 * group; v < 32 * group + 32; ++v) {
      const int code = NibbleOf64(block + 48, v) | Bit(block + 16, v) << 4;
      out[v] = scale * static_cast<float>(code) - min;
    }
  }
}

// Each half of 128 values has 64 bytes of nibbles: the low ones first, then the high ones.
void DecodeQ6_K(const uint8_t* block, float* out) {
  const uint8_t* scales = block + 192;
  const float d = LoadHalf(block + 208);
  for (int v = 0; v < 256; ++v) {
    const int nibble = (block[v / 128 * 64 + v % 64] >> (v % 128 / 64 * 4)) & 15;
    const int code = nibble | Pair(block + 128, v) << 4;
    const float scale = d * static_cast<float>(static_cast<int8_t>(scales[v / 16]));
    out[v] = scale * static_cast<float>(code - 32);
  }
}

constexpr std::array<float, 16> kIq4Levels = {-127, -104, -83, -65, -49, -35, -22, -10,
                                              1,    13,   25,  38,  53,  69,  89,  113};

void DecodeIQ4_NL(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int v = 0; v < 32; ++v) out[v] = d * kIq4Levels[static_cast<size_t>(Nibble(block + 2, v))];
}

// Scales: bytes 4 to 7 have the low nibbles of s_0 ... s_7 in order, bytes 2 and 3 the top two
// bits, s_0's lowest.
void DecodeIQ4_XS(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  const int tops = block[2] | block[3] << 8;
  for (int group = 0; group < 8; ++group) {
    const int low = (block[4 + group / 2] >> (group % 2 * 4)) & 15;
    const int top = (tops >> (2 * group)) & 3;
    const float scale = d * static_cast<float>((low | top << 4) - 32);
    const uint8_t* codes = block + 8 + 16 * group;
    for (int v = 0; v < 32; ++v) {
      out[32 * group + v] = scale * kIq4Levels[static_cast<size_t>(Nibble(codes, v))];
    }
  }
}

// Five trits are a number from 0 to 242, the first trit worth 81, stored as the fraction
// number / 243 of 256, rounded up. Times three, what is carried out of the byte is the next trit.
int Trit(int byte, int n) {
  constexpr std::array<int, 5> kPowers = {1, 3, 9, 27, 81};
  return ((byte * kPowers[static_cast<size_t>(n)] & 255) * 3) >> 8;
}

// 32 bytes of five trits (trit n of byte i: value 32 n + i), 16 of five, 4 of four.
void DecodeTQ1_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block + 52);
  for (int v = 0; v < 160; ++v) out[v] = d * static_cast<float>(Trit(block[v % 32], v / 32) - 1);
  for (int v = 0; v < 80; ++v) {
    out[160 + v] = d * static_cast<float>(Trit(block[32 + v % 16], v / 16) - 1);
  }
  for (int v = 0; v < 16; ++v) {
    out[240 + v] = d * static_cast<float>(Trit(block[48 + v % 4], v / 4) - 1);
  }
}

// Of the 256 bytes 243 are trits; in the last four bytes of a block the fifth trit is 0.
bool IsSoundTQ1_0(const uint8_t* block) {
  const auto is_trits = [](int byte, int least) {
    const int number = byte * 243 / 256;
    return (number * 256 + 242) / 243 == byte && number % least == 0;
  };
  return std::all_of(block, block + 48, [&](int byte) { return is_trits(byte, 1); }) &&
         std::all_of(block + 48, block + 52, [&](int byte) { return is_trits(byte, 3); });
}

void DecodeTQ2_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block + 64);
  for (int v = 0; v < 256; ++v) out[v] = d * static_cast<float>(Pair(block, v) - 1);
}

bool IsSoundTQ2_0(const uint8_t* block) {
  return std::none_of(block, block + 64, [](int byte) { return byte & byte >> 1 & 0x55; });
}

struct TypeRow {
  uint32_t id;
  std::string_view name;
  GgufBlocks format = {};
  void (*decode)(const uint8_t* in, uint64_t blocks, float* out) = nullptr;  // null: not read
  bool (*is_sound)(const uint8_t* block) = nullptr;                          // null: every block is
};

template <uint64_t values, uint64_t bytes, void (*decode)(const uint8_t* block, float* out)>
void DecodeEach(const uint8_t* in, uint64_t blocks, float* out) {
  for (uint64_t b = 0; b < blocks; ++b) decode(in + b * bytes, out + b * values);
}

template <uint64_t values, uint64_t bytes, void (*decode)(const uint8_t* block, float* out)>
constexpr TypeRow Read(GgufType type, std::string_view name,
                       bool (*is_sound)(const uint8_t* block) = nullptr) {
  return {static_cast<uint32_t>(type),
          name,
          {values, bytes},
          DecodeEach<values, bytes, decode>,
          is_sound};
}

// All types that ggml has had, by id.
constexpr std::array kTypes = {
    Read<1, 4, DecodeF32>(GgufType::kF32, "F32"),
    Read<1, 2, DecodeF16>(GgufType::kF16, "F16"),
    Read<32, 18, DecodeQ4_0>(GgufType::kQ4_0, "Q4_0"),
    Read<32, 20, DecodeQ4_1>(GgufType::kQ4_1, "Q4_1"),
    TypeRow{4, "Q4_2"},
    TypeRow{5, "Q4_3"},
    Read<32, 22, DecodeQ5_0>(GgufType::kQ5_0, "Q5_0"),
    Read<32, 24, DecodeQ5_1>(GgufType::kQ5_1, "Q5_1"),
    Read<32, 34, DecodeQ8_0>(GgufType::kQ8_0, "Q8_0"),
    TypeRow{9, "Q8_1"},
    Read<256, 84, DecodeQ2_K>(GgufType::kQ2_K, "Q2_K"),
    Read<256, 110, DecodeQ3_K>(GgufType::kQ3_K, "Q3_K"),
    Read<256, 144, DecodeQ4_K>(GgufType::kQ4_K, "Q4_K"),
    Read<256, 176, DecodeQ5_K>(GgufType::kQ5_K, "Q5_K"),
    Read<256, 210, DecodeQ6_K>(GgufType::kQ6_K, "Q6_K"),
    TypeRow{15, "Q8_K"},
    TypeRow{16, "IQ2_XXS"},
    TypeRow{17, "IQ2_XS"},
    TypeRow{18, "IQ3_XXS"},
    TypeRow{19, "IQ1_S"},
    Read<32, 18, DecodeIQ4_NL>(GgufType::kIQ4_NL, "IQ4_NL"),
    TypeRow{21, "IQ3_S"},
    TypeRow{22, "IQ2_S"},
    Read<256, 136, DecodeIQ4_XS>(GgufType::kIQ4_XS, "IQ4_XS"),
    TypeRow{24, "I8"},
    TypeRow{25, "I16"},
    TypeRow{26, "I32"},
    TypeRow{27, "I64"},
    TypeRow{28, "F64"},
    TypeRow{29, "IQ1_M"},
    Read<1, 2, DecodeBF16>(GgufType::kBF16, "BF16"),
    TypeRow{31, "Q4_0_4_4"},
    TypeRow{32, "Q4_0_4_8"},
    TypeRow{33, "Q4_0_8_8"},
    Read<256, 54, DecodeTQ1_0>(GgufType::kTQ1_0, "TQ1_0", IsSoundTQ1_0),
    Read<256, 66, DecodeTQ2_0>(GgufType::kTQ2_0, "TQ2_0", IsSoundTQ2_0),
    TypeRow{36, "IQ4_NL_4_4"},
    TypeRow{37, "IQ4_NL_4_8"},
    TypeRow{38, "IQ4_NL_8_8"},
    TypeRow{39, "MXFP4"},
    TypeRow{40, "NVFP4"},
};
static_assert([] {
  for (uint32_t id = 0; id < kTypes.size(); ++id) {
    if (kTypes[id].id != id) return false;
  }
  return true;
}());

const TypeRow& Row(GgufType type) { return kTypes[static_cast<uint32_t>(type)]; }

}  // namespace

std::string GgufTypeName(uint32_t type) {
  if (type < kTypes.size()) return std::string(kTypes[type].name);
  return fmt::format("number {} (unknown)", type);
}

std::string GgufTypesRead() {
  std::string names;
  for (const TypeRow& row : kTypes) {
    if (row.decode == nullptr) continue;
    if (!names.empty()) names += ", ";
    names += row.name;
  }
  return names;
}

std::optional<GgufBlocks> GgufBlockFormat(uint32_t type) {
  if (type >= kTypes.size() || kTypes[type].decode == nullptr) return std::nullopt;
  return kTypes[type].format;
}

std::optional<uint64_t> FirstUnsoundBlock(GgufType type, const uint8_t* in, uint64_t blocks) {
  const TypeRow& row = Row(type);
  if (row.is_sound == nullptr) return std::nullopt;
  for (uint64_t b = 0; b < blocks; ++b) {
    if (!row.is_sound(in + b * row.format.bytes)) return b;
  }
  return std::nullopt;
}

void DequantizeBlocks(GgufType type, const uint8_t* in, uint64_t blocks, float* out) {
  Row(type).decode(in, blocks, out);
}

}  // namespace tq
