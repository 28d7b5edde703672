// Cuts a text into words; merging happens inside words only.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// The pattern as Hugging Face's tokenizer.json files spell it; those that we know are known
// by that spelling. Nothing for kinds that it writes without a pattern.
std::optional<std::string_view> PatternOf(PreTokenizerKind kind);
std::optional<PreTokenizerKind> KindOfPattern(std::string_view pattern);

// Whether it is Metaspace, which writes spaces as U+2581 itself.
inline bool MarksSpaces(PreTokenizerKind kind) {
  return kind == PreTokenizerKind::kMetaspace || kind == PreTokenizerKind::kMetaspaceWords;
}

class PreTokenizer {
 public:
  static StatusOr<std::unique_ptr<PreTokenizer>> Create(PreTokenizerKind kind);
  ~PreTokenizer();

  // Appends the words of `text`, which together are `text`. Letters, digits and spaces are
  // those of Unicode 14 (\p{L}, \p{N}, White_Space). Where a pattern cuts, each maximal run
  // of bytes that are not UTF-8 is a word, and words end before it. Linear in the text's
  // length.
  void Split(std::string_view text, std::vector<std::string_view>& words) const;

 private:
  struct Pattern;
  PreTokenizer(PreTokenizerKind kind, std::unique_ptr<Pattern> pattern);
  void SplitValid(std::string_view text, std::vector<std::string_view>& words) const;
  PreTokenizerKind kind_;
  std::unique_ptr<Pattern> pattern_;  // null for kinds without
};

}  // namespace tq
