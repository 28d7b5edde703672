// Golden tiles: one per code, its bytes and what they decode to, kept in
// tests/golden/codec. They pin the format for every decoder, and the encoder's choices.
//
// A file holds the tile's bytes, then the decoded integers [rows, columns] as int16,
// little-endian. TQ_UPDATE_GOLDEN=1 writes the files anew.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "base/random.h"
#include "codec/tile_map.h"
#include "codec/trellis_encoder.h"

namespace tq {
namespace {

using trellis::Code;
using trellis::TileShape;

std::string Path(Code code) {
  return fmt::format("{}/v{}k{}l{}.bin", TQ_GOLDEN_DIR, code.values, code.bits, code.state_bits);
}

// Sums of bytes, scaled: nearly Gaussian, and the same on every machine.
std::vector<float> Input(Code code) {
  Random random(2024, "golden tile", code.values * 100 + code.bits);
  std::vector<float> tile(trellis::ShapeOf(code).values());
  for (float& value : tile) {
    int sum = -510;
    for (int i = 0; i < 4; ++i) sum += static_cast<int>(random.NextBelow(256));
    value = static_cast<float>(sum) * 0.9375f;
  }
  return tile;
}

std::string EncodeGolden(Code code) {
  auto encoder = TrellisEncoder::Create(code);
  auto scratch = encoder->MakeScratch();
  const TileShape shape = encoder->shape();
  std::vector<float> tile = Input(code);
  std::string bytes(shape.bytes(), '\0');
  encoder->Encode(tile.data(), 1, *scratch, reinterpret_cast<uint8_t*>(bytes.data()), tile.data());
  for (float value : tile) {
    const int integer = static_cast<int>(value);
    bytes.push_back(static_cast<char>(integer & 255));
    bytes.push_back(static_cast<char>(integer >> 8 & 255));
  }
  return bytes;
}

class Golden : public testing::TestWithParam<Code> {};

TEST_P(Golden, TileDecodesAsWritten) {
  const Code code = GetParam();
  const TileShape shape = trellis::ShapeOf(code);
  if (std::getenv("TQ_UPDATE_GOLDEN") != nullptr) {
    const Status written = WriteFileAtomically(Path(code), EncodeGolden(code));
    ASSERT_TRUE(written.ok()) << written.message();
  }
  const auto file = ReadFile(Path(code), 1 << 16);
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ(file->size(), static_cast<size_t>(shape.bytes() + 2 * shape.values()));
  const auto* tile = reinterpret_cast<const uint8_t*>(file->data());
  const uint8_t* integers = tile + shape.bytes();
  const auto expected = [&](int row, int column) {
    const uint8_t* at = integers + 2 * (row * shape.columns + column);
    return static_cast<int16_t>(at[0] | at[1] << 8);
  };
  for (int step = 0; step < shape.steps(); ++step) {
    const int lane = step / shape.windows, window = step % shape.windows;
    int values[4];
    trellis::DecodeState(code, trellis::StateAt(tile, code, step), values);
    for (int v = 0; v < code.values; ++v) {
      ASSERT_EQ(values[v], expected(trellis::TileRow(code, lane, window),
                                    trellis::TileColumn(code, lane, window) + v))
          << "step " << step;
    }
  }
  std::vector<float> row(shape.columns);
  for (int r = 0; r < shape.rows; ++r) {
    DecodeTileRow(TileMapOf(code), tile, r, shape.columns, 1, row.data());
    for (int c = 0; c < shape.columns; ++c) ASSERT_EQ(row[c], expected(r, c)) << r << " " << c;
  }
}

TEST_P(Golden, EncoderStillMakesTheTile) {
  const auto file = ReadFile(Path(GetParam()), 1 << 16);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_TRUE(EncodeGolden(GetParam()) == *file);
}

// Every code at both lengths of the state.
std::vector<Code> AllCodes() {
  std::vector<Code> codes;
  for (const int state_bits : {16, 12}) {
    for (Code code : trellis::kSupportedCodes) {
      code.state_bits = state_bits;
      codes.push_back(code);
    }
  }
  return codes;
}

INSTANTIATE_TEST_SUITE_P(Codes, Golden, testing::ValuesIn(AllCodes()), [](const auto& info) {
  return fmt::format("V{}k{}L{}", info.param.values, info.param.bits, info.param.state_bits);
});

}  // namespace
}  // namespace tq
