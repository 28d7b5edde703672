#include "tokenizer/unigram.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "tokenizer/utf8.h"

namespace tq {
namespace {

// Positions are 32-bit; longer words (a quarter of a gigabyte without a cut) are cut.
constexpr size_t kMaxWord = size_t{1} << 28;
// What an unknown character scores below the least probable token, in SentencePiece and in
// Hugging Face's library.
constexpr double kUnknownPenalty = 10;

TokenTrie NormalTokens(const TokenizerData& data) {
  std::vector<std::pair<std::string_view, int32_t>> tokens;
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    if (data.types[id] != TokenType::kNormal) continue;
    tokens.emplace_back(data.tokens[id], static_cast<int32_t>(id));
  }
  return TokenTrie(std::move(tokens));
}

// The length of the first part of a word, which ends between two characters.
size_t PartSize(std::string_view word) {
  if (word.size() <= kMaxWord) return word.size();
  size_t size = kMaxWord;
  while (size > kMaxWord - 3 && (static_cast<uint8_t>(word[size]) & 0xC0) == 0x80) --size;
  return size;
}

}  // namespace

struct Unigram::Scratch {
  // The best way to write a word's first bytes.
  struct Way {
    double score;
    uint32_t begin;  // of its last token
    int32_t token;   // -1: an unknown character
  };
  std::vector<Way> ways;         // by number of bytes
  std::vector<uint32_t> ends;    // of the tokens of the best way, last first
  std::vector<int32_t> written;  // tokens of the word
};

Unigram::Unigram(const TokenizerData& data)
    : tokens_(NormalTokens(data)),
      scores_(data.scores),
      unknown_score_(*std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty),
      fallback_(data) {}

void Unigram::Encode(std::span<const std::string_view> words, std::vector<int32_t>& ids) const {
  Scratch scratch;
  for (std::string_view word : words) {
    scratch.written.clear();
    while (!word.empty()) {
      const size_t size = PartSize(word);
      EncodeBounded(word.substr(0, size), scratch, scratch.written);
      word.remove_prefix(size);
    }
    ids.insert(ids.end(), scratch.written.begin(), scratch.written.end());
  }
}

void Unigram::EncodeBounded(std::string_view word, Scratch& scratch,
                            std::vector<int32_t>& ids) const {
  auto& ways = scratch.ways;
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  ways.assign(word.size() + 1, {kNever, 0, -1});
  ways[0].score = 0;
  const auto offer = [&](size_t begin, size_t end, int32_t token, double score) {
    const double sum = ways[begin].score + score;
    if (sum > ways[end].score) ways[end] = {sum, static_cast<uint32_t>(begin), token};
  };
  for (size_t begin = 0; begin < word.size();) {
    const size_t character = std::max<size_t>(Utf8CharSize(word.substr(begin)), 1);
    bool known = false;
    TokenTrie::Node node = TokenTrie::kRoot;
    for (size_t end = begin; end < word.size();) {
      node = tokens_.Next(node, static_cast<uint8_t>(word[end++]));
      if (node == TokenTrie::kNone) break;
      const int32_t token = tokens_.Token(node);
      if (token < 0) continue;
      known = known || end - begin == character;
      offer(begin, end, token, scores_[static_cast<size_t>(token)]);
    }
    if (!known) offer(begin, begin + character, -1, unknown_score_);
    begin += character;
  }
  scratch.ends.clear();
  for (size_t end = word.size(); end > 0; end = ways[end].begin) {
    scratch.ends.push_back(static_cast<uint32_t>(end));
  }
  for (auto end = scratch.ends.rbegin(); end != scratch.ends.rend(); ++end) {
    const Scratch::Way& way = ways[*end];
    if (way.token >= 0) {
      ids.push_back(way.token);
    } else {
      fallback_.Append(word.substr(way.begin, *end - way.begin), ids);
    }
  }
}

}  // namespace tq
