// What the x86 levels share, whatever their vectors' width; included by each inside its anonymous
// namespace. `S` is the level's own struct.

template <typename S>
struct SimdX86 {
  // The halves of the hash of every lane: with M_low the low half of M,
  //   low  = s * M mod 2^16,   high = s * (M >> 16) + (s * M_low >> 16)
  TQ_INLINE static void HashHalves(auto state, auto& low, auto& high) {
    const auto low_factor = S::Set16(static_cast<int>(kMultiplier & 0xffff));
    const auto high_factor = S::Set16(static_cast<int>(kMultiplier >> 16));
    low = S::MulLow(state, low_factor);
    high = S::Add16(S::MulLow(state, high_factor), S::MulHigh(state, low_factor));
  }
  // What sums of products with unsigned bytes begin with.
  TQ_INLINE static auto Start(const ScaleGroup& scale) {
    return S::Broadcast(reinterpret_cast<const uint8_t*>(scale.start));
  }
};
