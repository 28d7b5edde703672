// Finds tokens that are spelled out in a text: control and user-defined ones.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/marked_text.h"

namespace tq {

class AddedTokens {
 public:
  // Longer tokens are refused when read: this bounds the work per byte of text. Those in
  // use have 64 bytes at most.
  static constexpr size_t kMaxBytes = 256;

  // `text` must not be empty. Of equal texts the first one added counts.
  void Add(std::string text, int32_t id, bool control);
  // To be called after the last Add.
  void Finish();

  struct Match {
    size_t begin = 0, size = 0;  // size 0: no match
    int32_t id = -1;
  };
  // The leftmost match at or after `from`, and the longest there; control tokens only with
  // `with_control`.
  Match Find(std::string_view text, size_t from, bool with_control) const;
  // The same with control tokens only where they lie outside all of `untrusted` (ascending), whose
  // positions are those in `text` plus `offset`.
  Match FindTrusted(std::string_view text, size_t from, std::span<const TextSpan> untrusted,
                    size_t offset) const;

 private:
  struct Entry {
    std::string text;
    int32_t id;
    bool control;
  };
  // Control tokens only if they end at or before `control_end`.
  Match LongestAt(std::string_view text, size_t at, size_t control_end) const;

  std::vector<Entry> entries_;          // ascending by text
  std::array<bool, 256> first_byte_{};  // bytes that a token starts with
};

}  // namespace tq
