// The tokens of single characters, and what stands for those that have none.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/token_trie.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// The byte of a token spelled "<0x0A>" (two digits 0-9, A-F), or -1.
int ByteOfToken(std::string_view token);

// For what has no token: the tokens of its bytes if there are all of them, else the unknown
// token. A run of characters becomes a single unknown token if the data say so.
class FallbackTokens {
 public:
  explicit FallbackTokens(const TokenizerData& data);
  void Append(std::string_view bytes, std::vector<int32_t>& ids) const;

 private:
  std::array<int32_t, 256> byte_tokens_;
  int32_t unknown_;  // -1: nothing stands for it
  bool fuse_;
};

class CharacterTokens {
 public:
  explicit CharacterTokens(const TokenizerData& data);
  // Appends the token or the fallback of the character that the text starts with and returns
  // its bytes; one that belongs to no well-formed character counts as a character. `text`
  // must not be empty.
  size_t Append(std::string_view text, std::vector<int32_t>& ids) const;

 private:
  TokenTrie tokens_;
  FallbackTokens fallback_;
};

}  // namespace tq
