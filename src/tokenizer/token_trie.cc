#include "tokenizer/token_trie.h"

#include <algorithm>
#include <cstddef>

namespace tq {

TokenTrie::TokenTrie(std::vector<std::pair<std::string_view, int32_t>> tokens) {
  std::sort(tokens.begin(), tokens.end());
  // The tokens that begin with each node: a range of the sorted list.
  struct Range {
    size_t begin, end;
  };
  // Two levels of the trie are enough to make one from the other.
  std::vector<Range> level = {{0, tokens.size()}}, below;
  bytes_.push_back(0);
  for (size_t depth = 0; !level.empty(); ++depth, level.swap(below)) {
    below.clear();
    for (auto [begin, end] : level) {
      const bool is_token = begin < end && tokens[begin].first.size() == depth;
      tokens_.push_back(is_token && depth > 0 ? tokens[begin].second : -1);
      while (begin < end && tokens[begin].first.size() == depth) ++begin;
      children_.push_back(static_cast<Node>(bytes_.size()));
      while (begin < end) {
        const auto byte = static_cast<uint8_t>(tokens[begin].first[depth]);
        size_t next = begin + 1;
        while (next < end && static_cast<uint8_t>(tokens[next].first[depth]) == byte) ++next;
        bytes_.push_back(byte);
        below.push_back({begin, next});
        begin = next;
      }
    }
  }
  children_.push_back(static_cast<Node>(bytes_.size()));
}

TokenTrie::Node TokenTrie::Next(Node node, uint8_t byte) const {
  const auto first = bytes_.begin() + children_[node];
  const auto last = bytes_.begin() + children_[node + 1];
  const auto found = std::lower_bound(first, last, byte);
  return found != last && *found == byte ? static_cast<Node>(found - bytes_.begin()) : kNone;
}

int32_t TokenTrie::Find(std::string_view text) const {
  Node node = kRoot;
  for (const char byte : text) {
    node = Next(node, static_cast<uint8_t>(byte));
    if (node == kNone) return -1;
  }
  return tokens_[node];
}

}  // namespace tq
