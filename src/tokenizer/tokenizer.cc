#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "checkpoint/gguf.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/byte_spelling.h"
#include "tokenizer/character_tokens.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/token_trie.h"
#include "tokenizer/unigram.h"

namespace tq {
namespace {

// Control tokens that end a turn or a text in the chat formats in use, whether or not the
// model names them as its end of text.
constexpr std::array<std::string_view, 8> kEndNames = {
    "<|im_end|>", "<|endoftext|>",   "<|eot_id|>",    "<|eom_id|>",
    "<|end|>",    "<|end_of_text|>", "<end_of_turn>", "</s>"};

// What a token stands for in a text.
std::string BytesOf(const TokenizerData& data, size_t id) {
  const std::string& token = data.tokens[id];
  if (data.types[id] == TokenType::kByte) {
    return std::string(1, static_cast<char>(ByteOfToken(token)));
  }
  if (data.model != TokenModel::kByteBpe) return UnmarkSpaces(token);
  // A normal token with characters outside the spelling stands for itself.
  const auto bytes = data.types[id] == TokenType::kNormal ? UnspellBytes(token) : std::nullopt;
  return bytes ? *bytes : token;
}

// The tokens' bytes one after the other: 12 bytes per token instead of std::string's 32.
class TokenBytes {
 public:
  explicit TokenBytes(const TokenizerData& data) {
    begin_.reserve(data.tokens.size() + 1);
    for (size_t id = 0; id < data.tokens.size(); ++id) {
      begin_.push_back(bytes_.size());
      bytes_ += BytesOf(data, id);
    }
    begin_.push_back(bytes_.size());
    bytes_.shrink_to_fit();
  }
  size_t size() const { return begin_.size() - 1; }
  std::string_view operator[](size_t id) const {
    return std::string_view{bytes_}.substr(begin_[id], begin_[id + 1] - begin_[id]);
  }

 private:
  std::string bytes_;
  std::vector<size_t> begin_;
};

std::array<int32_t, 256> ByteTokens(const TokenizerData& data) {
  std::array<int32_t, 256> tokens;
  tokens.fill(data.missing_to_unk ? data.unk : -1);
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    if (data.tokens[id].size() > 2) continue;  // a spelled byte has one or two bytes
    const auto bytes = UnspellBytes(data.tokens[id]);
    if (bytes && bytes->size() == 1) {
      tokens[static_cast<uint8_t>((*bytes)[0])] = static_cast<int32_t>(id);
    }
  }
  return tokens;
}

// The tokens that are taken whole when a word is one of them.
TokenTrie WholeWords(const TokenizerData& data, const TokenBytes& bytes) {
  std::vector<std::pair<std::string_view, int32_t>> words;
  for (size_t id = 0; id < bytes.size(); ++id) {
    if (data.types[id] != TokenType::kNormal) continue;
    words.emplace_back(bytes[id], static_cast<int32_t>(id));
  }
  return TokenTrie(std::move(words));
}

StatusOr<std::unique_ptr<WordEncoder>> MakeEncoder(const TokenizerData& data,
                                                   const TokenBytes& bytes) {
  if (data.model == TokenModel::kUnigram) return std::unique_ptr<WordEncoder>(new Unigram(data));
  TQ_ASSIGN_OR_RETURN(MergeTable merges, MergeTable::Create(data.merges, data.tokens.size(),
                                                            data.merges_tie, data.tied_tokens));
  if (data.model == TokenModel::kCharacterBpe) {
    return std::unique_ptr<WordEncoder>(new CharacterBpe(std::move(merges), CharacterTokens(data)));
  }
  std::optional<TokenTrie> words;
  if (data.ignore_merges) words = WholeWords(data, bytes);
  return std::unique_ptr<WordEncoder>(
      new Bpe(std::move(merges), ByteTokens(data), std::move(words)));
}

}  // namespace

struct Tokenizer::Impl {
  Impl(const TokenizerData& data, TokenBytes token_bytes, std::unique_ptr<WordEncoder> words,
       std::unique_ptr<PreTokenizer> splitter)
      : bytes(std::move(token_bytes)),
        types(data.types),
        normalization(data.normalization),
        pre_tokenizer(std::move(splitter)),
        encoder(std::move(words)),
        mark_spaces(MarksSpaces(data.pre_tokenizer)),
        add_prefix_space(data.add_prefix_space),
        prefix_first_only(data.prefix_first_only),
        strip_prefix(data.strip_prefix),
        add_bos(data.add_bos),
        bos(data.bos),
        eos(data.eos),
        chat_template(data.chat_template) {
    for (size_t i = 0; i < data.tokens.size(); ++i) {
      const bool control = types[i] == TokenType::kControl;
      const bool cuts = types[i] == TokenType::kUserDefined && !data.float_sums;
      if (!control && !cuts) continue;
      const auto id = static_cast<int32_t>(i);
      // Late tokens are looked for in normalized text, as they look there.
      if (!control && data.merges_tie) {
        late_tokens.Add(MarkSpaces(data.tokens[i]), id, control);
      } else if (std::binary_search(data.matched_late.begin(), data.matched_late.end(), id)) {
        late_tokens.Add(Normalize(normalization, data.tokens[i]), id, control);
      } else {
        early_tokens.Add(data.tokens[i], id, control);
      }
    }
    early_tokens.Finish();
    late_tokens.Finish();
  }

  // One text on its way to ids.
  struct Encoding {
    bool parse_special;
    std::vector<int32_t> ids;
    std::vector<std::string_view> words;
    const MarkedText* marked = nullptr;  // what all texts are parts of, if some are untrusted
  };
  // Cuts the text at its added tokens; `rest` gets what lies between and where it begins.
  template <class Rest>
  void Match(const AddedTokens& added, std::string_view text, Encoding& out, Rest rest) const;
  // `first`: the text begins with it.
  void EncodeStretch(std::string_view text, bool first, Encoding& out) const;
  void EncodeNormalized(std::string_view text, bool first, Encoding& out) const;
  std::vector<int32_t> Encode(std::string_view text, Encoding out) const;

  TokenBytes bytes;
  std::vector<TokenType> types;
  AddedTokens early_tokens, late_tokens;
  Normalization normalization;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  std::unique_ptr<WordEncoder> encoder;
  bool mark_spaces, add_prefix_space, prefix_first_only, strip_prefix, add_bos;
  int32_t bos, eos;
  std::string chat_template;
};

namespace {

// Whether any byte of `part` of the text is untrusted.
bool AnyUntrusted(const MarkedText& text, std::string_view part) {
  const auto begin = static_cast<size_t>(part.data() - text.bytes().data());
  const auto after = std::ranges::upper_bound(text.untrusted(), begin, {}, &TextSpan::end);
  return after != text.untrusted().end() && after->begin < begin + part.size();
}

}  // namespace

template <class Rest>
void Tokenizer::Impl::Match(const AddedTokens& added, std::string_view text, Encoding& out,
                            Rest rest) const {
  size_t done = 0;
  while (done < text.size()) {
    const AddedTokens::Match match =
        out.marked == nullptr
            ? added.Find(text, done, out.parse_special)
            : added.FindTrusted(text, done, out.marked->untrusted(),
                                static_cast<size_t>(text.data() - out.marked->bytes().data()));
    const size_t end = match.size > 0 ? match.begin : text.size();
    if (end > done) rest(text.substr(done, end - done), done);
    if (match.size > 0) out.ids.push_back(match.id);
    done = end + match.size;
  }
}

void Tokenizer::Impl::EncodeStretch(std::string_view text, bool first, Encoding& out) const {
  const auto encode = [&](std::string_view rest, size_t begin) {
    EncodeNormalized(rest, first && begin == 0, out);
  };
  if (normalization == Normalization{}) return Match(late_tokens, text, out, encode);
  const std::string normalized = Normalize(normalization, text);
  if (out.marked == nullptr) return Match(late_tokens, normalized, out, encode);
  // Which bytes of the changed text are untrusted is not known: all, if any were.
  const MarkedText* marked = std::exchange(out.marked, nullptr);
  out.parse_special = !AnyUntrusted(*marked, text);
  Match(late_tokens, normalized, out, encode);
  out.parse_special = true;
  out.marked = marked;
}

void Tokenizer::Impl::EncodeNormalized(std::string_view text, bool first, Encoding& out) const {
  std::string changed;
  if (add_prefix_space && (first || !prefix_first_only) && text[0] != ' ' &&
      !(mark_spaces && text.starts_with(kSpaceMark))) {
    changed.reserve(text.size() + 1);
    changed.append(1, ' ').append(text);
    text = changed;
  }
  if (mark_spaces) {
    changed = MarkSpaces(text);
    text = changed;
  }
  out.words.clear();
  pre_tokenizer->Split(text, out.words);
  encoder->Encode(out.words, out.ids);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerData data) {
  TQ_RETURN_IF_ERROR(CheckTokenizerData(data));
  TokenBytes bytes(data);
  TQ_ASSIGN_OR_RETURN(auto encoder, MakeEncoder(data, bytes));
  TQ_ASSIGN_OR_RETURN(auto splitter, PreTokenizer::Create(data.pre_tokenizer));
  return std::unique_ptr<Tokenizer>(new Tokenizer(
      std::make_unique<Impl>(data, std::move(bytes), std::move(encoder), std::move(splitter))));
}

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromModel(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    TQ_ASSIGN_OR_RETURN(TokenizerData data, TokenizerDataFromFolder(path));
    return Create(std::move(data));
  }
  TokenizerData data;
  {
    TQ_ASSIGN_OR_RETURN(const auto file, GgufFile::Open(path));
    TQ_ASSIGN_OR_RETURN(data, TokenizerDataFromGguf(*file));
  }
  return Create(std::move(data));
}

size_t Tokenizer::vocab_size() const { return impl_->bytes.size(); }
int32_t Tokenizer::bos() const { return impl_->bos; }
int32_t Tokenizer::eos() const { return impl_->eos; }
std::vector<int32_t> Tokenizer::EncodePrompt(std::string_view text) const {
  std::vector<int32_t> ids = Encode(text);
  if (add_bos()) ids.insert(ids.begin(), bos());
  return ids;
}
bool Tokenizer::add_bos() const { return impl_->add_bos; }
const std::string& Tokenizer::chat_template() const { return impl_->chat_template; }

bool Tokenizer::IsEndOfGeneration(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= vocab_size()) return false;
  if (id == impl_->eos) return true;
  const auto i = static_cast<size_t>(id);
  return impl_->types[i] == TokenType::kControl &&
         std::find(kEndNames.begin(), kEndNames.end(), impl_->bytes[i]) != kEndNames.end();
}

std::vector<int32_t> Tokenizer::Impl::Encode(std::string_view text, Encoding out) const {
  out.ids.reserve(text.size() / 3);
  Match(early_tokens, text, out,
        [&](std::string_view rest, size_t begin) { EncodeStretch(rest, begin == 0, out); });
  return std::move(out.ids);
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, bool parse_special) const {
  return impl_->Encode(text, {parse_special, {}, {}});
}

std::vector<int32_t> Tokenizer::Encode(const MarkedText& text) const {
  return impl_->Encode(text.bytes(), {true, {}, {}, &text});
}

StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids, bool show_special) const {
  std::string text;
  for (const int32_t id : ids) {
    TQ_ASSIGN_OR_RETURN(std::string_view bytes, DecodeNext(id));
    if (show_special) bytes = impl_->bytes[static_cast<size_t>(id)];
    text += bytes;
  }
  if (impl_->strip_prefix && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

StatusOr<std::string_view> Tokenizer::DecodeNext(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= vocab_size()) {
    return InvalidArgument("token id {}: the vocabulary has {} tokens", id, vocab_size());
  }
  const auto i = static_cast<size_t>(id);
  return impl_->types[i] == TokenType::kControl ? std::string_view{} : impl_->bytes[i];
}

}  // namespace tq
