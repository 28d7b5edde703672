// Tokens by their bytes, one byte at a time: which of them a text starts with.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace tq {

// 9 bytes for each distinct beginning of a token.
class TokenTrie {
 public:
  using Node = uint32_t;
  static constexpr Node kRoot = 0;
  static constexpr Node kNone = UINT32_MAX;

  // Texts that are not empty; of equal ones the one with the lowest id counts. They need
  // not outlive this.
  explicit TokenTrie(std::vector<std::pair<std::string_view, int32_t>> tokens);

  // The node of a text that is one byte longer, or kNone.
  Node Next(Node node, uint8_t byte) const;
  // The token that ends here; -1: none.
  int32_t Token(Node node) const { return tokens_[node]; }
  // The token that is this text; -1: none.
  int32_t Find(std::string_view text) const;

 private:
  // Nodes breadth first, so that the children of a node lie side by side, ascending by byte,
  // and those of the next node behind them.
  std::vector<Node> children_;  // the first child of each node, and one more
  std::vector<uint8_t> bytes_;  // the last byte of each node
  std::vector<int32_t> tokens_;
};

}  // namespace tq
