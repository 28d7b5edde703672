// Finds the id of a token's text. Open addressing over the tokens themselves: 4 to 8
// bytes per token beside them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tq {

class TokenIndex {
 public:
  // `tokens` must outlive the index and stay unchanged. An error names two ids with the
  // same text.
  static StatusOr<TokenIndex> Create(const std::vector<std::string>& tokens);

  // -1: none.
  int32_t Find(std::string_view text) const;

 private:
  explicit TokenIndex(const std::vector<std::string>& tokens) : tokens_(&tokens) {}
  // The slot that holds `text`, or the empty one where it belongs.
  size_t Slot(std::string_view text) const;

  const std::vector<std::string>* tokens_;
  std::vector<int32_t> slots_;  // a power of two of them, at most half full; -1: empty
};

}  // namespace tq
