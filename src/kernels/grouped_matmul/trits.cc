#include "kernels/grouped_matmul/trits.h"

#include <algorithm>

namespace tq::grouped {

void PackTrits(const uint8_t* q, size_t cols, uint8_t* bytes) {
  for (size_t begin = 0; begin < cols; begin += kChunkColumns) {
    const size_t n = std::min(kChunkColumns, cols - begin), width = TritBytes(n);
    for (size_t j = 0; j < width; ++j) {
      int v = 0;
      for (size_t column = j; column < kTritsPerByte * width; column += width) {
        v = 3 * v + (column < n ? q[begin + column] : 1);
      }
      *bytes++ = static_cast<uint8_t>((256 * v + 242) / 243);
    }
  }
}

void UnpackTrits(const uint8_t* bytes, size_t cols, uint8_t* q) {
  for (size_t begin = 0; begin < cols; begin += kChunkColumns) {
    const size_t n = std::min(kChunkColumns, cols - begin), width = TritBytes(n);
    for (size_t place = 0; place * width < n; ++place) {
      const size_t first = place * width, count = std::min(width, n - first);
      for (size_t j = 0; j < count; ++j) q[begin + first + j] = TritOf(bytes[j], place);
    }
    bytes += width;
  }
}

}  // namespace tq::grouped
