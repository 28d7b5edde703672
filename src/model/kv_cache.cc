#include "model/kv_cache.h"

#include <sys/mman.h>

#include <array>

#include "base/checked.h"

namespace tq {

StatusOr<KvCache> KvCache::Create(const ModelConfig& config, uint64_t capacity) {
  return Create(config, config.num_layers, capacity);
}

StatusOr<uint64_t> KvCache::NumBytes(const ModelConfig& config, uint32_t layers,
                                     uint64_t capacity) {
  // Blocks of positions, so that rounding up does not overflow.
  const uint64_t blocks = capacity / kRounding + (capacity % kRounding != 0);
  const std::array<uint64_t, 5> sizes{layers, config.num_kv_heads, blocks, kRounding,
                                      config.head_dim};
  const auto per_part = CheckedProduct(sizes);
  const auto bytes =
      per_part ? CheckedMul<uint64_t>(*per_part, 2 * sizeof(uint16_t)) : std::nullopt;
  if (!bytes || *bytes == 0) {
    return InvalidArgument(
        "KV cache: {} layers x {} heads x {} positions x {} values is not a usable size", layers,
        config.num_kv_heads, capacity, config.head_dim);
  }
  return *bytes;
}

StatusOr<KvCache> KvCache::Create(const ModelConfig& config, uint32_t layers, uint64_t capacity) {
  TQ_ASSIGN_OR_RETURN(const uint64_t bytes, NumBytes(config, layers, capacity));
  // MAP_NORESERVE: a long context costs nothing until it is used.
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return ResourceExhausted("KV cache: cannot reserve {} bytes for {} positions", bytes, capacity);
  }
  // A layer's heads lie far apart; huge pages would make 2 MiB resident for each of them
  // at the first token. Advice only: a kernel without huge pages may refuse.
  (void)madvise(memory, bytes, MADV_NOHUGEPAGE);

  return KvCache(std::shared_ptr<uint16_t>(static_cast<uint16_t*>(memory),
                                           [bytes](uint16_t* p) { munmap(p, bytes); }),
                 bytes, config, layers, capacity);
}

StatusOr<KvCache> KvCache::Over(std::shared_ptr<uint16_t> memory, const ModelConfig& config,
                                uint32_t layers, uint64_t capacity) {
  TQ_ASSIGN_OR_RETURN(const uint64_t bytes, NumBytes(config, layers, capacity));
  return KvCache(std::move(memory), bytes, config, layers, capacity);
}

KvCache KvCache::Joined(KvCache front, KvCache back) {
  TQ_CHECK(front.capacity_ == back.capacity_ && front.length_ == 0 && back.length_ == 0 &&
           front.kv_heads_ == back.kv_heads_ && front.head_stride_ == back.head_stride_ &&
           front.back_ == nullptr && back.back_ == nullptr);
  front.back_ = std::move(back.memory_);
  front.layers_ += back.layers_;
  front.num_bytes_ += back.num_bytes_;
  return front;
}

void KvCache::Advance(uint64_t n) {
  TQ_CHECK(n <= capacity_ - length_);
  length_ += n;
}

}  // namespace tq
