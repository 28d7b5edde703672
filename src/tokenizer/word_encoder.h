// What a model of tokens does: words to ids.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace tq {

// Safe to use from several threads at once.
class WordEncoder {
 public:
  virtual ~WordEncoder() = default;
  // Appends the ids of the words, each encoded alone. Words are any bytes, none empty.
  virtual void Encode(std::span<const std::string_view> words, std::vector<int32_t>& ids) const = 0;
};

}  // namespace tq
