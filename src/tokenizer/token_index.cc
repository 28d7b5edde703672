#include "tokenizer/token_index.h"

#include <bit>

#include "base/hash.h"
#include "checkpoint/quote.h"

namespace tq {

size_t TokenIndex::Slot(std::string_view text) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = HashBytes(text.data(), text.size()).low & mask;
  while (slots_[slot] >= 0 && (*tokens_)[static_cast<size_t>(slots_[slot])] != text) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

StatusOr<TokenIndex> TokenIndex::Create(const std::vector<std::string>& tokens) {
  TokenIndex index(tokens);
  index.slots_.assign(std::bit_ceil(2 * tokens.size() + 1), -1);
  for (size_t id = 0; id < tokens.size(); ++id) {
    int32_t& slot = index.slots_[index.Slot(tokens[id])];
    if (slot >= 0) {
      return InvalidArgument("tokens {} and {} are both {}", slot, id, Quote(tokens[id]));
    }
    slot = static_cast<int32_t>(id);
  }
  return index;
}

int32_t TokenIndex::Find(std::string_view text) const { return slots_[Slot(text)]; }

}  // namespace tq
