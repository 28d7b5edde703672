// What the benchmarks of products share: times, and the plain read that they stand beside.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "device/executor.h"

namespace tq {

inline double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double Best(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

inline double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Reads `n` bytes by all threads. The result keeps the reads.
inline uint64_t PlainRead(const uint8_t* bytes, uint64_t n, Executor& executor) {
  constexpr uint64_t kGrainBytes = 32768;
  std::atomic<uint64_t> all{0};
  executor.ParallelFor(n / 128, kGrainBytes / 128, [&](size_t begin, size_t end, size_t) {
    uint64_t sums[16] = {};
    const auto* words = reinterpret_cast<const uint64_t*>(bytes);
    for (uint64_t i = 16 * begin; i < 16 * end; i += 16) {
      for (int j = 0; j < 16; ++j) sums[j] ^= words[i + j];
    }
    uint64_t part = 0;
    for (uint64_t sum : sums) part ^= sum;
    all ^= part;
  });
  return all;
}

// Bytes that are gone through in pieces, one after the other and from the beginning again: where
// the next piece of `size` bytes begins.
class Pool {
 public:
  Pool(std::shared_ptr<uint8_t> bytes, uint64_t size) : bytes_(std::move(bytes)), size_(size) {}
  uint8_t* Next(uint64_t size) {
    if (offset_ + size > size_) offset_ = 0;
    uint8_t* next = bytes_.get() + offset_;
    offset_ += size / 4096 * 4096 + 4096;
    return next;
  }
  const std::shared_ptr<uint8_t>& owner() const { return bytes_; }
  uint64_t size() const { return size_; }

 private:
  std::shared_ptr<uint8_t> bytes_;
  uint64_t size_, offset_ = 0;
};

// Bytes without a pattern.
inline void FillAtRandom(uint8_t* bytes, uint64_t n) {
  uint64_t state = 88172645463325252u;
  for (uint64_t i = 0; i + 8 <= n; i += 8) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t mixed = state ^ state >> 32;
    __builtin_memcpy(bytes + i, &mixed, 8);
  }
}

// The results of a benchmark, with what they were measured with: into `file`, "-" for standard
// output.
inline void WriteResults(const std::string& file, const char* benchmark, size_t threads,
                         uint64_t megabytes, const nlohmann::json& results) {
  const nlohmann::json all = {{"benchmark", benchmark},
                              {"threads", threads},
                              {"megabytes", megabytes},
                              {"results", results}};
  if (file == "-") {
    std::cout << all.dump(1) << '\n';
  } else {
    std::ofstream(file) << all.dump(1) << '\n';
  }
}

}  // namespace tq
