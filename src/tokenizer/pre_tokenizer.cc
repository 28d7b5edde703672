#include "tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "tokenizer/normalizer.h"
#include "tokenizer/pcre2_handles.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

// White_Space of Unicode. PCRE2's own \s (with UCP) would add U+180E and differs on U+0085.
#define TQ_SPACE "\\t-\\r\\x{85}\\p{Z}"
#define TQ_CONTRACTION "'s|'t|'re|'ve|'m|'ll|'d"
// Lines' ends with the spaces before them; spaces but the last one; spaces.
#define TQ_LINES_OR_SPACES \
  "[" TQ_SPACE "]*[\\r\\n]+|[" TQ_SPACE "]+(?![^" TQ_SPACE "])|[" TQ_SPACE "]+"
#define TQ_SIGNS "[^" TQ_SPACE "\\p{L}\\p{N}]+"

// GPT-2's pattern.
constexpr char kGpt2[] = TQ_CONTRACTION "| ?\\p{L}+| ?\\p{N}+| ?" TQ_SIGNS "|[" TQ_SPACE
                                        "]+(?![^" TQ_SPACE "])|[" TQ_SPACE "]+";

// The same applied to each stretch between digits, with the digits as words of their own:
// a digit ends a run of spaces as the end of the text does.
constexpr char kSmolLm[] = TQ_CONTRACTION "| ?\\p{L}+|\\p{N}| ?" TQ_SIGNS "|[" TQ_SPACE
                                          "]+(?![^" TQ_SPACE "\\p{N}])|[" TQ_SPACE "]+";

// A word takes one sign or space before it, signs take the ends of lines behind them.
#define TQ_LLAMA(digits)                                                               \
  "(?i:" TQ_CONTRACTION ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits "| ?" TQ_SIGNS \
  "[\\r\\n]*|" TQ_LINES_OR_SPACES
constexpr char kLlama3[] = TQ_LLAMA("{1,3}");
constexpr char kQwen2[] = TQ_LLAMA("");

// Words also end where a small letter is followed by a capital.
#define TQ_CAPITALS "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define TQ_SMALL "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
constexpr char kTekken[] =
    "[^\\r\\n\\p{L}\\p{N}]?" TQ_CAPITALS "*" TQ_SMALL "+|[^\\r\\n\\p{L}\\p{N}]?" TQ_CAPITALS
    "+" TQ_SMALL "*|\\p{N}| ?" TQ_SIGNS "[\\r\\n/]*|" TQ_LINES_OR_SPACES;

#undef TQ_SMALL
#undef TQ_CAPITALS
#undef TQ_LLAMA
#undef TQ_SIGNS
#undef TQ_LINES_OR_SPACES
#undef TQ_CONTRACTION
#undef TQ_SPACE

// What tokenizer.json has for the kinds that it gives as a pattern.
struct Spelling {
  PreTokenizerKind kind;
  std::string_view pattern;
};
constexpr std::array<Spelling, 3> kSpellings = {{
    {PreTokenizerKind::kLlama3,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
     R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {PreTokenizerKind::kQwen2, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                               R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {PreTokenizerKind::kTekken,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
     R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
}};

// What we compile for a kind; null where no pattern cuts.
const char* CompiledPattern(PreTokenizerKind kind) {
  switch (kind) {
    case PreTokenizerKind::kGpt2:
      return kGpt2;
    case PreTokenizerKind::kSmolLm:
      return kSmolLm;
    case PreTokenizerKind::kLlama3:
      return kLlama3;
    case PreTokenizerKind::kQwen2:
      return kQwen2;
    case PreTokenizerKind::kTekken:
      return kTekken;
    case PreTokenizerKind::kNone:
    case PreTokenizerKind::kMetaspace:
    case PreTokenizerKind::kMetaspaceWords:
      break;
  }
  return nullptr;
}

void SplitBeforeMarks(std::string_view text, std::vector<std::string_view>& words) {
  while (!text.empty()) {
    const size_t next = std::min(text.find(kSpaceMark, 1), text.size());
    words.push_back(text.substr(0, next));
    text.remove_prefix(next);
  }
}

}  // namespace

std::optional<std::string_view> PatternOf(PreTokenizerKind kind) {
  for (const Spelling& spelling : kSpellings) {
    if (spelling.kind == kind) return spelling.pattern;
  }
  return std::nullopt;
}

std::optional<PreTokenizerKind> KindOfPattern(std::string_view pattern) {
  for (const Spelling& spelling : kSpellings) {
    if (spelling.pattern == pattern) return spelling.kind;
  }
  return std::nullopt;
}

struct PreTokenizer::Pattern {
  Pcre2Code code;
  Pcre2MatchContext context;
};

PreTokenizer::PreTokenizer(PreTokenizerKind kind, std::unique_ptr<Pattern> pattern)
    : kind_(kind), pattern_(std::move(pattern)) {}
PreTokenizer::~PreTokenizer() = default;

StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(PreTokenizerKind kind) {
  const char* source = CompiledPattern(kind);
  if (source == nullptr) return std::unique_ptr<PreTokenizer>(new PreTokenizer(kind, nullptr));
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  auto pattern = std::make_unique<Pattern>();
  pattern->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source), PCRE2_ZERO_TERMINATED,
                                    PCRE2_UTF | PCRE2_ANCHORED, &error, &error_offset, nullptr));
  if (!pattern->code) {
    return Unimplemented(
        "PCRE2 error {} at byte {} of the pre-tokeniser's pattern: it needs UTF-8 "
        "and Unicode support",
        error, error_offset);
  }
  // Where executable memory is forbidden the interpreter does the same work, slower.
  (void)pcre2_jit_compile(pattern->code.get(), PCRE2_JIT_COMPLETE);
  pattern->context.reset(pcre2_match_context_create(nullptr));
  if (!pattern->context) return ResourceExhausted("pre-tokeniser: out of memory");
  // Whatever the text, a match takes steps in proportion to what it looks at, and a word looks
  // at no more than the run of spaces or letters behind it: no limit is needed.
  pcre2_set_match_limit(pattern->context.get(), UINT32_MAX);
  return std::unique_ptr<PreTokenizer>(new PreTokenizer(kind, std::move(pattern)));
}

void PreTokenizer::SplitValid(std::string_view text, std::vector<std::string_view>& words) const {
  if (text.empty()) return;
  const Pcre2MatchData match(pcre2_match_data_create(1, nullptr));
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t begin = 0;
  while (begin < text.size()) {
    const int found = match ? pcre2_match(pattern_->code.get(), subject, text.size(), begin,
                                          PCRE2_NO_UTF_CHECK, match.get(), pattern_->context.get())
                            : PCRE2_ERROR_NOMEMORY;
    // Every character starts a match; only memory can be lacking. The rest as one word then
    // still holds every byte.
    const size_t end = found > 0 ? pcre2_get_ovector_pointer(match.get())[1] : text.size();
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
}

void PreTokenizer::Split(std::string_view text, std::vector<std::string_view>& words) const {
  if (kind_ == PreTokenizerKind::kMetaspaceWords) return SplitBeforeMarks(text, words);
  if (!pattern_) {
    if (!text.empty()) words.push_back(text);
    return;
  }
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
