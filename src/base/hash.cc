#include "base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include "base/status.h"

namespace tq {

std::string Hash128::Hex() const { return fmt::format("{:016x}{:016x}", high, low); }

Hash128 HashBytes(const void* data, size_t size, uint64_t seed) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(data, size, seed);
  return {hash.low64, hash.high64};
}

struct Hasher::Impl {
  XXH3_state_t* state = XXH3_createState();
  ~Impl() { XXH3_freeState(state); }
};

Hasher::Hasher() : impl_(std::make_unique<Impl>()) {
  TQ_CHECK(impl_->state != nullptr);
  XXH3_128bits_reset(impl_->state);
}
Hasher::~Hasher() = default;

void Hasher::Update(const void* data, size_t size) {
  XXH3_128bits_update(impl_->state, data, size);
}

void Hasher::UpdateString(std::string_view text) {
  const uint64_t size = text.size();
  Update(&size, sizeof(size));
  Update(text.data(), text.size());
}

Hash128 Hasher::Digest() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(impl_->state);
  return {hash.low64, hash.high64};
}

}  // namespace tq
