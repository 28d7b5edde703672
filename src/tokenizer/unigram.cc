#include "tokenizer/unigram.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>

#include "tokenizer/normalizer.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

// Positions are 32-bit; longer words (a quarter of a gigabyte without a cut) are cut.
constexpr size_t kMaxWord = size_t{1} << 28;
// What an unknown character scores below the least probable token, in SentencePiece and in
// Hugging Face's library.
constexpr double kUnknownPenalty = 10;
// Sums of float32 beyond this are taken from all ways in SentencePiece.
constexpr double kMaxFloatSum = 100000;
// No way has been found yet.
constexpr uint32_t kUnreached = UINT32_MAX;

bool Competes(const TokenizerData& data, size_t id) {
  return data.types[id] == TokenType::kNormal ||
         (data.float_sums && data.types[id] == TokenType::kUserDefined);
}

// A token as it stands in a normalized text: user-defined ones are kept as they stand in a text.
std::string Spelled(const TokenizerData& data, size_t id) {
  return data.types[id] == TokenType::kUserDefined ? MarkSpaces(data.tokens[id]) : data.tokens[id];
}

TokenTrie CompetingTokens(const TokenizerData& data) {
  std::vector<std::string> texts(data.tokens.size());
  std::vector<std::pair<std::string_view, int32_t>> tokens;
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    if (!Competes(data, id)) continue;
    texts[id] = Spelled(data, id);
    tokens.emplace_back(texts[id], static_cast<int32_t>(id));
  }
  return TokenTrie(std::move(tokens));
}

// In SentencePiece user-defined tokens win nearly always: each scores a tenth for every byte
// after the first, whatever the file says, and others are negative.
std::vector<double> Scores(const TokenizerData& data) {
  std::vector<double> scores = data.scores;
  if (!data.float_sums) return scores;
  for (size_t id = 0; id < scores.size(); ++id) {
    if (data.types[id] != TokenType::kUserDefined) continue;
    scores[id] = static_cast<float>(0.1 * static_cast<double>(Spelled(data, id).size() - 1));
  }
  return scores;
}

// Hugging Face's library takes the least of all tokens, SentencePiece that of normal ones.
double LeastScore(const TokenizerData& data) {
  if (!data.float_sums) return *std::min_element(data.scores.begin(), data.scores.end());
  double least = FLT_MAX;
  for (size_t id = 0; id < data.scores.size(); ++id) {
    if (data.types[id] == TokenType::kNormal) least = std::min(least, data.scores[id]);
  }
  return least;
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
    uint32_t begin;  // of its last token, or kUnreached
    int32_t token;   // -1: an unknown character
  };
  std::vector<Way> ways;         // by number of bytes
  size_t reached = 0;            // the largest number that has a way
  std::vector<uint32_t> ends;    // of the tokens of the best way, last first
  std::vector<int32_t> written;  // tokens of the word
};

Unigram::Unigram(const TokenizerData& data)
    : float_sums_(data.float_sums),
      tokens_(CompetingTokens(data)),
      scores_(Scores(data)),
      unknown_score_(Rounded(LeastScore(data) - kUnknownPenalty)),
      fallback_(data) {}

double Unigram::Rounded(double sum) const {
  if (!float_sums_) return sum;
  return static_cast<float>(std::clamp<double>(sum, -FLT_MAX, FLT_MAX));
}

void Unigram::Rebase(size_t begin, Scratch& scratch) const {
  const double base = scratch.ways[begin].score;
  if (!float_sums_ || std::abs(base) <= kMaxFloatSum) return;
  // The way to `begin` is there already, and ways to later ends may be.
  for (size_t end = begin; end <= scratch.reached; ++end) {
    scratch.ways[end].score = Rounded(scratch.ways[end].score - base);
  }
}

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
  ways.assign(word.size() + 1, {0, kUnreached, -1});
  scratch.reached = 0;
  const auto offer = [&](size_t begin, size_t end, int32_t token, double score) {
    Scratch::Way& way = ways[end];
    const double sum = Rounded(ways[begin].score + score);
    if (way.begin != kUnreached && !(sum > way.score)) return;
    way = {sum, static_cast<uint32_t>(begin), token};
    scratch.reached = std::max(scratch.reached, end);
  };
  for (size_t begin = 0; begin < word.size();) {
    const size_t character = std::max<size_t>(Utf8CharSize(word.substr(begin)), 1);
    Rebase(begin, scratch);
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
