#include "model/kv_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <vector>

namespace tq {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.num_layers = 3;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  return config;
}

uint64_t ResidentBytes() {
  uint64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

void ExpectPartsDoNotOverlap(KvCache& cache) {
  EXPECT_EQ(cache.layers(), 3u);
  EXPECT_EQ(cache.capacity(), 5u);
  EXPECT_EQ(cache.num_bytes(), 2u * 3 * 2 * 16 * 4 * 2);
  for (uint16_t layer = 0; layer < 3; ++layer) {
    for (uint16_t head = 0; head < 2; ++head) {
      for (uint64_t i = 0; i < cache.head_stride(); ++i) {
        EXPECT_EQ(cache.Keys(layer, head)[i], 0);
        cache.Keys(layer, head)[i] = 100 + 10 * layer + head;
        cache.Values(layer, head)[i] = 200 + 10 * layer + head;
      }
    }
  }
  for (uint16_t layer = 0; layer < 3; ++layer) {
    for (uint16_t head = 0; head < 2; ++head) {
      for (uint64_t i = 0; i < cache.head_stride(); ++i) {
        ASSERT_EQ(cache.Keys(layer, head)[i], 100 + 10 * layer + head);
        ASSERT_EQ(cache.Values(layer, head)[i], 200 + 10 * layer + head);
      }
    }
  }
}

TEST(KvCache, PartsDoNotOverlap) {
  KvCache cache = *KvCache::Create(Config(), 5);
  ExpectPartsDoNotOverlap(cache);
}

TEST(KvCache, JoinedPartsDoNotOverlap) {
  for (const uint32_t front : {1, 2}) {
    std::vector<uint16_t> memory(*KvCache::NumBytes(Config(), front, 5) / sizeof(uint16_t));
    const std::shared_ptr<uint16_t> not_owned(memory.data(), [](uint16_t*) {});
    KvCache cache = KvCache::Joined(*KvCache::Over(not_owned, Config(), front, 5),
                                    *KvCache::Create(Config(), 3 - front, 5));
    ExpectPartsDoNotOverlap(cache);
    EXPECT_EQ(cache.Keys(0, 0), memory.data());
    EXPECT_EQ(cache.Values(front - 1, 1) + cache.head_stride(), memory.data() + memory.size());
    EXPECT_EQ(memory.back(), 200 + 10 * (front - 1) + 1);
  }
  EXPECT_DEATH(KvCache::Joined(*KvCache::Create(Config(), 1, 5), *KvCache::Create(Config(), 2, 6)),
               "capacity_");
}

TEST(KvCache, LengthStaysWithinCapacity) {
  KvCache cache = *KvCache::Create(Config(), 5);
  cache.Advance(5);
  EXPECT_EQ(cache.length(), 5u);
  cache.Truncate(9);
  EXPECT_EQ(cache.length(), 5u);
  cache.Truncate(2);
  EXPECT_EQ(cache.length(), 2u);
  EXPECT_DEATH(cache.Advance(4), "capacity_");
}

TEST(KvCache, RefusesUnusableSizes) {
  EXPECT_FALSE(KvCache::Create(Config(), 0).ok());
  EXPECT_FALSE(KvCache::Create(Config(), std::numeric_limits<uint64_t>::max()).ok());
  EXPECT_FALSE(KvCache::Create(Config(), uint64_t{1} << 58).ok());
  ModelConfig wide = Config();
  wide.num_layers = wide.num_kv_heads = wide.head_dim = 4000000000u;
  EXPECT_FALSE(KvCache::Create(wide, 4000000000u).ok());
}

TEST(KvCache, MemoryFollowsUse) {
  ModelConfig config;
  config.num_layers = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  const uint64_t before = ResidentBytes();
  KvCache cache = *KvCache::Create(config, 131072);  // 16 GiB
  for (uint32_t layer = 0; layer < 32; ++layer) {
    for (uint32_t head = 0; head < 8; ++head) {
      std::memset(cache.Keys(layer, head), 1, 256);
      std::memset(cache.Values(layer, head), 1, 256);
    }
  }
  // One page for each layer, head and part, where huge pages would make it 1 GiB.
  EXPECT_LT(ResidentBytes() - before, uint64_t{16} << 20);
}

}  // namespace
}  // namespace tq
