// Bytes between pages without access: a read or write before or past them ends the test, on
// machines without a sanitizer too.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/checked.h"
#include "base/status.h"

namespace tq::testing {

class FencedBytes {
 public:
  // Zeros that end where a page begins, or begin where one ends.
  explicit FencedBytes(size_t size, bool at_end = true)
      : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))),
        mapped_(RoundUp(size, page_) + 2 * page_) {
    void* memory =
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TQ_CHECK(memory != MAP_FAILED);
    memory_ = static_cast<uint8_t*>(memory);
    data_ = at_end ? memory_ + mapped_ - page_ - size : memory_ + page_;
    TQ_CHECK(mprotect(memory_, page_, PROT_NONE) == 0);
    TQ_CHECK(mprotect(memory_ + mapped_ - page_, page_, PROT_NONE) == 0);
  }
  FencedBytes(std::span<const uint8_t> bytes, bool at_end) : FencedBytes(bytes.size(), at_end) {
    std::copy(bytes.begin(), bytes.end(), data_);
  }
  ~FencedBytes() { munmap(memory_, mapped_); }
  FencedBytes(const FencedBytes&) = delete;
  FencedBytes& operator=(const FencedBytes&) = delete;

  uint8_t* data() const { return data_; }
  int8_t* signed_data() const { return reinterpret_cast<int8_t*>(data_); }

 private:
  size_t page_, mapped_;
  uint8_t *memory_, *data_;
};

}  // namespace tq::testing
