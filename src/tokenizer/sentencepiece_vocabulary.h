// Vocabularies of SentencePiece, as its own files and GGUF's "llama" have them: pieces with a
// type and a score each.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace tq {

// Of pieces, as both number them. "Unused" ones are normal tokens that nothing makes; "unknown" is
// a control token by another name.
enum PieceType : int32_t {
  kNormalPiece = 1,
  kUnknownPiece = 2,
  kControlPiece = 3,
  kUserDefinedPiece = 4,
  kUnusedPiece = 5,
  kBytePiece = 6,
};

// Fills in what follows from data.tokens, which must be set, and from the types (PieceType, by id)
// and scores: types, the unknown token unless it is set, and for kCharacterBpe the merges, for
// kUnigram the scores.
// `where` is how the file calls its list, for errors.
//
// Merges: two neighbours may be merged when together they are a token, that of the highest
// score first, and of equal scores the leftmost. Unused ones that could be made are refused: they
// would have to be taken apart again.
Status SetSentencePieceVocabulary(std::span<const int64_t> types, std::span<const double> scores,
                                  std::string_view where, TokenizerData& data);

// An error for what is no PieceType.
StatusOr<TokenType> TokenTypeOfPiece(int64_t type, std::string_view where, size_t id);

}  // namespace tq
