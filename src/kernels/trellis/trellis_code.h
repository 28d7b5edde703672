// The bit layout of a trellis-coded tile: defined here once, for every encoder and
// decoder on every device. docs/format.md argues it; golden files pin it.
//
// A code (V, k) emits V values per step from a state of L = 16 (or 12) bits; a step shifts in k new
// bits. A tile is one circular (tail-biting) stream of 32 * windows steps. The stream
// is cut into 32 lanes of `words` 16-bit words; lane i is thread i of a tensor-core
// mma.m16n8k32 fragment, and its windows are its A registers, in order:
//
//   step n = lane * windows + j,  state s_n = bits [n*k, n*k + L) of the stream, least
//   significant bit first, modulo the stream's 32 * words * 16 bits. So the low L - k bits
//   of s_{n+1} are the high L - k bits of s_n: s_{n+1} = s_n >> k | new << (L - k).
//
// Stored planar: word q of lane i at byte 64*q + 2*i of the tile, little-endian, so
// that a CPU loads 32 lanes with one 64-byte load.
//
// Which row and columns a window covers is TileRow() and TileColumn() below: with
// g = t / 4 and c = t % 4, register r = j % 4 of lane t is row g + 8 * (r % 2) and the
// V columns from V * c + 4 * V * (r / 2) of its fragment.
#pragma once

#include <cstdint>

namespace tq::trellis {

inline constexpr uint32_t kMultiplier = 0x83DCD12Du;
inline constexpr int kLanes = 32;
// Standard deviation of a decoded integer over all states, about: the sum of four
// bytes, each uniform over 256 values: sqrt(4 * (256^2 - 1) / 12).
inline constexpr double kValueSigma = 147.80;

// One native rate: values per step, bits per step, bits of the state (L).
struct Code {
  int values = 2;       // V: 1, 2 or 4
  int bits = 4;         // k
  int state_bits = 16;  // L: 16, or 12 for codes made fast; the window's low bits are the state
  bool operator==(const Code&) const = default;
  constexpr double rate() const { return static_cast<double>(bits) / values; }
};

// Geometry of a tile of a code.
struct TileShape {
  int words;    // 16-bit words per lane
  int windows;  // states per lane
  int rows;     // multiple of 16
  int columns;  // 16, or 32 for V = 4: the block of the Hessian feedback
  constexpr int steps() const { return kLanes * windows; }
  constexpr int bytes() const { return kLanes * words * 2; }
  constexpr int values() const { return rows * columns; }
};

// A lane must hold whole 16-bit words and whole fragments of 4 windows; the rows
// grow, never the columns, so that the Hessian feedback stays fine-grained.
constexpr TileShape ShapeOf(Code code) {
  // Fewest words with words * 16 divisible by 4 * bits, and, for V = 1, two fragments
  // (2 x 8 columns) for the 16 columns.
  int words = 1;
  while (16 * words % code.bits != 0) ++words;
  int windows = 16 * words / code.bits;
  while (windows % 4 != 0 || (code.values == 1 && windows % 8 != 0)) {
    words *= 2;
    windows *= 2;
  }
  const int columns = code.values == 4 ? 32 : 16;
  return {words, windows, kLanes * windows * code.values / columns, columns};
}

// Row and first column (of `values` neighbours) inside the tile of window j of a lane.
// An mma fragment covers 16 rows and 32 bytes of K: 8 * V columns. For V = 1 two
// consecutive fragments lie side by side in 16 columns.
constexpr int TileRow(Code code, int lane, int window) {
  const int fragments_across = code.values == 1 ? 2 : 1;
  return 16 * (window / 4 / fragments_across) + lane / 4 + 8 * (window % 2);
}
constexpr int TileColumn(Code code, int lane, int window) {
  const int fragment = code.values == 1 ? (window / 4) % 2 : 0;
  return 8 * fragment + 4 * code.values * ((window / 2) % 2) + code.values * (lane % 4);
}

// The values of a state: four bytes u0..u3 of the hash, least significant first,
//   V = 1: u0+u1+u2+u3 - 510
//   V = 2: that, u0-u1+u2-u3
//   V = 4: that, u0-u1+u2-u3, u0+u1-u2-u3, u0-u1-u2+u3
constexpr void DecodeState(Code code, uint32_t state, int* values) {
  const uint32_t h = state * kMultiplier;
  const int u0 = h & 255, u1 = (h >> 8) & 255, u2 = (h >> 16) & 255, u3 = h >> 24;
  values[0] = u0 + u1 + u2 + u3 - 510;
  if (code.values >= 2) values[1] = u0 - u1 + u2 - u3;
  if (code.values == 4) {
    values[2] = u0 + u1 - u2 - u3;
    values[3] = u0 - u1 - u2 + u3;
  }
}

// State of step n of a tile (reads two or three of the tile's bytes).
constexpr uint32_t StateAt(const uint8_t* tile, Code code, int step) {
  const TileShape shape = ShapeOf(code);
  const int total_words = kLanes * shape.words;
  const int bit = step * code.bits;
  const auto word = [&](int w) -> uint32_t {
    w %= total_words;
    const int at = 64 * (w % shape.words) + 2 * (w / shape.words);
    return tile[at] | uint32_t{tile[at + 1]} << 8;
  };
  const uint32_t two = word(bit / 16) | word(bit / 16 + 1) << 16;
  return (two >> (bit % 16)) & ((1u << code.state_bits) - 1);
}

// The native codes, by rate.
inline constexpr Code kNativeCodes[] = {{4, 2}, {4, 3}, {2, 2}, {2, 3}, {2, 4}, {2, 5},
                                        {1, 3}, {1, 4}, {1, 5}, {1, 6}, {1, 8}};

// All that we decode, at L = 16 and at L = 12: the native codes and V = 1 at 2 bits (a
// little less error than V = 2 there, decoded more slowly).
inline constexpr Code kSupportedCodes[] = {{4, 2}, {4, 3}, {2, 2}, {2, 3}, {2, 4}, {2, 5},
                                           {1, 2}, {1, 3}, {1, 4}, {1, 5}, {1, 6}, {1, 8}};

// Whether a code read from a file is one of them.
constexpr bool IsSupported(Code code) {
  if (code.state_bits != 16 && code.state_bits != 12) return false;
  code.state_bits = 16;
  for (Code supported : kSupportedCodes) {
    if (code == supported) return true;
  }
  return false;
}

}  // namespace tq::trellis
