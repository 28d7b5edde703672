#include "tokenizer/tokenizer_data.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <string>

#include "checkpoint/quote.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/character_tokens.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/unigram.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

Status CheckSpecialId(std::string_view name, int32_t id, size_t vocabulary) {
  if (id >= -1 && id < static_cast<int64_t>(vocabulary)) return OkStatus();
  return InvalidArgument("{} token id {}: the vocabulary has {} tokens", name, id, vocabulary);
}

bool IsAdded(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUserDefined;
}

Status CheckTokens(const TokenizerData& data) {
  const size_t vocabulary = data.tokens.size();
  if (vocabulary == 0) return InvalidArgument("the vocabulary is empty");
  if (vocabulary > kMaxVocabulary) {
    return InvalidArgument("{} tokens, the limit is {}", vocabulary, kMaxVocabulary);
  }
  if (data.types.size() != vocabulary) {
    return InvalidArgument("{} token types for {} tokens", data.types.size(), vocabulary);
  }
  for (size_t id = 0; id < vocabulary; ++id) {
    const std::string& token = data.tokens[id];
    if (token.empty()) return InvalidArgument("token {} is empty", id);
    if (Utf8ValidPrefix(token) != token.size()) {
      return InvalidArgument("token {} is not UTF-8: {}", id, Quote(token));
    }
    if (IsAdded(data.types[id]) && token.size() > AddedTokens::kMaxBytes) {
      return InvalidArgument("added token {} has {} bytes, the limit is {}", id, token.size(),
                             AddedTokens::kMaxBytes);
    }
  }
  return TokenIndex::Create(data.tokens).status();
}

// Byte tokens are known by their spelling once there is one of them: tokenizer.json has no
// other sign for them.
Status CheckByteTokens(const TokenizerData& data) {
  const bool any =
      std::find(data.types.begin(), data.types.end(), TokenType::kByte) != data.types.end();
  if (!any) return OkStatus();
  if (data.model == TokenModel::kByteBpe) {
    return InvalidArgument("byte tokens in a byte-level vocabulary");
  }
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    const bool spelled = ByteOfToken(data.tokens[id]) >= 0;
    const bool is_byte = data.types[id] == TokenType::kByte;
    if (is_byte != (spelled && !IsAdded(data.types[id]))) {
      return InvalidArgument("token {}, {}, is {} a byte", id, Quote(data.tokens[id]),
                             is_byte ? "no name of" : "not marked as");
    }
  }
  return OkStatus();
}

bool IsFloat32(double value) {
  return std::abs(value) <= FLT_MAX && static_cast<double>(static_cast<float>(value)) == value;
}

// What each model needs, and what it has no place for.
Status CheckModel(const TokenizerData& data) {
  TQ_RETURN_IF_ERROR(CheckByteTokens(data));
  const bool whole =
      data.pre_tokenizer == PreTokenizerKind::kNone || MarksSpaces(data.pre_tokenizer);
  const bool bytes = data.model == TokenModel::kByteBpe;
  if (bytes == whole) {
    return InvalidArgument("the pre-tokeniser is not one for {}",
                           bytes ? "byte-level BPE" : "SentencePiece's kinds of model");
  }
  if (bytes && (data.normalization.prefix_mark || data.normalization.mark_spaces)) {
    return Unimplemented("spaces written as U+2581 before byte-level BPE");
  }
  if (data.ignore_merges && !bytes) {
    return Unimplemented("ignore_merges without byte-level BPE");
  }
  if (data.fuse_unk && bytes) return Unimplemented("fuse_unk with byte-level BPE");
  if (data.model != TokenModel::kUnigram) {
    if (data.float_sums) return InvalidArgument("sums of scores for a model of merges");
    if (data.scores.empty()) return OkStatus();
    return InvalidArgument("{} scores for a model of merges", data.scores.size());
  }
  if (!data.merges.empty() || data.merges_tie || !data.tied_tokens.empty()) {
    return InvalidArgument("merges for a unigram model");
  }
  if (data.scores.size() != data.tokens.size()) {
    return InvalidArgument("{} scores for {} tokens", data.scores.size(), data.tokens.size());
  }
  for (size_t id = 0; id < data.scores.size(); ++id) {
    if (!std::isfinite(data.scores[id])) {
      return InvalidArgument("the score of token {} is {}", id, data.scores[id]);
    }
    if (data.float_sums && !IsFloat32(data.scores[id])) {
      return InvalidArgument("the score of token {}, {}, is to be summed in float32, and is none",
                             id, data.scores[id]);
    }
    if (data.tokens[id].size() > Unigram::kMaxBytes) {
      return InvalidArgument("token {} has {} bytes, the limit of a unigram model is {}", id,
                             data.tokens[id].size(), Unigram::kMaxBytes);
    }
  }
  return OkStatus();
}

Status CheckMerges(const TokenizerData& data) {
  const auto vocabulary = static_cast<int64_t>(data.tokens.size());
  for (size_t rank = 0; rank < data.merges.size(); ++rank) {
    const TokenMerge& merge = data.merges[rank];
    for (const int32_t id : {merge.left, merge.right, merge.result}) {
      if (id < 0 || id >= vocabulary) {
        return InvalidArgument("merge {} names token {}: the vocabulary has {} tokens", rank, id,
                               vocabulary);
      }
    }
    const std::string& left = data.tokens[static_cast<size_t>(merge.left)];
    const std::string& right = data.tokens[static_cast<size_t>(merge.right)];
    const std::string& result = data.tokens[static_cast<size_t>(merge.result)];
    if (result.size() != left.size() + right.size() || !result.starts_with(left) ||
        !result.ends_with(right)) {
      return InvalidArgument("merge {} of {} and {} gives {}", rank, Quote(left), Quote(right),
                             Quote(result));
    }
  }
  return OkStatus();
}

Status CheckTiedTokens(const TokenizerData& data) {
  if (data.tied_tokens.empty()) return OkStatus();
  if (!data.merges_tie) return InvalidArgument("tied_tokens of merges that do not tie");
  for (size_t i = 0; i < data.tied_tokens.size(); ++i) {
    const int32_t id = data.tied_tokens[i];
    if (id < 0 || id >= static_cast<int64_t>(data.tokens.size()) ||
        (i > 0 && id <= data.tied_tokens[i - 1])) {
      return InvalidArgument("tied_tokens names {}, which is no token or out of order", id);
    }
  }
  return OkStatus();
}

}  // namespace

Status CheckTokenizerData(const TokenizerData& data) {
  TQ_RETURN_IF_ERROR(CheckTokens(data));
  TQ_RETURN_IF_ERROR(CheckModel(data));
  TQ_RETURN_IF_ERROR(CheckMerges(data));
  TQ_RETURN_IF_ERROR(CheckTiedTokens(data));
  const size_t vocabulary = data.tokens.size();
  TQ_RETURN_IF_ERROR(CheckSpecialId("beginning-of-text", data.bos, vocabulary));
  TQ_RETURN_IF_ERROR(CheckSpecialId("end-of-text", data.eos, vocabulary));
  TQ_RETURN_IF_ERROR(CheckSpecialId("unknown", data.unk, vocabulary));
  TQ_RETURN_IF_ERROR(CheckSpecialId("padding", data.pad, vocabulary));
  if (data.add_bos && data.bos < 0) {
    return InvalidArgument("a beginning-of-text token shall be added, but there is none");
  }
  if (data.missing_to_unk && data.unk < 0) {
    return InvalidArgument("what has no token shall become the unknown token, but there is none");
  }
  const bool marks = MarksSpaces(data.pre_tokenizer);
  if (data.add_prefix_space && !marks && data.pre_tokenizer != PreTokenizerKind::kGpt2) {
    return Unimplemented("add_prefix_space together with another pattern than GPT-2's");
  }
  if (data.prefix_first_only && !(data.add_prefix_space && marks)) {
    return InvalidArgument("a space before the text alone needs Metaspace and add_prefix_space");
  }
  for (size_t i = 0; i < data.matched_late.size(); ++i) {
    const int32_t id = data.matched_late[i];
    if (id < 0 || id >= static_cast<int64_t>(vocabulary) ||
        !IsAdded(data.types[static_cast<size_t>(id)]) ||
        (i > 0 && id <= data.matched_late[i - 1])) {
      return InvalidArgument("matched_late names {}, which is no added token or out of order", id);
    }
  }
  if (data.chat_template.size() > kMaxChatTemplateBytes) {
    return InvalidArgument("the chat template has {} bytes, the limit is {}",
                           data.chat_template.size(), kMaxChatTemplateBytes);
  }
  if (Utf8ValidPrefix(data.chat_template) != data.chat_template.size()) {
    return InvalidArgument("the chat template is not UTF-8");
  }
  return OkStatus();
}

StatusOr<std::vector<TokenMerge>> ResolveMerges(const MergeText& merges, const TokenIndex& index,
                                                std::string_view field) {
  std::vector<TokenMerge> resolved;
  resolved.reserve(merges.size());
  std::string result;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    result.assign(merges.Left(rank)).append(merges.Right(rank));
    const auto find = [&](std::string_view token, int32_t& id) {
      id = index.Find(token);
      if (id >= 0) return OkStatus();
      return InvalidArgument("{}[{}] needs the token {}, which the vocabulary lacks", field, rank,
                             Quote(token));
    };
    TokenMerge merge;
    TQ_RETURN_IF_ERROR(find(merges.Left(rank), merge.left));
    TQ_RETURN_IF_ERROR(find(merges.Right(rank), merge.right));
    TQ_RETURN_IF_ERROR(find(result, merge.result));
    resolved.push_back(merge);
  }
  return resolved;
}

}  // namespace tq
