// Cuts a text into words; merging happens inside words only.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace tq {

class PreTokenizer {
 public:
  static StatusOr<std::unique_ptr<PreTokenizer>> Create(PreTokenizerKind kind);
  ~PreTokenizer();

  // Appends the words of `text`, which together are `text`. Letters, digits and spaces are
  // those of Unicode 14 (\p{L}, \p{N}, White_Space). Each maximal run of bytes that are
  // not UTF-8 is a word, and words end before it.
  void Split(std::string_view text, std::vector<std::string_view>& words) const;

 private:
  struct Impl;
  explicit PreTokenizer(std::unique_ptr<Impl> impl);
  void SplitValid(std::string_view text, std::vector<std::string_view>& words) const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tq
