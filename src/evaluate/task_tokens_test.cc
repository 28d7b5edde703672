#include "evaluate/task_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/status_matcher_for_test.h"
#include "tokenizer/test_vocabulary.h"

namespace tq {
namespace {

using ::testing::ElementsAre;
using testing::Fails;
using ::testing::IsEmpty;

// Bytes are their own ids; " c" is 256, "cd" 257.
TokenizerData Bytes() {
  return *TokenizerDataFromJson(testing::TestTokenizerJson({{" ", "c"}, {"c", "d"}}).dump(), "");
}

TaskFile Question(std::vector<std::string> contexts, std::vector<std::string> choices) {
  return {"tasks", {{5, std::move(contexts), std::move(choices), 1}}};
}

StatusOr<QuestionTokens> Tokenize(const TaskFile& tasks, TokenizerData data) {
  auto tokenizer = Tokenizer::Create(std::move(data));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  TQ_ASSIGN_OR_RETURN(TaskTokens tokens, TokenizeTasks(tasks, **tokenizer));
  EXPECT_EQ(tokens.name, "tasks");
  EXPECT_EQ(tokens.positions(), tokens.questions[0].positions());
  return std::move(tokens.questions[0]);
}

TEST(TaskTokens, ASpaceJoinsContextAndChoice) {
  const auto question = Tokenize(Question({"wxyz"}, {"cd", "cx\u00e9"}), Bytes());
  ASSERT_TRUE(question.ok()) << question.status().message();
  EXPECT_EQ(question->line, 5u);
  EXPECT_EQ(question->gold, 1u);
  // The last token of the context is run with each choice: it predicts the first of its tokens.
  EXPECT_THAT(question->shared, ElementsAre('w', 'x', 'y'));
  ASSERT_EQ(question->choices.size(), 2u);
  EXPECT_THAT(question->choices[0].tokens, ElementsAre('z', 256, 'd'));
  EXPECT_THAT(question->choices[1].tokens, ElementsAre('z', 256, 'x', 0xC3, 0xA9));
  EXPECT_EQ(question->choices[0].first, 1u);
  EXPECT_EQ(question->choices[1].first, 1u);
  EXPECT_EQ(question->choices[0].characters, 2u);
  EXPECT_EQ(question->choices[1].characters, 3u);
  EXPECT_EQ(question->positions(), 7u);  // nothing is run of the last token
}

// White space at the end of a context is scored with the choice, and takes the space's place.
TEST(TaskTokens, SpaceAtTheEndOfAContextIsScored) {
  const auto question = Tokenize(Question({"wxyz\n"}, {"cd", "ce"}), Bytes());
  ASSERT_TRUE(question.ok()) << question.status().message();
  EXPECT_THAT(question->shared, ElementsAre('w', 'x', 'y'));
  EXPECT_THAT(question->choices[0].tokens, ElementsAre('z', '\n', 257));
  EXPECT_EQ(question->choices[0].first, 1u);
  const auto spaced = Tokenize(Question({"wxyz "}, {"cd", "ce"}), Bytes());
  const auto choice = Tokenize(Question({"wxyz"}, {" cd", " ce"}), Bytes());
  EXPECT_THAT(spaced->choices[0].tokens, ElementsAre('z', 256, 'd'));
  EXPECT_THAT(choice->choices[0].tokens, ElementsAre('z', 256, 'd'));
}

// A token that is computed alone has coarser activations than one among others.
TEST(TaskTokens, NoTokenIsRunAlone) {
  const auto single = Tokenize(Question({"wxyz"}, {"c", "cdef"}), Bytes());
  EXPECT_THAT(single->shared, ElementsAre('w', 'x'));
  EXPECT_THAT(single->choices[0].tokens, ElementsAre('y', 'z', 256));
  EXPECT_EQ(single->choices[0].first, 2u);
  const auto shorter = Tokenize(Question({"xyz"}, {"c", "cdef"}), Bytes());
  EXPECT_THAT(shorter->shared, IsEmpty());
  EXPECT_EQ(shorter->choices[1].first, 3u);
}

TEST(TaskTokens, ContextsThatDiffer) {
  const auto question = Tokenize(Question({"wxy a", "wxy bb"}, {"cd"}), Bytes());
  ASSERT_TRUE(question.ok()) << question.status().message();
  EXPECT_THAT(question->shared, ElementsAre('w', 'x', 'y', ' '));
  EXPECT_THAT(question->choices[0].tokens, ElementsAre('a', 256, 'd'));
  EXPECT_THAT(question->choices[1].tokens, ElementsAre('b', 'b', 256, 'd'));
  EXPECT_EQ(question->choices[0].first, 1u);
  EXPECT_EQ(question->choices[1].first, 2u);
}

TEST(TaskTokens, BosComesFirstWhereTheModelExpectsIt) {
  TokenizerData data = Bytes();
  data.bos = '<';
  data.eos = '>';
  const auto without = Tokenize(Question({"xyz"}, {"cd", "ce"}), data);
  EXPECT_THAT(without->shared, ElementsAre('x', 'y'));
  data.add_bos = true;
  const auto with = Tokenize(Question({"xyz"}, {"cd", "ce"}), data);
  EXPECT_THAT(with->shared, ElementsAre('<', 'x', 'y'));
  EXPECT_EQ(with->choices[0].first, 1u);
}

// Something must predict the first token: BOS, or what separates texts.
TEST(TaskTokens, WithoutAContext) {
  TokenizerData data = Bytes();
  const TaskFile tasks = Question({""}, {"cd", "e"});
  EXPECT_THAT(Tokenize(tasks, data),
              Fails(StatusCode::kInvalidArgument, "tasks: line 5", "neither BOS nor EOS"));
  data.eos = '>';
  const auto eos = Tokenize(tasks, data);
  ASSERT_TRUE(eos.ok()) << eos.status().message();
  EXPECT_THAT(eos->shared, IsEmpty());
  EXPECT_THAT(eos->choices[0].tokens, ElementsAre('>', 257));
  EXPECT_THAT(eos->choices[1].tokens, ElementsAre('>', 'e'));
  EXPECT_EQ(eos->choices[1].first, 1u);
  data.bos = '<';
  EXPECT_THAT(Tokenize(tasks, data)->choices[0].tokens, ElementsAre('<', 257));
  data.add_bos = true;
  EXPECT_THAT(Tokenize(tasks, data)->choices[0].tokens, ElementsAre('<', 257));
  // A context of white space alone belongs to what is scored.
  EXPECT_THAT(Tokenize(Question({" "}, {"cd", "e"}), data)->choices[0].tokens,
              ElementsAre('<', 256, 'd'));
}

// "b" and the space behind it become one token, which the context alone does not have.
TEST(TaskTokens, ATokenOverTheBoundaryIsScored) {
  // Ids: "_" 258, "a" 259, "b" 260, "c" 261, "b_" 262.
  const auto data = TokenizerDataFromJson(
      testing::TestPieceTokenizerJson({"_", "a", "b", "c"}, {{"b", "_"}}).dump(), "");
  ASSERT_TRUE(data.ok()) << data.status().message();
  const auto question = Tokenize(Question({"aaab"}, {"cc", "ca"}), *data);
  ASSERT_TRUE(question.ok()) << question.status().message();
  EXPECT_THAT(question->shared, ElementsAre(258, 259, 259));
  EXPECT_THAT(question->choices[0].tokens, ElementsAre(259, 262, 261, 261));
  EXPECT_EQ(question->choices[0].first, 1u);
}

TEST(TaskTokens, AChoiceWithoutTokensIsAnError) {
  // Without a token for "z", which is dropped then.
  testing::Json root = testing::TestTokenizerJson({});
  auto& vocabulary = root["model"]["vocab"];
  const int id = vocabulary["z"];
  vocabulary.erase("z");
  vocabulary["zz"] = id;
  const auto data = TokenizerDataFromJson(root.dump(), "");
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_THAT(Tokenize(Question({""}, {"y", "z"}), *data),
              Fails(StatusCode::kInvalidArgument, "tasks: line 5", "choice 1", "no token"));
}

}  // namespace
}  // namespace tq
