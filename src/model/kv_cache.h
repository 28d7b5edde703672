// Keys (after RoPE) and values of all layers in half precision.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "base/checked.h"
#include "base/status.h"
#include "checkpoint/model_config.h"

namespace tq {

class KvCache {
 public:
  // Room for `capacity` positions, reserved as address space: pages become resident only
  // as positions fill them. An error when the size overflows or the system refuses.
  static StatusOr<KvCache> Create(const ModelConfig& config, uint64_t capacity);
  // The same for `layers` of the layers alone (calibration runs one at a time).
  static StatusOr<KvCache> Create(const ModelConfig& config, uint32_t layers, uint64_t capacity);
  // Over memory of NumBytes that was allocated elsewhere, on a device say: then Keys and Values are
  // addresses there.
  static StatusOr<KvCache> Over(std::shared_ptr<uint16_t> memory, const ModelConfig& config,
                                uint32_t layers, uint64_t capacity);
  // The layers of `front`, then those of `back`, both empty and of the same capacity: for a model
  // whose layers run in two places.
  static KvCache Joined(KvCache front, KvCache back);
  // Bytes of such a cache when it is full.
  static StatusOr<uint64_t> NumBytes(const ModelConfig& config, uint32_t layers, uint64_t capacity);

  uint64_t capacity() const { return capacity_; }
  uint64_t length() const { return length_; }
  uint32_t layers() const { return layers_; }
  // After all layers have written n more positions; never beyond the capacity.
  void Advance(uint64_t n);
  // Forgets everything from position `length` on.
  void Truncate(uint64_t length) { length_ = length < length_ ? length : length_; }

  // fp16 of one layer and KV head: room for the capacity, rounded up to kRounding positions, of
  // head_dim values each. How they lie there is a matter of the kernels that use them.
  static constexpr uint64_t kRounding = 16;
  uint16_t* Keys(uint32_t layer, uint32_t head) { return At(2 * layer, head); }
  uint16_t* Values(uint32_t layer, uint32_t head) { return At(2 * layer + 1, head); }
  // Values from one KV head to the next.
  uint64_t head_stride() const { return head_stride_; }
  // Of all positions, whether filled or not.
  uint64_t num_bytes() const { return num_bytes_; }

 private:
  KvCache(std::shared_ptr<uint16_t> memory, uint64_t num_bytes, const ModelConfig& config,
          uint32_t layers, uint64_t capacity)
      : memory_(std::move(memory)),
        front_layers_(layers),
        capacity_(capacity),
        num_bytes_(num_bytes),
        layers_(layers),
        kv_heads_(config.num_kv_heads),
        head_stride_(RoundUp(capacity, kRounding) * config.head_dim) {}

  uint16_t* At(uint64_t slab, uint32_t head) {
    const bool in_front = slab < 2 * front_layers_;
    uint16_t* memory = in_front ? memory_.get() : back_.get();
    if (!in_front) slab -= 2 * front_layers_;
    return memory + (slab * kv_heads_ + head) * head_stride_;
  }

  std::shared_ptr<uint16_t> memory_;  // [front layers, 2, kv_heads, head_stride]
  std::shared_ptr<uint16_t> back_;    // the same of the others, if any
  uint64_t front_layers_ = 0;
  uint64_t capacity_ = 0, length_ = 0;
  uint64_t num_bytes_ = 0;
  uint32_t layers_ = 0, kv_heads_ = 0;
  uint64_t head_stride_ = 0;
};

}  // namespace tq
