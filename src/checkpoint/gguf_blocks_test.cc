#include "checkpoint/gguf_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <map>
#include <set>

#include "base/random.h"
#include "checkpoint/gguf.h"

namespace tq {
namespace {

using Bytes = std::vector<uint8_t>;
constexpr uint8_t kOne[] = {0x00, 0x3c}, kTwo[] = {0x00, 0x40};  // half precision

Bytes ZeroBlock(GgufType type) {
  return Bytes(GgufBlockFormat(static_cast<uint32_t>(type))->bytes);
}
std::vector<float> Decode(GgufType type, const Bytes& bytes) {
  const GgufBlocks format = *GgufBlockFormat(static_cast<uint32_t>(type));
  EXPECT_EQ(bytes.size() % format.bytes, 0u);
  std::vector<float> values(bytes.size() / format.bytes * format.values);
  DequantizeBlocks(type, bytes.data(), bytes.size() / format.bytes, values.data());
  return values;
}
template <class T>
void Put(Bytes& block, size_t at, const T& bytes) {
  std::copy(std::begin(bytes), std::end(bytes), block.begin() + static_cast<ptrdiff_t>(at));
}

// blocks.gguf is made by the format's reference implementation: benchmarks/oracles/gguf_blocks.py.
TEST(GgufBlocks, DecodesToTheBitAsTheReferenceDoes) {
  const auto file = GgufFile::Open(TQ_GOLDEN_DIR "/gguf/blocks.gguf");
  ASSERT_TRUE(file.ok()) << file.status().message();
  int types = 0;
  for (const GgufTensor& tensor : (*file)->tensors()) {
    if (tensor.name.ends_with(".expected")) continue;
    ++types;
    EXPECT_EQ(GgufTypeName(static_cast<uint32_t>(tensor.type)), tensor.name);
    const GgufTensor* reference = (*file)->Find(tensor.name + ".expected");
    ASSERT_NE(reference, nullptr);
    ASSERT_EQ(reference->shape, tensor.shape);
    const auto values = (*file)->LoadFloat(tensor), expected = (*file)->LoadFloat(*reference);
    ASSERT_TRUE(values.ok() && expected.ok());
    for (uint64_t i = 0; i < values->num_elements(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(values->as<float>()[i]),
                std::bit_cast<uint32_t>(expected->as<float>()[i]))
          << tensor.name << " element " << i;
    }
  }
  EXPECT_EQ(types, 16);  // all but F32, which the expected values are
}

TEST(GgufBlocks, SizesOfAllTypesWeRead) {
  int known = 0;
  for (uint32_t type = 0; type < 256; ++type) known += GgufBlockFormat(type).has_value();
  EXPECT_EQ(known, 17);
  EXPECT_EQ(GgufTypeName(12), "Q4_K");
  EXPECT_EQ(GgufTypeName(16), "IQ2_XXS");
  EXPECT_EQ(GgufTypeName(200), "number 200 (unknown)");
  EXPECT_EQ(GgufTypesRead(),
            "F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, "
            "IQ4_XS, BF16, TQ1_0, TQ2_0");
}

// A block whose scales are all one and offsets zero, so that values are codes.
struct UnitBlock {
  struct Fill {
    size_t begin, end;
    uint8_t byte;
  };
  GgufType type;
  std::vector<Fill> fills;     // all other bytes are zero
  size_t begin, end;           // where the codes lie
  std::multiset<float> steps;  // what setting each bit of a value's code adds to it

  Bytes Make() const {
    Bytes block = ZeroBlock(type);
    for (const Fill& fill : fills) {
      std::fill(block.begin() + static_cast<ptrdiff_t>(fill.begin),
                block.begin() + static_cast<ptrdiff_t>(fill.end), fill.byte);
    }
    return block;
  }
};

const std::vector<UnitBlock>& UnitBlocks() {
  // d or D = 1 is the bytes 0, 0x3c; s = 33 of 6 bits is the low nibble 1 and the top bits 2.
  static const std::vector<UnitBlock> units = {
      {GgufType::kQ4_0, {{1, 2, 0x3c}}, 2, 18, {1, 2, 4, 8}},
      {GgufType::kQ4_1, {{1, 2, 0x3c}}, 4, 20, {1, 2, 4, 8}},
      {GgufType::kQ5_0, {{1, 2, 0x3c}}, 2, 22, {1, 2, 4, 8, 16}},
      {GgufType::kQ5_1, {{1, 2, 0x3c}}, 4, 24, {1, 2, 4, 8, 16}},
      {GgufType::kQ8_0, {{1, 2, 0x3c}}, 2, 34, {1, 2, 4, 8, 16, 32, 64, -128}},
      {GgufType::kIQ4_NL, {{1, 2, 0x3c}}, 2, 18, {23, 44, 78, 128}},
      {GgufType::kQ2_K, {{81, 82, 0x3c}, {0, 16, 0x01}}, 16, 80, {1, 2}},
      {GgufType::kQ3_K, {{109, 110, 0x3c}, {96, 104, 0x11}, {104, 108, 0xaa}}, 0, 96, {1, 2, 4}},
      {GgufType::kQ4_K, {{1, 2, 0x3c}, {4, 8, 0x01}, {12, 16, 0x01}}, 16, 144, {1, 2, 4, 8}},
      {GgufType::kQ5_K, {{1, 2, 0x3c}, {4, 8, 0x01}, {12, 16, 0x01}}, 16, 176, {1, 2, 4, 8, 16}},
      {GgufType::kQ6_K, {{209, 210, 0x3c}, {192, 208, 0x01}}, 0, 192, {1, 2, 4, 8, 16, 32}},
      {GgufType::kIQ4_XS, {{1, 2, 0x3c}, {2, 4, 0xaa}, {4, 8, 0x11}}, 8, 136, {23, 44, 78, 128}},
      {GgufType::kTQ2_0, {{65, 66, 0x3c}}, 0, 64, {1, 2}},
  };
  return units;
}

// Every bit of the codes moves one value, and every value has each bit once.
TEST(GgufBlocks, EveryBitBelongsToOneValue) {
  for (const UnitBlock& unit : UnitBlocks()) {
    SCOPED_TRACE(GgufTypeName(static_cast<uint32_t>(unit.type)));
    const std::vector<float> zero = Decode(unit.type, unit.Make());
    std::vector<std::multiset<float>> steps(zero.size());
    for (size_t bit = 8 * unit.begin; bit < 8 * unit.end; ++bit) {
      Bytes flipped = unit.Make();
      flipped[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      const std::vector<float> values = Decode(unit.type, flipped);
      int moved = 0;
      for (size_t v = 0; v < values.size(); ++v) {
        if (values[v] == zero[v]) continue;
        ++moved;
        steps[v].insert(values[v] - zero[v]);
      }
      EXPECT_EQ(moved, 1) << "bit " << bit;
    }
    for (size_t v = 0; v < zero.size(); ++v) EXPECT_EQ(steps[v], unit.steps) << "value " << v;
  }
}

// Read off the layouts by hand: first and last values and those beside the seams.
TEST(GgufBlocks, BitsLieWhereTheFormatSays) {
  struct Landmark {
    GgufType type;
    size_t byte;
    int bit;
    size_t value;
    float step;
  };
  const Landmark landmarks[] = {
      {GgufType::kQ4_0, 2, 0, 0, 1},         {GgufType::kQ4_0, 2, 4, 16, 1},
      {GgufType::kQ4_0, 17, 7, 31, 8},       {GgufType::kQ4_1, 4, 3, 0, 8},
      {GgufType::kQ4_1, 19, 4, 31, 1},       {GgufType::kQ5_0, 6, 0, 0, 1},
      {GgufType::kQ5_0, 6, 4, 16, 1},        {GgufType::kQ5_0, 21, 7, 31, 8},
      {GgufType::kQ5_0, 2, 0, 0, 16},        {GgufType::kQ5_0, 3, 1, 9, 16},
      {GgufType::kQ5_0, 5, 7, 31, 16},       {GgufType::kQ5_1, 8, 3, 0, 8},
      {GgufType::kQ5_1, 23, 4, 31, 1},       {GgufType::kQ5_1, 4, 7, 7, 16},
      {GgufType::kQ5_1, 7, 0, 24, 16},       {GgufType::kQ8_0, 2, 6, 0, 64},
      {GgufType::kQ8_0, 33, 7, 31, -128},    {GgufType::kIQ4_NL, 2, 0, 0, 23},
      {GgufType::kIQ4_NL, 2, 4, 16, 23},     {GgufType::kIQ4_NL, 17, 7, 31, 128},
      {GgufType::kQ2_K, 16, 0, 0, 1},        {GgufType::kQ2_K, 16, 3, 32, 2},
      {GgufType::kQ2_K, 17, 6, 97, 1},       {GgufType::kQ2_K, 47, 1, 31, 2},
      {GgufType::kQ2_K, 48, 0, 128, 1},      {GgufType::kQ2_K, 79, 7, 255, 2},
      {GgufType::kQ3_K, 32, 2, 32, 1},       {GgufType::kQ3_K, 64, 0, 128, 1},
      {GgufType::kQ3_K, 95, 7, 255, 2},      {GgufType::kQ3_K, 0, 0, 0, 4},
      {GgufType::kQ3_K, 0, 1, 32, 4},        {GgufType::kQ3_K, 5, 4, 133, 4},
      {GgufType::kQ3_K, 31, 7, 255, 4},      {GgufType::kQ4_K, 16, 0, 0, 1},
      {GgufType::kQ4_K, 16, 4, 32, 1},       {GgufType::kQ4_K, 47, 3, 31, 8},
      {GgufType::kQ4_K, 48, 0, 64, 1},       {GgufType::kQ4_K, 143, 7, 255, 8},
      {GgufType::kQ5_K, 48, 4, 32, 1},       {GgufType::kQ5_K, 80, 0, 64, 1},
      {GgufType::kQ5_K, 175, 7, 255, 8},     {GgufType::kQ5_K, 16, 0, 0, 16},
      {GgufType::kQ5_K, 16, 1, 32, 16},      {GgufType::kQ5_K, 18, 2, 66, 16},
      {GgufType::kQ5_K, 47, 7, 255, 16},     {GgufType::kQ6_K, 0, 4, 64, 1},
      {GgufType::kQ6_K, 64, 0, 128, 1},      {GgufType::kQ6_K, 127, 7, 255, 8},
      {GgufType::kQ6_K, 128, 2, 32, 16},     {GgufType::kQ6_K, 191, 7, 255, 32},
      {GgufType::kIQ4_XS, 8, 4, 16, 23},     {GgufType::kIQ4_XS, 24, 0, 32, 23},
      {GgufType::kIQ4_XS, 135, 7, 255, 128}, {GgufType::kTQ2_0, 0, 2, 32, 1},
      {GgufType::kTQ2_0, 32, 0, 128, 1},     {GgufType::kTQ2_0, 63, 7, 255, 2},
  };
  std::map<GgufType, Bytes> units;
  for (const UnitBlock& unit : UnitBlocks()) units[unit.type] = unit.Make();
  for (const auto& [type, byte, bit, value, step] : landmarks) {
    Bytes block = units.at(type);
    const float before = Decode(type, block)[value];
    block[byte] ^= static_cast<uint8_t>(1 << bit);
    EXPECT_EQ(Decode(type, block)[value] - before, step)
        << GgufTypeName(static_cast<uint32_t>(type)) << " byte " << byte << " bit " << bit;
  }
}

TEST(GgufBlocks, CodeZeroAndOffsets) {
  const std::map<GgufType, float> lowest = {
      {GgufType::kQ4_0, -8},  {GgufType::kQ4_1, 0},   {GgufType::kQ5_0, -16},
      {GgufType::kQ5_1, 0},   {GgufType::kQ8_0, 0},   {GgufType::kIQ4_NL, -127},
      {GgufType::kQ2_K, 0},   {GgufType::kQ3_K, -4},  {GgufType::kQ4_K, 0},
      {GgufType::kQ5_K, 0},   {GgufType::kQ6_K, -32}, {GgufType::kIQ4_XS, -127},
      {GgufType::kTQ2_0, -1},
  };
  for (const UnitBlock& unit : UnitBlocks()) {
    for (const float value : Decode(unit.type, unit.Make())) {
      EXPECT_EQ(value, lowest.at(unit.type)) << GgufTypeName(static_cast<uint32_t>(unit.type));
    }
  }
  for (const GgufType type : {GgufType::kQ4_1, GgufType::kQ5_1}) {  // m = 2
    Bytes block = ZeroBlock(type);
    Put(block, 2, kTwo);
    EXPECT_EQ(Decode(type, block), std::vector<float>(32, 2.0f));
  }
}

TEST(GgufBlocks, ScalesOfQ2_K) {
  Bytes block = ZeroBlock(GgufType::kQ2_K);
  for (size_t group = 0; group < 16; ++group) {
    block[group] = static_cast<uint8_t>(group | (15 - group) << 4);  // s = group, t = 15 - group
  }
  std::fill(block.begin() + 16, block.begin() + 80, uint8_t{0xff});  // q = 3
  Put(block, 80, kOne);
  Put(block, 82, kTwo);
  const std::vector<float> values = Decode(GgufType::kQ2_K, block);
  for (size_t v = 0; v < 256; ++v) {
    const size_t index = v / 16;
    const auto group = static_cast<float>(index);
    EXPECT_EQ(values[v], 3 * group - 2 * (15 - group)) << v;
  }
}

TEST(GgufBlocks, ScalesOfQ3_K) {
  // s = low nibble + 16 top; the nibbles of s_j and s_{j+8} share a byte, the tops of s_j,
  // s_{j+4}, s_{j+8}, s_{j+12} another.
  //   low  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15  2
  //   top  3  0  1  2  2  1  0  3  1  3  2  0  0  2  3  1
  const uint8_t packed[] = {0x91, 0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7, 0x28, 0x1b, 0xb4, 0xe1, 0x4e};
  const float scales[] = {49, 2, 19, 36, 37, 22, 7, 56, 25, 58, 43, 12, 13, 46, 63, 18};
  Bytes block = ZeroBlock(GgufType::kQ3_K);
  Put(block, 96, packed);
  Put(block, 108, kOne);
  const std::vector<float> values = Decode(GgufType::kQ3_K, block);
  for (size_t v = 0; v < 256; ++v) EXPECT_EQ(values[v], (scales[v / 16] - 32) * -4) << v;
}

TEST(GgufBlocks, ScalesOfQ4_KAndQ5_K) {
  //   s   40 41 42 43 44 45 46 47   = 0b10'1000 ...
  //   t   63 58 53 48  7 18 29  9
  const uint8_t packed[] = {0xa8, 0xa9, 0xaa, 0xab, 0x3f, 0x7a, 0x75, 0x30, 0x7c, 0x2d, 0xde, 0x9f};
  const float mins[] = {63, 58, 53, 48, 7, 18, 29, 9};
  for (const GgufType type : {GgufType::kQ4_K, GgufType::kQ5_K}) {
    Bytes block = ZeroBlock(type);
    Put(block, 0, kOne);
    Put(block, 2, kTwo);
    Put(block, 4, packed);
    const size_t nibbles = type == GgufType::kQ4_K ? 16 : 48;
    std::fill(block.begin() + static_cast<ptrdiff_t>(nibbles), block.end(),
              uint8_t{0x33});  // q = 3
    const std::vector<float> values = Decode(type, block);
    for (size_t v = 0; v < 256; ++v) {
      const size_t scale = 40 + v / 32;
      EXPECT_EQ(values[v], 3 * static_cast<float>(scale) - 2 * mins[v / 32]) << v;
    }
  }
}

TEST(GgufBlocks, ScalesOfQ6_KAreSigned) {
  Bytes block = ZeroBlock(GgufType::kQ6_K);
  for (size_t group = 0; group < 16; ++group) {
    block[192 + group] = static_cast<uint8_t>(17 * group);  // 0, 17, ..., -18, -1
  }
  Put(block, 208, kTwo);
  const std::vector<float> values = Decode(GgufType::kQ6_K, block);
  for (size_t v = 0; v < 256; ++v) {
    const auto byte = static_cast<int8_t>(17 * (v / 16));
    EXPECT_EQ(values[v], 2 * static_cast<float>(byte) * -32) << v;
  }
}

TEST(GgufBlocks, ScalesOfIQ4_XS) {
  //   low  1  1  2 15 14  0 15  8
  //   top  2  0  3  1  3  1  2  0   = 0b00'10'01'11'01'11'00'10
  const uint8_t packed[] = {0x72, 0x27, 0x11, 0xf2, 0x0e, 0x8f};
  const float scales[] = {33, 1, 50, 31, 62, 16, 47, 8};
  Bytes block = ZeroBlock(GgufType::kIQ4_XS);
  Put(block, 0, kOne);
  Put(block, 2, packed);
  const std::vector<float> values = Decode(GgufType::kIQ4_XS, block);
  for (size_t v = 0; v < 256; ++v) EXPECT_EQ(values[v], (scales[v / 32] - 32) * -127) << v;
}

TEST(GgufBlocks, LevelsOfIQ4) {
  Bytes block = ZeroBlock(GgufType::kIQ4_NL);
  Put(block, 0, kOne);
  for (size_t i = 0; i < 16; ++i) block[2 + i] = static_cast<uint8_t>(i | (15 - i) << 4);
  const float levels[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  const std::vector<float> values = Decode(GgufType::kIQ4_NL, block);
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(values[i], levels[i]);
    EXPECT_EQ(values[16 + i], levels[15 - i]);
  }
}

// The format's packing, written out: trits t0 ... t4 are the number 81 t0 + 27 t1 + 9 t2 + 3 t3
// + t4, stored as ceil(256 number / 243).
uint8_t PackTrits(const std::array<int, 5>& trits) {
  int number = 0;
  for (const int trit : trits) number = 3 * number + trit;
  return static_cast<uint8_t>(std::ceil(number * 256 / 243.0));
}

TEST(GgufBlocks, TritsOfTQ1_0) {
  EXPECT_EQ(PackTrits({2, 1, 0, 2, 1}), 207);  // 196 of 243
  Bytes block = ZeroBlock(GgufType::kTQ1_0);
  Put(block, 52, kTwo);
  block[0] = 207;
  block[51] = 146;  // 1 2 0 1 and no fifth trit: 138 of 243
  std::vector<float> values = Decode(GgufType::kTQ1_0, block);
  const std::map<size_t, float> expected = {{0, 2},   {32, 0},  {64, -2},  {96, 2},  {128, 0},
                                            {243, 0}, {247, 2}, {251, -2}, {255, 0}, {1, -2}};
  for (const auto& [v, value] : expected) EXPECT_EQ(values[v], value) << v;

  const auto trit = [](size_t v) { return static_cast<int>((v * v + v / 7) % 3); };
  for (size_t i = 0; i < 32; ++i) {
    block[i] = PackTrits({trit(i), trit(32 + i), trit(64 + i), trit(96 + i), trit(128 + i)});
  }
  for (size_t i = 160; i < 176; ++i) {
    block[i - 128] = PackTrits({trit(i), trit(16 + i), trit(32 + i), trit(48 + i), trit(64 + i)});
  }
  for (size_t i = 240; i < 244; ++i) {
    block[i - 192] = PackTrits({trit(i), trit(4 + i), trit(8 + i), trit(12 + i), 0});
  }
  values = Decode(GgufType::kTQ1_0, block);
  for (size_t v = 0; v < 256; ++v) {
    EXPECT_EQ(values[v], 2.0f * static_cast<float>(trit(v) - 1)) << v;
  }
  EXPECT_FALSE(FirstUnsoundBlock(GgufType::kTQ1_0, block.data(), 1));
}

// 243 of the 256 bytes are written by encoders, 81 in the places that have four trits.
TEST(GgufBlocks, BytesThatAreNoTrits) {
  for (const auto& [place, sound] : {std::pair{0, 243}, {47, 243}, {48, 81}, {51, 81}}) {
    std::set<uint8_t> written;
    for (int number = 0; number < 243; number += 243 / sound) {
      written.insert(
          PackTrits({number / 81, number / 27 % 3, number / 9 % 3, number / 3 % 3, number % 3}));
    }
    ASSERT_EQ(written.size(), static_cast<size_t>(sound));
    for (int byte = 0; byte < 256; ++byte) {
      Bytes blocks(3 * 54);
      blocks[54 + static_cast<size_t>(place)] = static_cast<uint8_t>(byte);
      const auto bad = FirstUnsoundBlock(GgufType::kTQ1_0, blocks.data(), 3);
      EXPECT_EQ(bad.has_value(), !written.contains(static_cast<uint8_t>(byte))) << byte;
      if (bad) {
        EXPECT_EQ(*bad, 1u);
      }
    }
  }
}

TEST(GgufBlocks, TheFourthCodeOfTQ2_0) {
  for (int byte = 0; byte < 256; ++byte) {
    Bytes blocks(2 * 66);
    blocks[66 + 63] = static_cast<uint8_t>(byte);
    const bool fourth = byte % 4 == 3 || byte / 4 % 4 == 3 || byte / 16 % 4 == 3 || byte / 64 == 3;
    EXPECT_EQ(FirstUnsoundBlock(GgufType::kTQ2_0, blocks.data(), 2).has_value(), fourth) << byte;
  }
}

TEST(GgufBlocks, OtherTypesHaveNoUnsoundCodes) {
  const Bytes ones(1024, 0xff);
  EXPECT_FALSE(FirstUnsoundBlock(GgufType::kQ4_K, ones.data(), 7));
  EXPECT_FALSE(FirstUnsoundBlock(GgufType::kF32, ones.data(), 256));
}

// Robustness case 26: what a later check finds in the values.
TEST(GgufBlocks, NonFiniteScalesReachEveryValue) {
  const std::pair<GgufType, size_t> places[] = {
      {GgufType::kQ4_0, 0},   {GgufType::kQ4_1, 0},   {GgufType::kQ4_1, 2},
      {GgufType::kQ5_0, 0},   {GgufType::kQ5_1, 0},   {GgufType::kQ5_1, 2},
      {GgufType::kQ8_0, 0},   {GgufType::kQ2_K, 80},  {GgufType::kQ2_K, 82},
      {GgufType::kQ3_K, 108}, {GgufType::kQ4_K, 0},   {GgufType::kQ4_K, 2},
      {GgufType::kQ5_K, 0},   {GgufType::kQ5_K, 2},   {GgufType::kQ6_K, 208},
      {GgufType::kIQ4_NL, 0}, {GgufType::kIQ4_XS, 0}, {GgufType::kTQ1_0, 52},
      {GgufType::kTQ2_0, 64}};
  Random random(1, "blocks");
  for (const auto& [type, place] : places) {
    for (const uint16_t half : {0x7c00, 0xfc00, 0x7c01, 0x7e00, 0xffff}) {
      Bytes block = ZeroBlock(type);
      for (uint8_t& byte : block) byte = static_cast<uint8_t>(random.NextU32());
      block[place] = static_cast<uint8_t>(half & 0xff);
      block[place + 1] = static_cast<uint8_t>(half >> 8);
      for (const float value : Decode(type, block)) {
        ASSERT_FALSE(std::isfinite(value)) << GgufTypeName(static_cast<uint32_t>(type));
      }
    }
  }
}

}  // namespace
}  // namespace tq
