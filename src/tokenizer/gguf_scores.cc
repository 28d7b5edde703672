#include "tokenizer/gguf_scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <tuple>

#include "checkpoint/quote.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/sentencepiece_vocabulary.h"

namespace tq {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";

// A merge for errors: its sides.
std::string Spell(const TokenizerData& data, const TokenMerge& merge) {
  return fmt::format("{} and {}", Quote(data.tokens[static_cast<size_t>(merge.left)]),
                     Quote(data.tokens[static_cast<size_t>(merge.right)]));
}

// What every reader of such a file does to a text, and what none does.
Status CheckSteps(const TokenizerData& data) {
  if (data.normalization.nfc) {
    return Unimplemented("NFC before SentencePiece's BPE: GGUF has no word for it");
  }
  if (!data.normalization.mark_spaces && !MarksSpaces(data.pre_tokenizer)) {
    return Unimplemented("spaces that are not written as U+2581: GGUF has no word for it");
  }
  if (data.pre_tokenizer != PreTokenizerKind::kMetaspaceWords) return OkStatus();
  for (const TokenMerge& merge : data.merges) {
    const std::string& token = data.tokens[static_cast<size_t>(merge.result)];
    if (token.find(kSpaceMark, 1) == std::string::npos) continue;
    return Unimplemented(
        "texts are cut before each U+2581, so that {} is never made: GGUF has no word for it",
        Quote(token));
  }
  return OkStatus();
}

// Added tokens are found in the text as it is, where a space is no U+2581: those spelled with it
// are made by merging, if by anything.
void LetMergesMake(const TokenizerData& data, std::vector<int32_t>& types,
                   std::vector<std::string>& unsaid) {
  size_t changed = 0;
  for (const TokenMerge& merge : data.merges) {
    const auto id = static_cast<size_t>(merge.result);
    if (types[id] != kUserDefinedPiece || data.tokens[id].find(kSpaceMark) == std::string::npos) {
      continue;
    }
    types[id] = kNormalPiece;
    ++changed;
  }
  if (changed > 0) {
    unsaid.push_back(
        fmt::format("{} added tokens with U+2581 that merges make, too; merges alone do", changed));
  }
}

// Whether a reader of scores merges it. Others make or join tokens that are found in a text before
// it is merged.
bool IsPossible(const TokenMerge& merge, const std::vector<int32_t>& types) {
  return std::ranges::all_of(std::array{merge.left, merge.right, merge.result}, [&](int32_t id) {
    return types[static_cast<size_t>(id)] == kNormalPiece;
  });
}

StatusOr<std::vector<TokenMerge>> PossibleMerges(const TokenizerData& data,
                                                 const std::vector<int32_t>& types,
                                                 std::vector<std::string>& unsaid) {
  const auto type = [&](int32_t id) { return types[static_cast<size_t>(id)]; };
  std::vector<TokenMerge> merges;
  size_t control = 0;
  for (const TokenMerge& merge : data.merges) {
    if (type(merge.left) == kBytePiece || type(merge.right) == kBytePiece) {
      return Unimplemented("{} are merged, of which one is a byte: GGUF has no word for it",
                           Spell(data, merge));
    }
    if (IsPossible(merge, types)) {
      merges.push_back(merge);
    } else if (type(merge.left) == kNormalPiece && type(merge.right) == kNormalPiece &&
               type(merge.result) == kControlPiece) {
      ++control;
    }
  }
  if (control > 0) unsaid.push_back(fmt::format("{} merges that make control tokens", control));
  return merges;
}

// Tokens of the first rank have the score 0, of the next -1, and so on; what nothing makes comes
// last.
StatusOr<std::vector<float>> Score(const TokenizerData& data, const std::vector<int32_t>& types) {
  constexpr float kNone = 1;
  std::vector<float> scores(data.tokens.size(), kNone);
  float rank = 0;
  int32_t before = data.merges.empty() ? 0 : data.merges.front().result;
  for (const TokenMerge& merge : data.merges) {
    if (merge.result != before && !std::ranges::binary_search(data.tied_tokens, merge.result)) {
      rank -= 1;
    }
    before = merge.result;
    if (!IsPossible(merge, types)) continue;
    float& score = scores[static_cast<size_t>(merge.result)];
    if (score != kNone && score != rank) {
      return Unimplemented(
          "{} are merged later than others that make the same token: scores cannot say that",
          Spell(data, merge));
    }
    score = rank;
  }
  for (size_t id = 0; id < scores.size(); ++id) {
    if (scores[id] == kNone) scores[id] = types[id] == kNormalPiece ? rank - 1 : 0;
  }
  return scores;
}

// A reader of scores must merge the same pairs.
Status CheckSamePairs(const TokenizerData& data, std::vector<TokenMerge> own,
                      std::vector<TokenMerge> read) {
  const auto before = [](const TokenMerge& a, const TokenMerge& b) {
    return std::tie(a.left, a.right) < std::tie(b.left, b.right);
  };
  std::ranges::sort(own, before);
  std::ranges::sort(read, before);
  std::vector<TokenMerge> differ;
  std::ranges::set_symmetric_difference(own, read, std::back_inserter(differ), before);
  if (differ.empty()) return OkStatus();
  return Unimplemented(
      "SentencePiece's scores say of {} pairs of tokens whether they are merged what the tokenizer "
      "does not, the first being {}",
      differ.size(), Spell(data, differ.front()));
}

// Whether merges of the same token compete in an order of their own.
bool RanksPairs(const TokenizerData& data, const std::vector<TokenMerge>& merges) {
  return !data.merges_tie &&
         std::ranges::adjacent_find(merges, {}, &TokenMerge::result) != merges.end();
}

void ListDifferences(const TokenizerData& data, const TokenizerData& read, bool ranks_pairs,
                     std::vector<std::string>& unsaid) {
  if (ranks_pairs) {
    unsaid.push_back("an order of merges that make the same token; the leftmost comes first");
  }
  if (data.add_prefix_space) {
    unsaid.push_back(data.prefix_first_only
                         ? "a space before the text alone; every stretch between added tokens gets "
                           "one"
                         : "no space before a stretch that begins with one; each gets one");
  }
  const auto bytes = std::ranges::count(data.types, TokenType::kByte);
  if (bytes < 256 &&
      (read.missing_to_unk != data.missing_to_unk || read.fuse_unk != data.fuse_unk)) {
    unsaid.push_back("what becomes of characters without a token");
  }
}

}  // namespace

StatusOr<SentencePieceScores> ScoreTokens(const TokenizerData& data, std::vector<int32_t>& types,
                                          std::vector<std::string>& unsaid) {
  TQ_RETURN_IF_ERROR(CheckSteps(data));
  LetMergesMake(data, types, unsaid);
  TQ_ASSIGN_OR_RETURN(const std::vector<TokenMerge> merges, PossibleMerges(data, types, unsaid));
  SentencePieceScores result;
  TQ_ASSIGN_OR_RETURN(result.scores, Score(data, types));
  result.space_prefix = data.normalization.prefix_mark || data.add_prefix_space;

  // What the reader makes of them.
  TokenizerData read;
  read.model = TokenModel::kCharacterBpe;
  read.tokens = data.tokens;
  read.unk = data.unk;
  read.pre_tokenizer = PreTokenizerKind::kNone;
  read.normalization.mark_spaces = true;
  read.normalization.prefix_mark = read.strip_prefix = result.space_prefix;
  read.add_bos = data.add_bos;
  std::tie(read.bos, read.eos, read.pad) = std::tie(data.bos, data.eos, data.pad);
  read.chat_template = data.chat_template;
  const std::vector<int64_t> wide_types(types.begin(), types.end());
  const std::vector<double> wide_scores(result.scores.begin(), result.scores.end());
  TQ_RETURN_IF_ERROR(SetSentencePieceVocabulary(wide_types, wide_scores, kTokens, read));
  TQ_RETURN_IF_ERROR(CheckSamePairs(data, merges, read.merges));
  const bool ranks_pairs = RanksPairs(data, merges);
  ListDifferences(data, read, ranks_pairs, unsaid);
  // Where nothing competes, it does not matter who would win.
  if (!ranks_pairs) read.merges_tie = data.merges_tie;
  result.say_all = read == data;
  return result;
}

}  // namespace tq
