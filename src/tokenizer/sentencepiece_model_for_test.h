// SentencePiece's tokenizer.model, written field by field.
#pragma once

#include <bit>
#include <cstdint>
#include <string>

namespace tq::testing {

inline std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
inline std::string Number(uint64_t field, int64_t value) {
  return Varint(field << 3) + Varint(static_cast<uint64_t>(value));
}
inline std::string Bytes(uint64_t field, const std::string& bytes) {
  return Varint(field << 3 | 2) + Varint(bytes.size()) + bytes;
}
inline std::string Float(uint64_t field, float value) {
  std::string out = Varint(field << 3 | 5);
  for (int i = 0; i < 4; ++i) out += static_cast<char>(std::bit_cast<uint32_t>(value) >> 8 * i);
  return out;
}

inline std::string Piece(const std::string& text, float score, int type) {
  return Bytes(1, Bytes(1, text) + Float(2, score) + (type == 1 ? "" : Number(3, type)));
}

// <unk> 0, <s> 1, </s> 2, "\n" as a byte 3, _ 4, a 5, b 6, ab 7, _ab 8, "__" user-defined 9.
inline std::string PiecesOnly() {
  return Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + Piece("</s>", 0, 3) + Piece("<0x0A>", 0, 6) +
         Piece("\u2581", -9, 1) + Piece("a", -8, 1) + Piece("b", -7, 1) + Piece("ab", -2, 1) +
         Piece("\u2581ab", -1, 1) + Piece("\u2581\u2581", 0, 4);
}
inline std::string Trainer(int model_type) {
  return Bytes(2, Number(3, model_type) + Number(43, -1));
}
inline std::string NormalizerSpec(bool prefix) {
  return Bytes(3, Bytes(1, "identity") + Bytes(2, "") + Number(3, prefix) + Number(4, 0));
}
inline std::string Model(int model_type = 2) {
  return PiecesOnly() + Trainer(model_type) + NormalizerSpec(true);
}

}  // namespace tq::testing
