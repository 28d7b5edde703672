#include "tokenizer/sentencepiece_vocabulary.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "checkpoint/quote.h"
#include "tokenizer/tokenizer_data.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

// Bounds the work per byte of the vocabulary. The longest in use have some hundred bytes.
constexpr size_t kMaxPieceBytes = 256;

// All ways to make a token of two.
void AppendMergesOf(size_t id, const TokenizerData& data, const TokenIndex& index,
                    std::vector<TokenMerge>& merges) {
  const std::string_view token = data.tokens[id];
  for (size_t cut = Utf8CharSize(token); cut < token.size();) {
    const int32_t left = index.Find(token.substr(0, cut)), right = index.Find(token.substr(cut));
    const auto is_normal = [&](int32_t part) {
      return part >= 0 && data.types[static_cast<size_t>(part)] == TokenType::kNormal;
    };
    if (is_normal(left) && is_normal(right)) {
      merges.push_back({left, right, static_cast<int32_t>(id)});
    }
    cut += std::max<size_t>(Utf8CharSize(token.substr(cut)), 1);
  }
}

Status SetMerges(std::span<const int64_t> types, std::span<const double> scores,
                 std::string_view where, TokenizerData& data) {
  const auto index = TokenIndex::Create(data.tokens);
  if (!index.ok()) return index.status().WithContext(where);
  std::vector<TokenMerge>& merges = data.merges;
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    if (data.types[id] != TokenType::kNormal) continue;
    if (data.tokens[id].size() > kMaxPieceBytes) {
      return InvalidArgument("{}[{}] has {} bytes, the limit is {}", where, id,
                             data.tokens[id].size(), kMaxPieceBytes);
    }
    const size_t before = merges.size();
    AppendMergesOf(id, data, *index, merges);
    if (types[id] == kUnusedPiece && merges.size() > before) {
      return Unimplemented("{}[{}], {}, is an unused token that can be made of two others", where,
                           id, Quote(data.tokens[id]));
    }
  }
  const auto score = [&](const TokenMerge& merge) {
    return scores[static_cast<size_t>(merge.result)];
  };
  std::stable_sort(merges.begin(), merges.end(),
                   [&](const TokenMerge& a, const TokenMerge& b) { return score(a) > score(b); });
  for (size_t i = 1; i < merges.size(); ++i) {
    if (merges[i].result != merges[i - 1].result && score(merges[i]) == score(merges[i - 1])) {
      data.tied_tokens.push_back(merges[i].result);
    }
  }
  std::ranges::sort(data.tied_tokens);
  data.merges_tie = true;
  return OkStatus();
}

}  // namespace

StatusOr<TokenType> TokenTypeOfPiece(int64_t type, std::string_view where, size_t id) {
  switch (type) {
    case kNormalPiece:
    case kUnusedPiece:
      return TokenType::kNormal;
    case kUnknownPiece:
    case kControlPiece:
      return TokenType::kControl;
    case kUserDefinedPiece:
      return TokenType::kUserDefined;
    case kBytePiece:
      return TokenType::kByte;
    default:
      return InvalidArgument("{}[{}] has the type {}, want 1 to 6", where, id, type);
  }
}

Status SetSentencePieceVocabulary(std::span<const int64_t> types, std::span<const double> scores,
                                  std::string_view where, TokenizerData& data) {
  const size_t vocabulary = data.tokens.size();
  if (vocabulary > kMaxVocabulary) {
    return InvalidArgument("{} has {} entries, the limit is {}", where, vocabulary, kMaxVocabulary);
  }
  if (types.size() != vocabulary || scores.size() != vocabulary) {
    return InvalidArgument("{}: {} types and {} scores for {} tokens", where, types.size(),
                           scores.size(), vocabulary);
  }
  for (size_t id = 0; id < vocabulary; ++id) {
    TQ_ASSIGN_OR_RETURN(const TokenType type, TokenTypeOfPiece(types[id], where, id));
    data.types.push_back(type);
    if (!std::isfinite(scores[id])) {
      return InvalidArgument("{}[{}] has the score {}", where, id, scores[id]);
    }
    if (types[id] == kUnknownPiece && data.unk < 0) data.unk = static_cast<int32_t>(id);
  }
  data.missing_to_unk = data.unk >= 0;
  data.fuse_unk = data.missing_to_unk || data.model == TokenModel::kUnigram;
  if (data.model == TokenModel::kCharacterBpe) return SetMerges(types, scores, where, data);
  data.scores.assign(scores.begin(), scores.end());
  data.float_sums = true;
  if (const auto unused = std::ranges::find(types, kUnusedPiece); unused != types.end()) {
    const auto id = static_cast<size_t>(unused - types.begin());
    return Unimplemented("{}[{}], {}, is an unused token of a unigram model", where, id,
                         Quote(data.tokens[id]));
  }
  return OkStatus();
}

}  // namespace tq
