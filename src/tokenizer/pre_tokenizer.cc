#include "tokenizer/pre_tokenizer.h"

#include <string>
#include <utility>

#include "tokenizer/pcre2_handles.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

// White_Space of Unicode. PCRE2's own \s (with UCP) would add U+180E and differs on U+0085.
#define TQ_SPACE "\\t-\\r\\x{85}\\p{Z}"

// GPT-2's pattern.
constexpr char kGpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d"
    "| ?\\p{L}+| ?\\p{N}+| ?[^" TQ_SPACE
    "\\p{L}\\p{N}]+"
    "|[" TQ_SPACE "]+(?![^" TQ_SPACE "])|[" TQ_SPACE "]+";

// The same applied to each stretch between digits, with the digits as words of their own:
// a digit ends a run of spaces as the end of the text does.
constexpr char kSmolLm[] =
    "'s|'t|'re|'ve|'m|'ll|'d"
    "| ?\\p{L}+|\\p{N}| ?[^" TQ_SPACE
    "\\p{L}\\p{N}]+"
    "|[" TQ_SPACE "]+(?![^" TQ_SPACE "\\p{N}])|[" TQ_SPACE "]+";

#undef TQ_SPACE

// The patterns backtrack by one character at most, whatever the text: the limit is far
// above what a word needs and is there against bugs.
constexpr uint32_t kMatchLimit = 1000;

}  // namespace

struct PreTokenizer::Impl {
  Pcre2Code code;
  Pcre2MatchContext context;
};

PreTokenizer::PreTokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PreTokenizer::~PreTokenizer() = default;

StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(PreTokenizerKind kind) {
  const char* pattern = kind == PreTokenizerKind::kGpt2 ? kGpt2 : kSmolLm;
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  auto impl = std::make_unique<Impl>();
  impl->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                                 PCRE2_UTF | PCRE2_ANCHORED, &error, &error_offset, nullptr));
  if (!impl->code) {
    return Unimplemented(
        "PCRE2 error {} at byte {} of the pre-tokeniser's pattern: it needs UTF-8 "
        "and Unicode support",
        error, error_offset);
  }
  // Where executable memory is forbidden the interpreter does the same work, slower.
  (void)pcre2_jit_compile(impl->code.get(), PCRE2_JIT_COMPLETE);
  impl->context.reset(pcre2_match_context_create(nullptr));
  if (!impl->context) return ResourceExhausted("pre-tokeniser: out of memory");
  pcre2_set_match_limit(impl->context.get(), kMatchLimit);
  return std::unique_ptr<PreTokenizer>(new PreTokenizer(std::move(impl)));
}

void PreTokenizer::SplitValid(std::string_view text, std::vector<std::string_view>& words) const {
  if (text.empty()) return;
  const Pcre2MatchData match(pcre2_match_data_create(1, nullptr));
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t begin = 0;
  while (begin < text.size()) {
    const int found = match ? pcre2_match(impl_->code.get(), subject, text.size(), begin,
                                          PCRE2_NO_UTF_CHECK, match.get(), impl_->context.get())
                            : PCRE2_ERROR_NOMEMORY;
    // Every character starts a match; only memory can be lacking. The rest as one word then
    // still holds every byte.
    const size_t end = found > 0 ? pcre2_get_ovector_pointer(match.get())[1] : text.size();
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
}

void PreTokenizer::Split(std::string_view text, std::vector<std::string_view>& words) const {
  while (!text.empty()) {
    const size_t valid = Utf8ValidPrefix(text);
    SplitValid(text.substr(0, valid), words);
    text.remove_prefix(valid);
    size_t invalid = 0;
    while (invalid < text.size() && Utf8CharSize(text.substr(invalid)) == 0) ++invalid;
    if (invalid > 0) words.push_back(text.substr(0, invalid));
    text.remove_prefix(invalid);
  }
}

}  // namespace tq
