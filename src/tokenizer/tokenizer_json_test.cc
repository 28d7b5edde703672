// Reading tokenizer.json and tokenizer_config.json: what is accepted, what is refused and
// by which words, and hostile files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "../../tests/support/temp_folder.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/test_vocabulary.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

using testing::AddToken;
using ::testing::HasSubstr;
using testing::Json;
using testing::TempFolder;
using testing::TestTokenizerJson;

// _ 258, t 259, h 260, th 261, _th 262.
Json Pieces() {
  return testing::TestPieceTokenizerJson({"_", "t", "h"}, {{"t", "h"}, {"_", "th"}});
}

Json Base() { return TestTokenizerJson({{"t", "h"}, {"th", "e"}, {" ", "the"}}); }

StatusOr<TokenizerData> Read(const Json& root, const std::string& config = "") {
  return TokenizerDataFromJson(root.dump(), config);
}

void ExpectError(const StatusOr<TokenizerData>& data, const std::string& words) {
  ASSERT_FALSE(data.ok()) << "expected an error with: " << words;
  EXPECT_THAT(data.status().message(), HasSubstr(words));
  EXPECT_EQ(data.status().message().find('\n'), std::string::npos);
  EXPECT_LT(data.status().message().size(), 500u);
}

TEST(TokenizerJson, ReadsBothSpellingsOfMerges) {
  Json root = Base();
  const auto pairs = Read(root);
  ASSERT_TRUE(pairs.ok()) << pairs.status().message();
  EXPECT_EQ(pairs->merges,
            (std::vector<TokenMerge>{{'t', 'h', 256}, {256, 'e', 257}, {' ', 257, 258}}));
  root["model"]["merges"] = {"t h", "th e", "\u0120 the"};
  const auto strings = Read(root);
  ASSERT_TRUE(strings.ok()) << strings.status().message();
  EXPECT_EQ(*strings, *pairs);
}

TEST(TokenizerJson, OrderOfKeysDoesNotMatter) {
  Json root = Base(), model;
  model["merges"] = root["model"]["merges"];
  model["vocab"] = root["model"]["vocab"];
  model["type"] = "BPE";
  Json other;
  other["model"] = model;
  for (const auto& [key, value] : root.items()) {
    if (key != "model") other[key] = value;
  }
  EXPECT_EQ(*Read(other), *Read(root));
}

TEST(TokenizerJson, AddedTokensAndPreTokenizers) {
  Json root = Base();
  const int end = AddToken(root, "<|end|>", true);
  const int user = AddToken(root, "\u00E9 x", false, /*late=*/true);
  root["pre_tokenizer"] = Json::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]})");
  const auto data = Read(root);
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->pre_tokenizer, PreTokenizerKind::kSmolLm);
  EXPECT_EQ(data->tokens[static_cast<size_t>(end)], "<|end|>");
  EXPECT_EQ(data->types[static_cast<size_t>(end)], TokenType::kControl);
  EXPECT_EQ(data->types[static_cast<size_t>(user)], TokenType::kUserDefined);
  EXPECT_EQ(data->matched_late, std::vector<int32_t>{user});
  EXPECT_FALSE(data->add_bos);
}

Json Split(std::string_view pattern) {
  Json steps = Json::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})");
  steps["pretokenizers"][0]["pattern"]["Regex"] = pattern;
  return steps;
}

TEST(TokenizerJson, PatternsOfLaterModels) {
  for (const auto kind :
       {PreTokenizerKind::kLlama3, PreTokenizerKind::kQwen2, PreTokenizerKind::kTekken}) {
    Json root = Base();
    root["pre_tokenizer"] = Split(*PatternOf(kind));
    const auto data = Read(root);
    ASSERT_TRUE(data.ok()) << data.status().message();
    EXPECT_EQ(data->pre_tokenizer, kind);
    Json& step = root["pre_tokenizer"]["pretokenizers"][0];
    step["behavior"] = "Removed";
    ExpectError(Read(root), "behavior is 'Removed'");
    step["behavior"] = "Isolated";
    step["invert"] = true;
    ExpectError(Read(root), "invert is true");
    step["invert"] = false;
    root["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = true;
    ExpectError(Read(root), "use_regex is true");
    root["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = false;
    root["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true;
    ExpectError(Read(root), "add_prefix_space together");
  }
}

TEST(TokenizerJson, ReadsPieces) {
  const auto data = Read(Pieces());
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->model, TokenModel::kCharacterBpe);
  EXPECT_EQ(data->pre_tokenizer, PreTokenizerKind::kNone);
  EXPECT_EQ(data->normalization, (Normalization{false, true, true}));
  EXPECT_TRUE(data->strip_prefix && data->missing_to_unk && data->fuse_unk);
  EXPECT_FALSE(data->merges_tie);
  EXPECT_EQ(data->unk, 0);
  EXPECT_EQ(data->types[2], TokenType::kByte);
  EXPECT_EQ(data->types[258], TokenType::kNormal);
  EXPECT_EQ(data->merges, (std::vector<TokenMerge>{{259, 260, 261}, {258, 261, 262}}));
  // As Gemma has it: no mark before the text, and a cut at spaces that are none any more.
  Json root = Pieces();
  root["normalizer"] = root["normalizer"]["normalizers"][1];
  root["decoder"]["decoders"].erase(3);
  root["pre_tokenizer"] = Json::parse(R"({"type": "Split", "pattern": {"String": " "},
      "behavior": "MergedWithPrevious", "invert": false})");
  const auto gemma = Read(root);
  ASSERT_TRUE(gemma.ok()) << gemma.status().message();
  EXPECT_EQ(gemma->normalization, (Normalization{false, false, true}));
  EXPECT_FALSE(gemma->strip_prefix);
  // Without byte fallback the tokens of bytes are like any other.
  root["model"]["byte_fallback"] = false;
  EXPECT_EQ(Read(root)->types[2], TokenType::kNormal);
}

TEST(TokenizerJson, RefusesOtherStepsByName) {
  const auto error = [](const char* part, const char* json, const char* words) {
    SCOPED_TRACE(json);
    Json root = Pieces();
    root[part] = Json::parse(json);
    ExpectError(Read(root), words);
  };
  // Robustness case 31: a table of characters is not decoded, whatever it holds.
  error("normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "AAAA"})",
        "normalizer has type 'Precompiled'");
  error("normalizer", R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})",
        "normalizers[0] has type 'Lowercase'");
  error("normalizer", R"({"type": "Prepend", "prepend": "x"})", "prepend is 'x'");
  error("normalizer", R"({"type": "Replace", "pattern": {"String": " "}, "content": "_"})",
        "content is '_'");
  error("normalizer", R"({"type": "Replace", "pattern": {"Regex": " +"}, "content": "\u2581"})",
        "pattern is no String");
  error("normalizer", R"({"type": "Replace", "pattern": " ", "content": "\u2581"})",
        "pattern is string, want an object");
  error("normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFC"}]})",
        "normalizers[1]: the same step a second time");
  error("normalizer", R"({"type": "NFC", "extra": 1})", "unknown field 'extra'");
  error("pre_tokenizer", R"({"type": "Whitespace"})", "'Whitespace' without ByteLevel");
  error("pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"})",
        "replacement is '_'");
  error("pre_tokenizer",
        R"({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "last"})",
        "prepend_scheme is 'last'");
  error("pre_tokenizer", R"({"type": "Metaspace", "replacement": "\u2581"})",
        "add_prefix_space is missing");
  error("pre_tokenizer", R"({"type": "Split", "pattern": {"String": "x"}, "behavior": "Removed"})",
        "'Split' without ByteLevel");
  error("pre_tokenizer", R"({"type": "ByteLevel", "add_prefix_space": false})",
        "model.byte_fallback is true");
  error("decoder", R"({"type": "Fuse"})", "lacks a step that turns U+2581");
  error("decoder", R"({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never"})",
        "lacks ByteFallback");
  error("decoder", R"({"type": "Replace", "pattern": {"String": "\u2581"}, "content": "_"})",
        "content is '_'");
  error("decoder", R"({"type": "Strip", "content": " ", "start": 2, "stop": 0})", "a start of 1");
  error("decoder", R"({"type": "CTC"})", "decoder has type 'CTC'");
  error("decoder", R"({"type": "Sequence", "decoders": [
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "ByteFallback"}]})",
        "'Strip' without Fuse before");
  error("decoder", R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "ByteFallback"}]})",
        "behind one that strips");
}

TEST(TokenizerJson, ReadsUnigram) {
  Json root = Pieces();
  root["model"] = Json::parse(R"({"type": "Unigram", "unk_id": 0, "byte_fallback": true,
      "vocab": [["<unk>", 0], ["<s>", 0.0], ["<0x41>", -0.0], ["\u2581", -2], ["a", -3.5e-1]]})");
  const auto data = Read(root);
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->model, TokenModel::kUnigram);
  EXPECT_EQ(data->scores, (std::vector<double>{0, 0, 0, -2, -0.35}));
  EXPECT_EQ(data->types[2], TokenType::kByte);
  EXPECT_EQ(data->unk, 0);
  EXPECT_TRUE(data->missing_to_unk);
  // Robustness case 29.
  const auto error = [&](const Json& vocab, const char* words) {
    Json changed = root;
    changed["model"]["vocab"] = vocab;
    ExpectError(Read(changed), words);
  };
  error(Json::array(), "want a list of tokens and scores, and not empty");
  error({{"a", 1}}, "want a list");
  error(Json::array({"a"}), "model.vocab[0]: want a token and its score");
  error(Json::array({Json::array({"a", -1}), Json::array({"b"})}), "model.vocab[1]");
  error(Json::array({Json::array({"a", -1, 2})}), "model.vocab[0]");
  error(Json::array({Json::array({-1, "a"})}), "model.vocab[0]");
  error(Json::array({Json::array({"a", "b"})}), "model.vocab[0]");
  error(Json::array({Json::array({"a", nullptr})}), "model.vocab[0]");
  error(Json::array({Json::array({"a", Json::array()})}), "model.vocab[0]");
  error(Json::array({Json::array({"a", Json::object()})}), "model.vocab[0]");
  error(Json::array({Json::array({"<unk>", -1}), Json::array({"", -1})}), "token 1 is empty");
  error(Json::array(
            {Json::array({"<unk>", -1}), Json::array({"<s>", -1}), Json::array({"<unk>", -1})}),
        "tokens 0 and 2 are both");
  error(Json::array({Json::array({"<unk>", -1}), Json::array({"<s>", -1}),
                     Json::array({std::string(257, 'x'), -1})}),
        "token 2 has 257 bytes");
  Json changed = root;
  changed["model"]["unk_id"] = 5;
  ExpectError(Read(changed), "unknown token id 5: the vocabulary has 5 tokens");
  changed["model"]["unk_id"] = -1;
  ExpectError(Read(changed), "unk_id is -1");
  changed = root;
  changed["model"]["dropout"] = 0.1;
  ExpectError(Read(changed), "unknown field 'dropout'");
}

TEST(TokenizerJson, AddedTokensInsideTheVocabulary) {
  Json root = Base();
  const int id = static_cast<int>(root["model"]["vocab"].size());
  root["model"]["vocab"]["<s>"] = id;
  AddToken(root, "<s>", true);
  root["added_tokens"][0]["id"] = id;
  const auto data = Read(root);
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->tokens.size(), static_cast<size_t>(id) + 1);
  EXPECT_EQ(data->types.back(), TokenType::kControl);
}

Json WithTemplate() {
  Json root = Base();
  const int bos = AddToken(root, "<s>", true);
  root["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}})");
  root["post_processor"]["special_tokens"]["<s>"]["ids"][0] = bos;
  return root;
}

TEST(TokenizerJson, TemplateSaysWhetherBosIsAdded) {
  const auto data = Read(WithTemplate());
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_TRUE(data->add_bos);
  EXPECT_EQ(data->bos, 259);

  Json sequence = WithTemplate();
  const Json inner = sequence["post_processor"];
  sequence["post_processor"] = {{"type", "Sequence"},
                                {"processors", Json::array({{{"type", "ByteLevel"}}, inner})}};
  EXPECT_EQ(*Read(sequence), *data);

  Json after = WithTemplate();
  auto& single = after["post_processor"]["single"];
  std::swap(single[0], single[1]);
  ExpectError(Read(after), "only a token before the text");
  Json lacking = WithTemplate();
  lacking["post_processor"]["special_tokens"] = Json::object();
  ExpectError(Read(lacking), "special_tokens lacks '<s>'");
  Json outside = WithTemplate();
  outside["post_processor"]["special_tokens"]["<s>"]["ids"][0] = 5000;
  ExpectError(Read(outside), "token id 5000: the vocabulary has 260 tokens");
}

TEST(TokenizerJson, ConfigNamesSpecialTokens) {
  Json root = Base();
  AddToken(root, "<s>", true);
  AddToken(root, "</s>", true);
  const auto data = Read(root, R"({"bos_token": "<s>", "eos_token": {"content": "</s>"},
      "unk_token": null, "pad_token": "<nowhere>", "add_bos_token": true,
      "model_max_length": 1e30,
      "chat_template": [{"name": "tool_use", "template": "x"},
                        {"name": "default", "template": "{{ y }}"}]})");
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->bos, 259);
  EXPECT_EQ(data->eos, 260);
  EXPECT_EQ(data->unk, -1);
  EXPECT_EQ(data->pad, -1);
  EXPECT_TRUE(data->add_bos);
  EXPECT_EQ(data->chat_template, "{{ y }}");
}

TEST(TokenizerJson, ConfigContradictions) {
  const Json root = WithTemplate();
  ExpectError(Read(root, R"({"eos_token": "</s>"})"), "eos_token is '</s>', which is not in");
  ExpectError(Read(root, R"({"bos_token": "t"})"),
              "bos_token is token 116, but the tokenizer uses");
  ExpectError(Read(root, R"({"add_prefix_space": true})"), "add_prefix_space is true");
  ExpectError(Read(root, R"({"add_eos_token": true})"), "add_eos_token is true");
  ExpectError(Read(root, R"({"add_bos_token": "yes"})"), "add_bos_token is string");
  ExpectError(Read(root, R"({"chat_template": 7})"), "chat_template is number");
  ExpectError(Read(root, R"({"added_tokens_decoder": {"7": {"content": "<s>"}}})"),
              "'<s>' with id '7' is not among");
  ExpectError(Read(root, "[]"), "tokenizer_config.json is array, want an object");
  ExpectError(Read(root, "{"), "tokenizer_config.json: not JSON");
  ExpectError(Read(root, "{\"chat_template\": \"" + std::string((1 << 20) + 1, 'x') + "\"}"),
              "the chat template has 1048577 bytes");
}

struct Refusal {
  const char* name;
  std::function<void(Json&)> change;
  const char* words;
};

TEST(TokenizerJson, RefusesOtherTokenizersByName) {
  const std::vector<Refusal> refusals = {
      {"unigram", [](Json& j) { j["model"]["type"] = "Unigram"; },
       "want a list of tokens and scores"},
      {"wordpiece", [](Json& j) { j["model"]["type"] = "WordPiece"; }, "'WordPiece'"},
      {"no type", [](Json& j) { j["model"].erase("type"); }, "model.type is missing"},
      {"no model", [](Json& j) { j.erase("model"); }, "model is missing"},
      {"fallback", [](Json& j) { j["model"]["byte_fallback"] = true; }, "byte_fallback is true"},
      {"dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }, "dropout"},
      {"suffix", [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, "'</w>'"},
      {"prefix", [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; }, "'##'"},
      {"unk", [](Json& j) { j["model"]["unk_token"] = "<no>"; }, "unk_token '<no>'"},
      {"model field", [](Json& j) { j["model"]["magic"] = 1; }, "unknown field 'magic'"},
      {"field", [](Json& j) { j["extra"] = 1; }, "unknown field 'extra'"},
      {"normalizer",
       [](Json& j) {
         j["normalizer"] = {{"type", "NFKC"}};
       },
       "'NFKC'"},
      {"decoder",
       [](Json& j) {
         j["decoder"] = {{"type", "Metaspace"}};
       },
       "'Metaspace'"},
      {"no decoder", [](Json& j) { j.erase("decoder"); }, "decoder is null"},
      {"no splitter", [](Json& j) { j["pre_tokenizer"] = nullptr; },
       "decoder has type 'ByteLevel'"},
      {"metaspace", [](Json& j) { j["pre_tokenizer"]["type"] = "Metaspace"; },
       "replacement is missing"},
      {"no regex", [](Json& j) { j["pre_tokenizer"]["use_regex"] = false; }, "use_regex is false"},
      {"roberta",
       [](Json& j) {
         j["post_processor"] = {{"type", "RobertaProcessing"}};
       },
       "'RobertaProcessing'"},
      {"digits",
       [](Json& j) {
         const Json byte_level = j["pre_tokenizer"];
         j["pre_tokenizer"] = {{"type", "Sequence"},
                               {"pretokenizers", Json::array({{{"type", "Digits"}}, byte_level})}};
       },
       "individual_digits is false"},
      {"strip",
       [](Json& j) {
         AddToken(j, "<m>", true);
         j["added_tokens"][0]["lstrip"] = true;
       },
       "lstrip is true"},
      {"word",
       [](Json& j) {
         AddToken(j, "<m>", true);
         j["added_tokens"][0]["single_word"] = true;
       },
       "single_word is true"},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.name);
    Json root = Base();
    refusal.change(root);
    ExpectError(Read(root), refusal.words);
  }
}

// Robustness case 30: a regular expression of a file is never compiled.
TEST(TokenizerJson, RefusesRegularExpressions) {
  Json root = Base();
  const std::string nested = std::string(100000, '(') + "a" + std::string(100000, ')');
  root["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers", Json::array({{{"type", "Split"}, {"pattern", {{"Regex", nested}}}},
                                     root["pre_tokenizer"]})}};
  ExpectError(Read(root), "type 'Split'");
}

// Robustness case 29.
TEST(TokenizerJson, HostileVocabularies) {
  const auto with = [](const std::function<void(Json&)>& change) {
    Json root = Base();
    change(root);
    return Read(root);
  };
  ExpectError(with([](Json& j) { j["model"]["vocab"]["zz"] = 2147483648u; }), "is 2147483648");
  ExpectError(with([](Json& j) { j["model"]["vocab"]["zz"] = -1; }), "model.vocab['zz'] is -1");
  ExpectError(with([](Json& j) { j["model"]["vocab"]["zz"] = 2147483647; }), "ids are missing");
  ExpectError(with([](Json& j) { j["model"]["vocab"]["zz"] = 260; }), "ids are missing");
  ExpectError(with([](Json& j) { j["model"]["vocab"]["zz"] = 3; }), "both have the id 3");
  ExpectError(with([](Json& j) { j["model"]["vocab"]["zz"] = "7"; }), "is string, want an id");
  ExpectError(with([](Json& j) { j["model"]["vocab"]["zz"] = 1.5; }), "is number, want an id");
  ExpectError(with([](Json& j) { j["model"]["vocab"]["zz"] = Json::array(); }), "want an id");
  ExpectError(with([](Json& j) { j["model"]["vocab"]["zz"] = Json::object(); }), "want an id");
  ExpectError(with([](Json& j) { j["model"]["vocab"][""] = 259; }), "token 259 is empty");
  ExpectError(with([](Json& j) { j["model"]["vocab"] = Json::object(); }), "and not empty");
  ExpectError(with([](Json& j) {
                j["model"]["vocab"] = Json::object();
                j["model"]["merges"] = Json::array();
              }),
              "and not empty");
  ExpectError(with([](Json& j) { j["model"]["vocab"] = nullptr; }), "and not empty");
  ExpectError(with([](Json& j) { j["model"]["vocab"] = Json::array({1}); }), "");
}

// Robustness case 28.
TEST(TokenizerJson, HostileMerges) {
  const auto with = [](const Json& merge) {
    Json root = Base();
    root["model"]["merges"].push_back(merge);
    return Read(root);
  };
  ExpectError(with("t zzz"), "model.merges[3] needs the token 'zzz'");
  ExpectError(with("t t"), "needs the token 'tt'");
  ExpectError(with(std::string(1 << 20, 'x') + " t"), "(1048576 bytes)");
  ExpectError(with("the"), "want two tokens with one space");
  ExpectError(with(" t"), "want two tokens with one space");
  ExpectError(with("t "), "want two tokens with one space");
  ExpectError(with("t h e"), "want two tokens with one space");
  ExpectError(with(7), "model.merges[3] is number");
  ExpectError(with(nullptr), "model.merges[3] is null");
  ExpectError(with(Json::array({"t"})), "1 strings, want two");
  ExpectError(with(Json::array({"t", "h", "e"})), "want two strings");
  ExpectError(with(Json::array({"t", ""})), "none empty");
  ExpectError(with(Json::array({"t", 5})), "is number");
  ExpectError(with(Json::array({"t", Json::array()})), "");
  ExpectError(with(Json::object()), "is object");
  // The same pair twice is found when the tokenizer is made.
  const auto twice = with("t h");
  ASSERT_TRUE(twice.ok());
  EXPECT_THAT(Tokenizer::Create(*twice).status().message(), HasSubstr("merges 0 and 3"));
}

// Robustness case 32.
TEST(TokenizerJson, HostileAddedTokens) {
  const auto with = [](const std::string& content, int64_t id) {
    Json root = Base();
    AddToken(root, content, true);
    root["added_tokens"][0]["id"] = id;
    return Read(root);
  };
  ExpectError(with("", 259), "content is empty");
  ExpectError(with(std::string(1 << 20, 'x'), 259), "has 1048576 bytes, the limit is 256");
  ExpectError(with("<s>", 3), "'<s>' has the id 3 of");
  ExpectError(with("<s>", 260), "ids are missing");
  ExpectError(with("<s>", -1), "id is -1");
  ExpectError(with("<s>", 2147483648), "id is 2147483648");
  ExpectError(with("the", 259), "tokens 257 and 259 are both 'the'");
  Json twice = Base();
  AddToken(twice, "<s>", true);
  AddToken(twice, "<s>", true);
  twice["added_tokens"][1]["id"] = 259;
  ExpectError(Read(twice), "'<s>' has the id 259 of '<s>'");
  Json list = Base();
  list["added_tokens"] = 5;
  ExpectError(Read(list), "added_tokens is number, want a list");
}

TEST(TokenizerJson, HostileJson) {
  const auto read = [](const std::string& text) { return TokenizerDataFromJson(text, ""); };
  ExpectError(read(""), "not JSON");
  ExpectError(read("{\"a\": \xFF}"), "not JSON");
  ExpectError(read("{\"model\": {\"vocab\": {\"\xC3(\": 1}}}"), "not JSON");
  ExpectError(read(std::string(1000000, '[')), "nested more than 64 levels");
  ExpectError(read("{\"model\": {\"merges\": " + std::string(1000000, '[')), "");
  ExpectError(read("{\"model\": {\"vocab\": " + std::string(1000000, '{')), "");
  ExpectError(read("{\"version\": 1, \"version\": 2}"), "duplicate key 'version'");
  ExpectError(read("{\"model\": {\"vocab\": {\"a\": 1e400}}}"), "");
  ExpectError(read("{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}, \"type\": \"BPE\"}}"), "");
  ExpectError(read("[]"), "is array, want an object");
  ExpectError(read("null"), "is null, want an object");
  // A second vocabulary must not be added to the first.
  std::string text = Base().dump();
  text.insert(text.find("\"vocab\""), "\"vocab\": {\"a\": 0}, ");
  ExpectError(read(text), "duplicate key 'vocab'");
  // Every truncation is an error.
  const std::string whole = Base().dump();
  for (size_t size = 0; size < whole.size(); size += 13) {
    EXPECT_FALSE(read(whole.substr(0, size)).ok()) << size;
  }
}

TEST(TokenizerJson, WritesWhatItReads) {
  Json root = WithTemplate();
  AddToken(root, "\u00E9 \"x\"\n", false, true);
  AddToken(root, "</s>", true);
  const auto data = Read(root, R"({"eos_token": "</s>", "pad_token": "</s>", "unk_token": "t",
                                   "chat_template": "{{ '\n' }}"})");
  ASSERT_TRUE(data.ok()) << data.status().message();
  const std::string json = TokenizerDataToJson(*data), config = TokenizerConfigToJson(*data);
  const auto again = TokenizerDataFromJson(json, config);
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, *data);
  EXPECT_EQ(TokenizerDataToJson(*again), json);

  TokenizerData other = *data;
  other.add_bos = false;
  other.pre_tokenizer = PreTokenizerKind::kSmolLm;
  other.missing_to_unk = true;
  other.chat_template.clear();
  const auto other_again =
      TokenizerDataFromJson(TokenizerDataToJson(other), TokenizerConfigToJson(other));
  ASSERT_TRUE(other_again.ok()) << other_again.status().message();
  EXPECT_EQ(*other_again, other);
}

void ExpectWritten(const TokenizerData& data) {
  const auto again = TokenizerDataFromJson(TokenizerDataToJson(data), TokenizerConfigToJson(data));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, data);
}

TEST(TokenizerJson, WritesEveryKind) {
  TokenizerData bytes = *Read(Base());
  bytes.ignore_merges = bytes.normalization.nfc = true;
  for (const auto kind :
       {PreTokenizerKind::kLlama3, PreTokenizerKind::kQwen2, PreTokenizerKind::kTekken}) {
    bytes.pre_tokenizer = kind;
    ExpectWritten(bytes);
  }
  TokenizerData pieces = *Read(Pieces());
  ExpectWritten(pieces);
  pieces.merges_tie = true;
  pieces.add_bos = true;
  pieces.bos = 1;
  ExpectWritten(pieces);
  pieces.normalization.prefix_mark = pieces.strip_prefix = false;
  pieces.types[2] = TokenType::kControl;  // known as such although it spells a byte
  ExpectWritten(pieces);
  pieces.normalization = {};
  for (const auto kind : {PreTokenizerKind::kMetaspace, PreTokenizerKind::kMetaspaceWords}) {
    pieces.pre_tokenizer = kind;
    for (const bool prefix : {false, true}) {
      pieces.add_prefix_space = prefix;
      pieces.prefix_first_only = false;
      ExpectWritten(pieces);
      pieces.prefix_first_only = prefix;
      ExpectWritten(pieces);
    }
  }
  pieces.model = TokenModel::kUnigram;
  pieces.merges.clear();
  pieces.merges_tie = false;
  for (size_t id = 0; id < pieces.tokens.size(); ++id) {
    pieces.scores.push_back(-1.0 / (3.0 + static_cast<double>(id)));
  }
  pieces.scores[1] = 0;
  pieces.scores[2] = -1e300;
  pieces.scores[3] = 5e-324;
  ExpectWritten(pieces);
  pieces.missing_to_unk = false;
  pieces.unk = -1;
  ExpectWritten(pieces);
}

TEST(TokenizerJson, Folder) {
  const TempFolder temp;
  const std::filesystem::path& folder = temp.path();
  const auto missing = TokenizerDataFromFolder(folder);
  EXPECT_THAT(missing.status().message(), HasSubstr("tokenizer.json: no such file"));
  std::ofstream(folder / "tokenizer.json") << Base().dump();
  ASSERT_TRUE(TokenizerDataFromFolder(folder).ok());
  std::ofstream(folder / "tokenizer_config.json") << R"({"eos_token": "t", "chat_template": "a"})";
  std::ofstream(folder / "chat_template.jinja") << "{% for m in messages %}";
  const auto data = TokenizerDataFromFolder(folder);
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->eos, 't');
  EXPECT_EQ(data->chat_template, "{% for m in messages %}");
  const auto tokenizer = Tokenizer::FromModel(folder);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)->chat_template(), data->chat_template);
  std::ofstream(folder / "tokenizer.json") << "{}";
  EXPECT_THAT(TokenizerDataFromFolder(folder).status().message(), HasSubstr(folder.string()));
}

}  // namespace
}  // namespace tq
