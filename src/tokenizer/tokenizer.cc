#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "base/checked.h"
#include "checkpoint/gguf.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/byte_spelling.h"
#include "tokenizer/pre_tokenizer.h"

namespace tq {
namespace {

// Control tokens that end a turn or a text in the chat formats in use, whether or not the
// model names them as its end of text.
constexpr std::array<std::string_view, 8> kEndNames = {
    "<|im_end|>", "<|endoftext|>",   "<|eot_id|>",    "<|eom_id|>",
    "<|end|>",    "<|end_of_text|>", "<end_of_turn>", "</s>"};

// The tokens' bytes one after the other: 12 bytes per token instead of std::string's 32.
class TokenBytes {
 public:
  explicit TokenBytes(const TokenizerData& data) {
    begin_.reserve(data.tokens.size() + 1);
    for (size_t id = 0; id < data.tokens.size(); ++id) {
      begin_.push_back(bytes_.size());
      const auto unspelled =
          data.types[id] == TokenType::kNormal ? UnspellBytes(data.tokens[id]) : std::nullopt;
      // A normal token with characters outside the spelling stands for itself.
      bytes_ += unspelled ? *unspelled : data.tokens[id];
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

}  // namespace

struct Tokenizer::Impl {
  Impl(const TokenizerData& data, MergeTable merges, std::unique_ptr<PreTokenizer> splitter)
      : bytes(data),
        types(data.types),
        pre_tokenizer(std::move(splitter)),
        bpe(std::move(merges), ByteTokens(data)),
        add_prefix_space(data.add_prefix_space),
        add_bos(data.add_bos),
        bos(data.bos),
        eos(data.eos),
        chat_template(data.chat_template) {
    for (size_t i = 0; i < data.tokens.size(); ++i) {
      if (types[i] == TokenType::kNormal) continue;
      const auto id = static_cast<int32_t>(i);
      const bool late = std::binary_search(data.matched_late.begin(), data.matched_late.end(), id);
      (late ? late_tokens : early_tokens).Add(data.tokens[i], id, types[i] == TokenType::kControl);
    }
    early_tokens.Finish();
    late_tokens.Finish();
  }

  // One text on its way to ids.
  struct Encoding {
    bool parse_special;
    std::vector<int32_t> ids;
    std::vector<std::string_view> words;
    Bpe::Scratch scratch;
  };
  // Cuts the text at its added tokens; `rest` gets what lies between.
  template <class Rest>
  void Match(const AddedTokens& added, std::string_view text, Encoding& out, Rest rest) const;
  void EncodeText(std::string_view text, Encoding& out) const;

  TokenBytes bytes;
  std::vector<TokenType> types;
  AddedTokens early_tokens, late_tokens;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  Bpe bpe;
  bool add_prefix_space, add_bos;
  int32_t bos, eos;
  std::string chat_template;
};

template <class Rest>
void Tokenizer::Impl::Match(const AddedTokens& added, std::string_view text, Encoding& out,
                            Rest rest) const {
  size_t done = 0;
  while (done < text.size()) {
    const AddedTokens::Match match = added.Find(text, done, out.parse_special);
    const size_t end = match.size > 0 ? match.begin : text.size();
    if (end > done) rest(text.substr(done, end - done));
    if (match.size > 0) out.ids.push_back(match.id);
    done = end + match.size;
  }
}

void Tokenizer::Impl::EncodeText(std::string_view text, Encoding& out) const {
  std::string prefixed;
  if (add_prefix_space && text[0] != ' ') {
    prefixed.reserve(text.size() + 1);
    prefixed.append(1, ' ').append(text);
    text = prefixed;
  }
  out.words.clear();
  pre_tokenizer->Split(text, out.words);
  for (const std::string_view word : out.words) bpe.Encode(word, out.scratch, out.ids);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerData data) {
  TQ_RETURN_IF_ERROR(CheckTokenizerData(data));
  TQ_ASSIGN_OR_RETURN(MergeTable merges, MergeTable::Create(data.merges, data.tokens.size()));
  TQ_ASSIGN_OR_RETURN(auto splitter, PreTokenizer::Create(data.pre_tokenizer));
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::make_unique<Impl>(data, std::move(merges), std::move(splitter))));
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

std::vector<int32_t> Tokenizer::Encode(std::string_view text, bool parse_special) const {
  Impl::Encoding out{parse_special, {}, {}, {}};
  out.ids.reserve(text.size() / 3);
  impl_->Match(impl_->early_tokens, text, out, [&](std::string_view rest) {
    impl_->Match(impl_->late_tokens, rest, out,
                 [&](std::string_view plain) { impl_->EncodeText(plain, out); });
  });
  return std::move(out.ids);
}

StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids, bool show_special) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= vocab_size()) {
      return InvalidArgument("token id {}: the vocabulary has {} tokens", id, vocab_size());
    }
    const auto i = static_cast<size_t>(id);
    if (show_special || impl_->types[i] != TokenType::kControl) text += impl_->bytes[i];
  }
  return text;
}

}  // namespace tq
