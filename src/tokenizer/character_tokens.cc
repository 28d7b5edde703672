#include "tokenizer/character_tokens.h"

#include <algorithm>
#include <utility>

#include "tokenizer/utf8.h"

namespace tq {

namespace {

TokenTrie SingleCharacters(const TokenizerData& data) {
  std::vector<std::pair<std::string_view, int32_t>> tokens;
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    const std::string_view token = data.tokens[id];
    if (data.types[id] != TokenType::kNormal || Utf8CharSize(token) != token.size()) continue;
    tokens.emplace_back(token, static_cast<int32_t>(id));
  }
  return TokenTrie(std::move(tokens));
}

}  // namespace

int ByteOfToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  const size_t high = kDigits.find(token[3]), low = kDigits.find(token[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(16 * high + low);
}

FallbackTokens::FallbackTokens(const TokenizerData& data)
    : unknown_(data.missing_to_unk ? data.unk : -1), fuse_(data.fuse_unk) {
  byte_tokens_.fill(-1);
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    if (data.types[id] != TokenType::kByte) continue;
    byte_tokens_[static_cast<size_t>(ByteOfToken(data.tokens[id]))] = static_cast<int32_t>(id);
  }
}

void FallbackTokens::Append(std::string_view bytes, std::vector<int32_t>& ids) const {
  const auto token = [&](char byte) { return byte_tokens_[static_cast<uint8_t>(byte)]; };
  if (std::all_of(bytes.begin(), bytes.end(), [&](char byte) { return token(byte) >= 0; })) {
    for (const char byte : bytes) ids.push_back(token(byte));
  } else if (unknown_ >= 0 && !(fuse_ && !ids.empty() && ids.back() == unknown_)) {
    ids.push_back(unknown_);
  }
}

CharacterTokens::CharacterTokens(const TokenizerData& data)
    : tokens_(SingleCharacters(data)), fallback_(data) {}

size_t CharacterTokens::Append(std::string_view text, std::vector<int32_t>& ids) const {
  const size_t size = std::max<size_t>(Utf8CharSize(text), 1);
  const std::string_view character = text.substr(0, size);
  if (const int32_t token = tokens_.Find(character); token >= 0) {
    ids.push_back(token);
  } else {
    fallback_.Append(character, ids);
  }
  return size;
}

}  // namespace tq
