// What the x86 levels share, whatever their vectors' width; included by each inside its anonymous
// namespace. `S` is the level's own struct.

// How 16 codes of a width that divides no byte lie in 2 * bits bytes: pairs of bytes for 16-bit
// lanes, and what moves a code of them to the top of its lane.
struct CodePlaces {
  alignas(16) uint8_t bytes[16];
  alignas(16) uint16_t factor[8];
};
// Codes first, first + 2, ...
constexpr CodePlaces PlacesOf(int bits, int first) {
  CodePlaces places = {};
  for (int i = 0; i < 8; ++i) {
    const int bit = (2 * i + first) * bits;
    places.bytes[2 * i] = static_cast<uint8_t>(bit / 8);
    places.bytes[2 * i + 1] = static_cast<uint8_t>(bit / 8 + 1);
    places.factor[i] = static_cast<uint16_t>(1 << (16 - bits - bit % 8));
  }
  return places;
}
template <int kBits>
constexpr CodePlaces kEvenPlaces = PlacesOf(kBits, 0);
template <int kBits>
constexpr CodePlaces kOddPlaces = PlacesOf(kBits, 1);

template <typename S>
struct SimdX86 {
  // Codes of 4 bits: low halves of bytes are even columns.
  TQ_INLINE static void UnpackHalves(const uint8_t* codes, auto(&parts)[2]) {
    const auto v = S::Load(codes);
    parts[0] = S::And(v, S::Set8(15));
    parts[1] = S::And(S::template ShiftRight16<4>(v), S::Set8(15));
  }
  TQ_INLINE static void UnpackQuarters(const uint8_t* codes, auto(&parts)[4]) {
    const auto v = S::Load(codes);
    parts[0] = S::And(v, S::Set8(3));
    parts[1] = S::And(S::template ShiftRight16<2>(v), S::Set8(3));
    parts[2] = S::And(S::template ShiftRight16<4>(v), S::Set8(3));
    parts[3] = S::And(S::template ShiftRight16<6>(v), S::Set8(3));
  }
  // Of 3, 5, 6 and 7 bits: 16 codes from 16 bytes in each group of lanes, those of even columns and
  // of odd ones apart.
  template <int kBits>
  TQ_INLINE static auto Unpack16(const uint8_t* codes) {
    constexpr int kPieceBytes = kBlockColumns * kBits / 8;  // from block to block
    const CodePlaces &even = kEvenPlaces<kBits>, &odd = kOddPlaces<kBits>;
    const auto v = S::template LoadPieces<kPieceBytes>(codes);
    const auto low = S::template ShiftRight16<16 - kBits>(
        S::MulLow16(S::ShuffleBytes(v, S::Repeat(even.bytes)), S::Repeat(even.factor)));
    const auto high = S::template ShiftRight16<8 - kBits>(
        S::MulLow16(S::ShuffleBytes(v, S::Repeat(odd.bytes)), S::Repeat(odd.factor)));
    return S::Or(low, S::And(high, S::Set16(0xff00)));
  }
  // What Unpack16 reads behind a step's codes.
  static constexpr int Overread16(int bits) {
    return bits == 2 || bits == 4 || bits == 8 ? 0 : 16 - 2 * bits;
  }

  // [block][4 rows] of 4 lanes a block.
  TQ_INLINE static auto AddUpFours(const auto(&sums)[4]) {
    return S::AddNeighbours(S::AddNeighbours(sums[0], sums[1]), S::AddNeighbours(sums[2], sums[3]));
  }
  // The same of 2 lanes a block: blocks of even number, and of odd.
  TQ_INLINE static void AddUpPairs(const auto(&sums)[4], auto(&whole)[2]) {
    const auto first = S::AddNeighbours(sums[0], sums[1]);
    const auto second = S::AddNeighbours(sums[2], sums[3]);
    whole[0] = S::EvenLanes(first, second);
    whole[1] = S::OddLanes(first, second);
  }
};
