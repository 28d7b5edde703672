// Content hashes (XXH3, 128 bits): they catch damage and name cached work; they
// are no defence against somebody who forges a collision.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace tq {

struct Hash128 {
  uint64_t low = 0, high = 0;
  bool operator==(const Hash128&) const = default;
  // 32 lower-case hexadecimal digits, high half first.
  std::string Hex() const;
};

Hash128 HashBytes(const void* data, size_t size, uint64_t seed = 0);

// The same hash over pieces.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;

  void Update(const void* data, size_t size);
  // Length first, so that ("ab", "c") and ("a", "bc") differ.
  void UpdateString(std::string_view text);
  Hash128 Digest() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tq
