#include "evaluate/task_tokens.h"

#include <string_view>
#include <utility>

namespace tq {
namespace {

// Tokens of a context and a choice, and the first that is scored.
struct Sequence {
  std::vector<int32_t> tokens;
  size_t first = 0;
};

size_t CommonPrefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b, size_t limit) {
  limit = std::min({limit, a.size(), b.size()});
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + limit, b.begin()).first -
                             a.begin());
}

std::string_view WithoutTrailingSpace(std::string_view text) {
  return text.substr(0, text.find_last_not_of(kTaskSpace) + 1);
}

// `context_tokens`: of the context without white space at its end.
Sequence EncodePair(const Tokenizer& tokenizer, std::string_view context, std::string_view choice,
                    const std::vector<int32_t>& context_tokens) {
  std::string text(context);
  const auto is_space = [](char c) { return kTaskSpace.find(c) != std::string_view::npos; };
  if (!context.empty() && !is_space(context.back()) && !is_space(choice.front())) text += ' ';
  text += choice;
  Sequence sequence;
  sequence.tokens = tokenizer.Encode(text);
  sequence.first = CommonPrefix(sequence.tokens, context_tokens, context_tokens.size());
  return sequence;
}

// BOS where the model expects it, and something where nothing is there to predict a token from.
Status Precede(const Tokenizer& tokenizer, std::vector<Sequence>& sequences) {
  const bool alone = std::any_of(sequences.begin(), sequences.end(),
                                 [](const Sequence& sequence) { return sequence.first == 0; });
  if (!alone && !tokenizer.add_bos()) return OkStatus();
  const int32_t token = tokenizer.bos() >= 0 ? tokenizer.bos() : tokenizer.eos();
  if (token < 0) {
    return InvalidArgument("the context has no token, and the tokenizer neither BOS nor EOS");
  }
  for (Sequence& sequence : sequences) {
    sequence.tokens.insert(sequence.tokens.begin(), token);
    ++sequence.first;
  }
  return OkStatus();
}

// How many tokens are run once for all. What is left has at least two to run, and so have the
// shared ones, where the question allows: a token that is computed alone has coarser activations
// (model/transformer.h), and the likelihoods would depend on what is shared.
size_t SharedTokens(const std::vector<Sequence>& sequences) {
  size_t shared = sequences[0].tokens.size();
  for (const Sequence& sequence : sequences) {
    const size_t runs = sequence.tokens.size() - 1;  // the last token is only predicted
    shared = std::min({shared, sequence.first - 1, runs - std::min<size_t>(runs, 2)});
    shared = CommonPrefix(sequences[0].tokens, sequence.tokens, shared);
  }
  return shared == 1 ? 0 : shared;
}

uint64_t CountCharacters(std::string_view utf8) {
  const auto starts = [](char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; };
  return static_cast<uint64_t>(std::count_if(utf8.begin(), utf8.end(), starts));
}

StatusOr<QuestionTokens> TokenizeQuestion(const TaskQuestion& question,
                                          const Tokenizer& tokenizer) {
  std::vector<Sequence> sequences;
  std::vector<int32_t> context_tokens;
  for (size_t i = 0; i < question.size(); ++i) {
    const std::string& context = question.context(i);
    if (i == 0 || question.contexts.size() > 1) {
      context_tokens = tokenizer.Encode(WithoutTrailingSpace(context));
    }
    sequences.push_back(EncodePair(tokenizer, context, question.choice(i), context_tokens));
    if (sequences.back().first == sequences.back().tokens.size()) {
      return InvalidArgument("choice {} has no token of its own", i);
    }
  }
  TQ_RETURN_IF_ERROR(Precede(tokenizer, sequences));

  const size_t shared = SharedTokens(sequences);
  QuestionTokens result;
  result.line = question.line;
  result.gold = question.gold;
  result.shared.assign(sequences[0].tokens.begin(), sequences[0].tokens.begin() + shared);
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& sequence = sequences[i];
    result.choices.push_back({{sequence.tokens.begin() + shared, sequence.tokens.end()},
                              sequence.first - shared,
                              CountCharacters(question.choice(i))});
  }
  return result;
}

}  // namespace

StatusOr<TaskTokens> TokenizeTasks(const TaskFile& tasks, const Tokenizer& tokenizer) {
  TaskTokens result;
  result.name = tasks.name;
  for (const TaskQuestion& question : tasks.questions) {
    auto tokens = TokenizeQuestion(question, tokenizer);
    if (!tokens.ok()) {
      return tokens.status().WithContext(fmt::format("{}: line {}", tasks.name, question.line));
    }
    result.questions.push_back(*std::move(tokens));
  }
  return result;
}

}  // namespace tq
