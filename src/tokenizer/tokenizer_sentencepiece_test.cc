// Reading SentencePiece's tokenizer.model, with messages made here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>

#include "../../tests/support/temp_folder.h"
#include "tokenizer/protobuf_reader.h"
#include "tokenizer/sentencepiece_model_for_test.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace tq::testing;  // NOLINT: the test support

StatusOr<TokenizerData> Read(const std::string& bytes, const std::string& config = "") {
  return TokenizerDataFromSentencePiece(bytes, config);
}

TEST(TokenizerSentencePiece, ReadsBpe) {
  const auto data = Read(Model());
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->model, TokenModel::kCharacterBpe);
  EXPECT_EQ(data->merges, (std::vector<TokenMerge>{{4, 7, 8}, {5, 6, 7}}));
  EXPECT_EQ(data->normalization, (Normalization{false, true, true}));
  EXPECT_TRUE(data->merges_tie && data->strip_prefix && data->add_bos && data->fuse_unk);
  EXPECT_EQ(data->unk, 0);
  EXPECT_EQ(data->bos, 1);
  EXPECT_EQ(data->eos, 2);
  EXPECT_EQ(data->pad, -1);
  EXPECT_EQ(data->tokens[9], "  ") << "as it stands in a text";
  const auto tokenizer = Tokenizer::Create(*data);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_THAT((*tokenizer)->Encode("ab ab\nxy<s>"), ElementsAre(8, 8, 3, 0));
  EXPECT_THAT((*tokenizer)->Encode("b  ab"), ElementsAre(4, 6, 9, 7));
  const auto again =
      TokenizerDataFromJson(TokenizerDataToJson(*data), TokenizerConfigToJson(*data));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, *data);
}

TEST(TokenizerSentencePiece, ReadsUnigram) {
  for (const std::string& bytes :
       {Model(1), PiecesOnly() + NormalizerSpec(true)}) {  // 1 is the default
    const auto data = Read(bytes);
    ASSERT_TRUE(data.ok()) << data.status().message();
    EXPECT_EQ(data->model, TokenModel::kUnigram);
    EXPECT_EQ(data->scores, (std::vector<double>{0, 0, 0, 0, -9, -8, -7, -2, -1, 0}));
    EXPECT_TRUE(data->merges.empty());
  }
  const auto data = Read(PiecesOnly() + Trainer(1) + NormalizerSpec(false));
  EXPECT_TRUE(!data->normalization.prefix_mark && !data->strip_prefix);
}

// Runs of spaces have one score in the files of Llama 2 and Mistral. "__" 3, "____" 4, "___" 5.
TEST(TokenizerSentencePiece, EqualScoresTie) {
  const std::string mark = "\u2581";
  const auto spaces = [&](size_t count) {
    std::string text;
    while (count-- > 0) text += mark;
    return Piece(text, -1e9f, 1);
  };
  const auto data = Read(Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + spaces(1) + spaces(2) +
                         spaces(4) + spaces(3) + Trainer(2) + NormalizerSpec(false));
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_THAT(data->tied_tokens, ElementsAre(4, 5));
  const auto tokenizer = Tokenizer::Create(*data);
  ASSERT_TRUE(tokenizer.ok());
  // The leftmost pair first, whatever it makes: 2, 3, 4 and so on.
  EXPECT_THAT((*tokenizer)->Encode(std::string(5, ' ')), ElementsAre(4, 2));
  EXPECT_THAT((*tokenizer)->Encode(std::string(7, ' ')), ElementsAre(4, 5));
  const auto again =
      TokenizerDataFromJson(TokenizerDataToJson(*data), TokenizerConfigToJson(*data));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, *data);
}

// As the library writes "_b__ab": the user-defined token is one of the sum, and the text is not
// cut there.
TEST(TokenizerSentencePiece, UnigramsSumUserDefinedTokens) {
  const auto data = Read(Model(1));
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_TRUE(data->float_sums);
  const auto tokenizer = Tokenizer::Create(*data);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_THAT((*tokenizer)->Encode("b  ab"), ElementsAre(4, 6, 9, 7));
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{4, 6, 9, 7}), "b  ab");
  const auto again =
      TokenizerDataFromJson(TokenizerDataToJson(*data), TokenizerConfigToJson(*data));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, *data);
}

TEST(TokenizerSentencePiece, ConfigDecidesAboutBos) {
  EXPECT_TRUE(Read(Model(), R"({"tokenizer_class": "LlamaTokenizer"})")->add_bos);
  EXPECT_FALSE(Read(Model(), R"({"add_bos_token": false})")->add_bos);
  EXPECT_EQ(Read(Model(), R"({"pad_token": "<unk>"})")->pad, 0);
  EXPECT_THAT(Read(Model(), R"({"add_eos_token": true})").status().message(),
              HasSubstr("add_eos_token is true"));
  EXPECT_THAT(
      Read(Model(), R"({"added_tokens_decoder": {"10": {"content": "<x>"}}})").status().message(),
      HasSubstr("'<x>' with id '10' is not among the tokenizer's added tokens"));
}

TEST(TokenizerSentencePiece, Folder) {
  const TempFolder temp;
  std::ofstream(temp.path() / "tokenizer.model") << Model();
  const auto tokenizer = Tokenizer::FromModel(temp.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ((*tokenizer)->vocab_size(), 10u);
  std::ofstream(temp.path() / "tokenizer.model") << "x";
  EXPECT_THAT(Tokenizer::FromModel(temp.path()).status().message(),
              HasSubstr(temp.path().string() + ": tokenizer.model"));
  std::ofstream(temp.path() / "tokenizer.json") << "{}";
  EXPECT_THAT(Tokenizer::FromModel(temp.path()).status().message(), HasSubstr("tokenizer.json"));
}

void ExpectError(const std::string& bytes, const std::string& words) {
  const auto data = Read(bytes);
  ASSERT_FALSE(data.ok()) << "expected an error with: " << words;
  EXPECT_THAT(data.status().message(), HasSubstr(words));
  EXPECT_THAT(data.status().message(), HasSubstr("tokenizer.model"));
}

// Robustness case 31: a table of characters is not decoded, whatever it holds.
TEST(TokenizerSentencePiece, RefusesByName) {
  const std::string pieces = PiecesOnly();
  ExpectError(pieces + Trainer(3) + NormalizerSpec(true), "model_type is 3");
  ExpectError(pieces + Trainer(2) + Bytes(3, Bytes(2, "\xFF\xFF") + Number(4, 0)),
              "precompiled_charsmap is not supported; a tokenizer.json beside it");
  ExpectError(pieces + Trainer(2), "remove_extra_whitespaces is true");
  ExpectError(Model() + Bytes(3, Number(5, 0)), "escape_whitespaces is false");
  ExpectError(Model() + Bytes(2, Number(24, 1)), "treat_whitespace_as_suffix");
  ExpectError(Model() + Bytes(5, Bytes(2, "x")), "denormalizer_spec");
  ExpectError(Model(1) + Piece("c", -3, 5), "pieces[10], 'c', is an unused token of a unigram");
}

// Robustness case 28, case 29.
TEST(TokenizerSentencePiece, HostilePieces) {
  ExpectError("", "no pieces in 0 bytes");
  ExpectError(Model() + Piece("ab", -3, 1), "tokens 7 and 10 are both 'ab'");
  ExpectError(Model() + Piece("", -3, 1), "token 10 is empty");
  ExpectError(Model() + Piece("\xC3", -3, 1), "token 10 is not UTF-8");
  ExpectError(Model() + Piece("c", NAN, 1), "pieces[10] has the score nan");
  ExpectError(Model() + Piece("c", -3, 9), "pieces[10] has the type 9");
  ExpectError(Model() + Piece("c", -3, 6), "token 10, 'c', is no name of a byte");
  ExpectError(Model() + Piece(std::string(1 << 20, 'x'), -3, 1), "has 1048576 bytes");
  ExpectError(Model() + Piece(std::string(1 << 20, 'x'), -3, 4), "the limit is 256");
  ExpectError(Model() + Bytes(1, Number(1, 7)), "pieces.piece has the wire type 0");
  ExpectError(Model() + Bytes(1, Bytes(2, "x")), "pieces.score has the wire type 2");
  ExpectError(Model() + Number(1, 7), "wire type 0");
  // Ids outside the vocabulary count as none, as SentencePiece has it.
  const auto data = Read(Model() + Bytes(2, Number(41, 10) + Number(42, -5)));
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->bos, -1);
  EXPECT_EQ(data->eos, -1);
  EXPECT_FALSE(data->add_bos);
}

TEST(ProtobufReader, RefusesWhatIsNotWellFormed) {
  for (size_t size = 1; size < Model().size(); ++size) {
    (void)Read(Model().substr(0, size));  // any error, and no more
  }
  ExpectError(std::string("\x0A\x7F"
                          "x"),
              "runs past the end of its 3 bytes");
  ExpectError("\x15\1\2", "runs past the end");
  ExpectError("\x11\1\2", "runs past the end");
  ExpectError("\x08", "runs past the end");
  ExpectError(std::string("\0\0", 2), "field number 0 at byte 0");
  ExpectError("\x0B", "wire type 3 of field 1");
  ExpectError("\x0E", "wire type 6");
  ExpectError("\x08" + std::string(11, '\x80'), "more than 10 bytes at byte 1");
  ExpectError("\x0A" + std::string(9, '\xFF') + '\1', "runs past the end");
}

TEST(ProtobufReader, SkipsWhatItDoesNotKnow) {
  const std::string more = Number(9, -1) + Bytes(200, "x") + Float(7, 1) + "\x81\1" + "12345678";
  EXPECT_EQ(*Read(Model() + more), *Read(Model()));
}

}  // namespace
}  // namespace tq
