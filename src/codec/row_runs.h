// Pieces of several matrices as one loop: their numbers in a row, cut up again by matrix.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tq {

class RowRuns {
 public:
  // The next matrix has so many pieces.
  void Add(uint64_t pieces) { starts_.push_back(starts_.back() + pieces); }
  uint64_t total() const { return starts_.back(); }

  // Calls body(matrix, first, count) for runs of up to `most` pieces of one matrix that cover
  // [begin, end).
  template <class Body>
  void ForRuns(uint64_t begin, uint64_t end, uint64_t most, const Body& body) const {
    size_t i = 0;
    while (begin < end) {
      while (begin >= starts_[i + 1]) ++i;
      const uint64_t count = std::min({most, end - begin, starts_[i + 1] - begin});
      body(i, begin - starts_[i], count);
      begin += count;
    }
  }

 private:
  std::vector<uint64_t> starts_ = {0};  // of each matrix, and of all
};

}  // namespace tq
