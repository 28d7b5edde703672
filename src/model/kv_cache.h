// Keys (after RoPE) and values of all layers in half precision.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "tensor/tensor.h"

namespace tq {

class KvCache {
 public:
  // Room for `capacity` positions; memory is touched only as it fills.
  static StatusOr<KvCache> Create(const ModelConfig& config, uint64_t capacity);

  uint64_t capacity() const { return capacity_; }
  uint64_t length() const { return length_; }
  void Advance(uint64_t n) { length_ += n; }
  // Forgets everything from position `length` on.
  void Truncate(uint64_t length) { length_ = length < length_ ? length : length_; }

  // fp16 [capacity, head_dim] of one layer and KV head.
  uint16_t* Keys(uint32_t layer, uint32_t head);
  uint16_t* Values(uint32_t layer, uint32_t head);
  uint64_t num_bytes() const { return 2 * per_part_ * sizeof(uint16_t); }

 private:
  std::shared_ptr<uint8_t> memory_;
  uint64_t capacity_ = 0, length_ = 0, per_part_ = 0;
  uint32_t kv_heads_ = 0, head_dim_ = 0;
};

}  // namespace tq
