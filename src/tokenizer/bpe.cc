#include "tokenizer/bpe.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace tq {
namespace {

// Positions are 32-bit; longer words (a gigabyte without a space) are cut.
constexpr size_t kMaxTokens = size_t{1} << 30;

constexpr uint32_t kEnd = UINT32_MAX;

}  // namespace

StatusOr<MergeTable> MergeTable::Create(std::span<const TokenMerge> merges, size_t vocabulary,
                                        bool tie, std::span<const int32_t> tied) {
  MergeTable table;
  table.ranks_.resize(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const bool ties = tie && i > 0 &&
                      (merges[i].result == merges[i - 1].result ||
                       std::binary_search(tied.begin(), tied.end(), merges[i].result));
    table.ranks_[i] = ties ? table.ranks_[i - 1] : static_cast<uint32_t>(i);
  }
  std::vector<uint32_t> order(merges.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return std::pair(merges[a].left, merges[a].right) < std::pair(merges[b].left, merges[b].right);
  });
  table.begin_.assign(vocabulary + 1, 0);
  table.rights_.reserve(merges.size());
  table.places_.reserve(merges.size());
  table.results_.reserve(merges.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const TokenMerge& merge = merges[order[i]];
    if (i > 0) {
      const TokenMerge& before = merges[order[i - 1]];
      if (before.left == merge.left && before.right == merge.right) {
        return InvalidArgument("merges {} and {} are of the same pair of tokens, {} and {}",
                               std::min(order[i - 1], order[i]), std::max(order[i - 1], order[i]),
                               merge.left, merge.right);
      }
    }
    ++table.begin_[static_cast<size_t>(merge.left) + 1];
    table.rights_.push_back(merge.right);
    table.places_.push_back(order[i]);
  }
  std::partial_sum(table.begin_.begin(), table.begin_.end(), table.begin_.begin());
  for (const TokenMerge& merge : merges) table.results_.push_back(merge.result);
  return table;
}

uint32_t MergeTable::Find(int32_t left, int32_t right) const {
  const auto first = rights_.begin() + begin_[static_cast<size_t>(left)];
  const auto last = rights_.begin() + begin_[static_cast<size_t>(left) + 1];
  const auto found = std::lower_bound(first, last, right);
  return found != last && *found == right ? places_[static_cast<size_t>(found - rights_.begin())]
                                          : kNone;
}

// The word is a doubly linked list over its first positions: merging a pair keeps the left
// position and unlinks the right one. `merges` holds the merge of the pair that starts at each
// position; the heap holds (rank, position) of every pair that ever was, and an entry is
// stale when the merge at its position has another rank by now.
void MergeTokens(const MergeTable& table, BpeScratch& scratch, std::vector<int32_t>& ids) {
  auto& tokens = scratch.tokens;
  auto& next = scratch.next;
  auto& previous = scratch.previous;
  auto& merges = scratch.merges;
  auto& heap = scratch.heap;
  const auto size = static_cast<uint32_t>(tokens.size());
  if (size < 2) {
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    return;
  }
  next.resize(size);
  previous.resize(size);
  merges.resize(size);
  heap.clear();
  // Whether the pair at `at` can be merged; then the heap gets it, at its end.
  const auto append = [&](uint32_t at) {
    merges[at] = next[at] == kEnd ? MergeTable::kNone : table.Find(tokens[at], tokens[next[at]]);
    if (merges[at] == MergeTable::kNone) return false;
    heap.push_back(uint64_t{table.Rank(merges[at])} << 32 | at);
    return true;
  };
  for (uint32_t i = 0; i < size; ++i) {
    next[i] = i + 1 < size ? i + 1 : kEnd;
    previous[i] = i > 0 ? i - 1 : kEnd;
    append(i);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());

  const auto update = [&](uint32_t at) {
    if (append(at)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto at = static_cast<uint32_t>(heap.back());
    heap.pop_back();
    if (merges[at] == MergeTable::kNone || table.Rank(merges[at]) != rank) continue;
    const uint32_t eaten = next[at];
    tokens[at] = table.Result(merges[at]);
    merges[eaten] = MergeTable::kNone;
    next[at] = next[eaten];
    if (next[at] != kEnd) previous[next[at]] = at;
    update(at);
    if (previous[at] != kEnd) update(previous[at]);
  }
  for (uint32_t at = 0; at != kEnd; at = next[at]) ids.push_back(tokens[at]);
}

void Bpe::Encode(std::span<const std::string_view> words, std::vector<int32_t>& ids) const {
  BpeScratch scratch;
  for (const std::string_view word : words) {
    if (words_) {
      if (const int32_t token = words_->Find(word); token >= 0) {
        ids.push_back(token);
        continue;
      }
    }
    for (size_t begin = 0; begin < word.size(); begin += kMaxTokens) {
      scratch.tokens.clear();
      for (const char byte : word.substr(begin, kMaxTokens)) {
        const int32_t token = byte_tokens_[static_cast<uint8_t>(byte)];
        if (token >= 0) scratch.tokens.push_back(token);
      }
      MergeTokens(merges_, scratch, ids);
    }
  }
}

void CharacterBpe::Encode(std::span<const std::string_view> words,
                          std::vector<int32_t>& ids) const {
  BpeScratch scratch;
  for (std::string_view word : words) {
    while (!word.empty()) {
      scratch.tokens.clear();
      while (!word.empty() && scratch.tokens.size() < kMaxTokens) {
        word.remove_prefix(characters_.Append(word, scratch.tokens));
      }
      MergeTokens(merges_, scratch, ids);
    }
  }
}

}  // namespace tq
