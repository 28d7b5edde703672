// tokenizer.json as a document, except for its large parts: the vocabulary and the merges are
// collected while parsing, in a fraction of the memory that JSON values take.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace tq {

// Pairs of strings one after the other in one.
class MergeText {
 public:
  void Append(std::string_view side) {
    text_ += side;
    ends_.push_back(text_.size());
  }
  size_t size() const { return ends_.size() / 2; }
  std::string_view Left(size_t i) const { return Piece(2 * i); }
  std::string_view Right(size_t i) const { return Piece(2 * i + 1); }

 private:
  std::string_view Piece(size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view{text_}.substr(begin, ends_[i] - begin);
  }
  std::string text_;
  std::vector<size_t> ends_;
};

// "left right": exactly one space, and something on both sides.
Status AppendMerge(std::string_view merge, std::string_view where, MergeText& merges);

struct TokenizerDocument {
  nlohmann::json rest;  // model.vocab and model.merges are null in it
  std::vector<std::pair<std::string, int32_t>> vocab;  // in the file's order, ids not negative
  // The vocabulary when it is a list (Unigram): tokens by id, with their scores.
  std::vector<std::pair<std::string, double>> pieces;
  MergeText merges;
};

StatusOr<TokenizerDocument> ParseTokenizerDocument(std::string_view text, std::string_view file);

}  // namespace tq
