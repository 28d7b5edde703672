#include "base/random.h"

#include <cmath>
#include <numbers>

#include "base/hash.h"

namespace tq {

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  // Constants and ten rounds as published.
  constexpr uint32_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kMul0} * counter[0];
    const uint64_t p1 = uint64_t{kMul1} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

Random::Random(uint64_t seed, std::string_view name, uint64_t index) : index_(index) {
  const uint64_t key = HashBytes(name.data(), name.size(), seed).low;
  key_ = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

uint32_t Random::NextU32() {
  if (used_ == 4) {
    words_ = Philox4x32({static_cast<uint32_t>(block_), static_cast<uint32_t>(block_ >> 32),
                         static_cast<uint32_t>(index_), static_cast<uint32_t>(index_ >> 32)},
                        key_);
    ++block_;
    used_ = 0;
  }
  return words_[used_++];
}

uint64_t Random::NextU64() {
  const uint64_t low = NextU32();
  return low | (uint64_t{NextU32()} << 32);
}

double Random::NextUniform() { return static_cast<double>(NextU64() >> 11) * 0x1p-53; }

uint64_t Random::NextBelow(uint64_t n) {
  // Rejects the incomplete last multiple of n, so that all values are equally likely.
  const uint64_t limit = -n % n;
  uint64_t value;
  do {
    value = NextU64();
  } while (value < limit);
  return value % n;
}

double Random::NextNormal() {
  const double u = 1.0 - NextUniform();  // in (0, 1], so that the logarithm is finite
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * NextUniform());
}

}  // namespace tq
