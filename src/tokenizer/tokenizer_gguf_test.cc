// Reading a tokenizer from GGUF metadata, with files made here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <variant>

#include "../../tests/support/rewritten_tokenizer.h"
#include "../../tests/support/temp_folder.h"
#include "base/file_io.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_writer.h"
#include "tokenizer/byte_spelling.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace tq::testing;  // NOLINT: the test support

using Strings = std::vector<std::string>;
using Ints = std::vector<int32_t>;
// Metadata by key. GGUF's type codes: 4 uint32, 5 int32, 6 float32, 7 bool, 8 string, 9 array.
using Floats = std::vector<float>;
using Metadata =
    std::map<std::string, std::variant<uint32_t, bool, std::string, Strings, Ints, Floats>>;

void Append(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> 8 * i & 0xFF);
}
void AppendString(std::string& out, const std::string& text) {
  Append(out, text.size(), 8);
  out += text;
}

std::string GgufBytes(const Metadata& metadata) {
  std::string out = "GGUF";
  Append(out, 3, 4);
  Append(out, 0, 8);
  Append(out, metadata.size(), 8);
  for (const auto& [key, value] : metadata) {
    AppendString(out, key);
    if (const auto* number = std::get_if<uint32_t>(&value)) {
      Append(out, 4, 4);
      Append(out, *number, 4);
    } else if (const auto* flag = std::get_if<bool>(&value)) {
      Append(out, 7, 4);
      Append(out, *flag, 1);
    } else if (const auto* text = std::get_if<std::string>(&value)) {
      Append(out, 8, 4);
      AppendString(out, *text);
    } else if (const auto* strings = std::get_if<Strings>(&value)) {
      Append(out, 9, 4);
      Append(out, 8, 4);
      Append(out, strings->size(), 8);
      for (const std::string& s : *strings) AppendString(out, s);
    } else if (const auto* floats = std::get_if<Floats>(&value)) {
      Append(out, 9, 4);
      Append(out, 6, 4);
      Append(out, floats->size(), 8);
      for (const float f : *floats) Append(out, std::bit_cast<uint32_t>(f), 4);
    } else {
      const auto& ints = std::get<Ints>(value);
      Append(out, 9, 4);
      Append(out, 5, 4);
      Append(out, ints.size(), 8);
      for (const int32_t i : ints) Append(out, static_cast<uint32_t>(i), 4);
    }
  }
  out.resize((out.size() + 31) / 32 * 32);
  return out;
}

std::filesystem::path Written(const Metadata& metadata) {
  static const TempFolder folder;
  const auto path = folder / "tokenizer.gguf";
  EXPECT_TRUE(WriteFileAtomically(path, GgufBytes(metadata)).ok());
  return path;
}

StatusOr<TokenizerData> Read(const Metadata& metadata) {
  const auto file = GgufFile::Open(Written(metadata));
  if (!file.ok()) return file.status();
  return TokenizerDataFromGguf(**file);
}

// The bytes as 0 to 255, "th" 256, "the" 257, " the" 258, "<s>" 259, "</s>" 260, "\u00E9 x" 261.
Metadata Base() {
  Strings tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(SpellByte(static_cast<uint8_t>(byte)));
  for (const char* token : {"th", "the", "\u0120the", "<s>", "</s>", "\u00E9 x"}) {
    tokens.push_back(token);
  }
  Ints types(tokens.size(), 1);
  types[7] = 5;
  types[259] = 3;
  types[260] = 2;
  types[261] = 4;
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", "smollm"},
          {"tokenizer.ggml.tokens", tokens},
          {"tokenizer.ggml.token_type", types},
          {"tokenizer.ggml.merges", Strings{"t h", "th e", "\u0120 the"}},
          {"tokenizer.ggml.bos_token_id", 259u},
          {"tokenizer.ggml.eos_token_id", 260u},
          {"tokenizer.ggml.add_bos_token", true},
          {"tokenizer.ggml.add_space_prefix", false},
          {"tokenizer.chat_template", "{{ x }}"}};
}

TEST(TokenizerGguf, ReadsMetadata) {
  const auto data = Read(Base());
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->pre_tokenizer, PreTokenizerKind::kSmolLm);
  EXPECT_EQ(data->merges,
            (std::vector<TokenMerge>{{'t', 'h', 256}, {256, 'e', 257}, {' ', 257, 258}}));
  EXPECT_EQ(data->types[7], TokenType::kNormal);
  EXPECT_EQ(data->types[259], TokenType::kControl);
  EXPECT_EQ(data->types[260], TokenType::kControl);
  EXPECT_EQ(data->types[261], TokenType::kUserDefined);
  EXPECT_EQ(data->bos, 259);
  EXPECT_EQ(data->eos, 260);
  EXPECT_EQ(data->unk, -1);
  EXPECT_TRUE(data->add_bos);
  EXPECT_FALSE(data->add_prefix_space);
  EXPECT_EQ(data->chat_template, "{{ x }}");
}

TEST(TokenizerGguf, MakesATokenizer) {
  const auto tokenizer = Tokenizer::FromModel(Written(Base()));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_THAT((*tokenizer)->Encode("the the 12\u00E9 x<s>", true),
              ElementsAre(257, 258, ' ', '1', '2', 261, 259));
  EXPECT_TRUE((*tokenizer)->IsEndOfGeneration(260));
}

TEST(TokenizerGguf, TokenizerJsonGivesTheSame) {
  const auto data = Read(Base());
  ASSERT_TRUE(data.ok());
  const auto again =
      TokenizerDataFromJson(TokenizerDataToJson(*data), TokenizerConfigToJson(*data));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, *data);
}

// Robustness case 25, case 28, case 29, case 32.
TEST(TokenizerGguf, RefusesByName) {
  const auto error = [](const std::function<void(Metadata&)>& change) {
    Metadata metadata = Base();
    change(metadata);
    const auto data = Read(metadata);
    if (data.ok()) return std::string("read");
    EXPECT_THAT(data.status().message(), HasSubstr("tokenizer.gguf: "));
    EXPECT_EQ(data.status().message().find("gguf: /"), std::string::npos) << "file named twice";
    return data.status().message();
  };
  using M = Metadata;
  const auto set = [](const std::string& key, const M::mapped_type& value) {
    return [=](M& m) { m["tokenizer.ggml." + key] = value; };
  };
  const auto type = [](size_t id, int32_t value) {
    return [=](M& m) { std::get<Ints>(m["tokenizer.ggml.token_type"])[id] = value; };
  };
  const auto token = [](size_t id, const std::string& value) {
    return [=](M& m) { std::get<Strings>(m["tokenizer.ggml.tokens"])[id] = value; };
  };
  const auto merge = [](const std::string& value) {
    return [=](M& m) { std::get<Strings>(m["tokenizer.ggml.merges"])[1] = value; };
  };
  EXPECT_THAT(error(set("model", "t5")), HasSubstr("tokenizer.ggml.model is 't5'"));
  EXPECT_THAT(error(set("pre", "falcon")), HasSubstr("tokenizer.ggml.pre is 'falcon'"));
  EXPECT_THAT(error(set("pre", "default")), HasSubstr("'default'"));
  EXPECT_THAT(error([](M& m) { m.erase("tokenizer.ggml.pre"); }), HasSubstr("tokenizer.ggml.pre"));
  EXPECT_THAT(error([](M& m) { m.erase("tokenizer.ggml.merges"); }),
              HasSubstr("tokenizer.ggml.merges"));
  EXPECT_THAT(error(set("add_eos_token", true)), HasSubstr("add_eos_token is true"));
  EXPECT_THAT(error(set("add_space_prefix", true)), HasSubstr("add_prefix_space together"));
  EXPECT_THAT(error(set("add_bos_token", 1u)), HasSubstr("add_bos_token"));
  // Special ids outside the vocabulary.
  EXPECT_THAT(error(set("eos_token_id", 262u)), HasSubstr("is 262: the vocabulary has 262 tokens"));
  EXPECT_THAT(error(set("padding_token_id", 0xFFFFFFFFu)), HasSubstr("is 4294967295"));
  EXPECT_THAT(error(type(0, 6)), HasSubstr("byte tokens in a byte-level vocabulary"));
  EXPECT_THAT(error(type(0, 0)), HasSubstr("tokens[0] has the type 0, want 1 to 6"));
  EXPECT_THAT(error(type(0, -7)), HasSubstr("has the type -7"));
  EXPECT_THAT(error(set("token_type", Ints{1})), HasSubstr("has 1 entries for 262 tokens"));
  EXPECT_THAT(error(set("tokens", Strings{})), HasSubstr("for 0 tokens"));
  EXPECT_THAT(error(set("tokens", "x")), HasSubstr("tokenizer.ggml.tokens"));
  EXPECT_THAT(error(token(259, "")), HasSubstr("token 259 is empty"));
  EXPECT_THAT(error(token(259, "the")), HasSubstr("tokens 257 and 259 are both 'the'"));
  EXPECT_THAT(error(token(259, "<\xFF")), HasSubstr("token 259 is not UTF-8"));
  EXPECT_THAT(error(token(259, std::string(1 << 20, 'x'))), HasSubstr("the limit is 256"));
  EXPECT_THAT(error(merge("th zz")), HasSubstr("merges[1] needs the token 'zz'"));
  EXPECT_THAT(error(merge("the the")), HasSubstr("needs the token 'thethe'"));
  EXPECT_THAT(error(merge("the")), HasSubstr("merges[1] is 'the', want two tokens"));
  EXPECT_THAT(error(merge("")), HasSubstr("want two tokens"));
}

TEST(TokenizerGguf, WrittenKeysGiveTheSame) {
  Metadata metadata = Base();
  for (const bool prefix : {false, true}) {
    if (prefix) {
      metadata["tokenizer.ggml.pre"] = "gpt-2";
      metadata["tokenizer.ggml.add_space_prefix"] = true;
      metadata["tokenizer.ggml.unknown_token_id"] = 260u;
      metadata["tokenizer.ggml.padding_token_id"] = 7u;
      metadata.erase("tokenizer.chat_template");
      metadata["tokenizer.ggml.add_bos_token"] = false;
    }
    const auto data = Read(metadata);
    ASSERT_TRUE(data.ok()) << data.status().message();
    const auto again = Rewritten(*data, data->tokens.size());
    ASSERT_TRUE(again.ok()) << again.status().message();
    EXPECT_EQ(*again, *data);
  }
}

TEST(TokenizerGguf, RowsWithoutATokenGetOne) {
  const auto data = Read(Base());
  ASSERT_TRUE(data.ok());
  const auto again = Rewritten(*data, 265);
  ASSERT_TRUE(again.ok()) << again.status().message();
  ASSERT_EQ(again->tokens.size(), 265u);
  EXPECT_EQ(again->tokens[262], "[PAD262]");
  EXPECT_EQ(again->types[264], TokenType::kNormal);
  const auto before = Tokenizer::Create(*data), after = Tokenizer::Create(*again);
  ASSERT_TRUE(before.ok() && after.ok());
  const std::string_view text = "the [PAD262] 12 the";
  EXPECT_EQ((*before)->Encode(text, true), (*after)->Encode(text, true));

  GgufKeys keys;
  EXPECT_THAT(AppendTokenizerKeys(*data, 261, keys).status().message(),
              HasSubstr("262 tokens, the embedding 261 rows"));
  Metadata clash = Base();
  std::get<Strings>(clash["tokenizer.ggml.tokens"])[261] = "[PAD263]";
  const auto clashing = Read(clash);
  ASSERT_TRUE(clashing.ok());
  EXPECT_THAT(AppendTokenizerKeys(*clashing, 264, keys).status().message(), HasSubstr("[PAD263]"));
}

TEST(TokenizerGguf, GptTwoWithPrefixSpace) {
  Metadata metadata = Base();
  metadata["tokenizer.ggml.pre"] = "gpt-2";
  metadata["tokenizer.ggml.add_space_prefix"] = true;
  const auto data = Read(metadata);
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->pre_tokenizer, PreTokenizerKind::kGpt2);
  EXPECT_TRUE(data->add_prefix_space);
}

TEST(TokenizerGguf, PreTokenizersOfLaterModels) {
  const auto read = [](const char* name) {
    Metadata metadata = Base();
    metadata["tokenizer.ggml.pre"] = name;
    metadata.erase("tokenizer.ggml.add_bos_token");
    const auto data = Read(metadata);
    EXPECT_TRUE(data.ok()) << data.status().message();
    return *data;
  };
  const TokenizerData llama = read("llama-bpe"), qwen = read("qwen2"), tekken = read("tekken");
  EXPECT_EQ(llama.pre_tokenizer, PreTokenizerKind::kLlama3);
  EXPECT_TRUE(llama.ignore_merges && llama.add_bos && !llama.normalization.nfc);
  EXPECT_EQ(qwen.pre_tokenizer, PreTokenizerKind::kQwen2);
  EXPECT_TRUE(!qwen.ignore_merges && !qwen.add_bos && qwen.normalization.nfc);
  EXPECT_EQ(tekken.pre_tokenizer, PreTokenizerKind::kTekken);
  EXPECT_TRUE(tekken.ignore_merges && tekken.add_bos);
  EXPECT_FALSE(read("smollm").add_bos);
}

// <unk> 0, <s> 1, "\n" as a byte 2, _ 3, a 4, b 5, ab 6, _ab 7, "  " 8, <pad> 9.
Metadata Llama() {
  return {{"tokenizer.ggml.model", "llama"},
          {"tokenizer.ggml.pre", "default"},
          {"tokenizer.ggml.tokens",
           Strings{"<unk>", "<s>", "<0x0A>", "\u2581", "a", "b", "ab", "\u2581ab", "  ", "<pad>"}},
          {"tokenizer.ggml.token_type", Ints{2, 3, 6, 1, 1, 1, 1, 1, 4, 5}},
          {"tokenizer.ggml.scores", Floats{0, 0, 0, -9, -8, -7, -2, -1, 0, 0}},
          {"tokenizer.ggml.bos_token_id", 1u}};
}

TEST(TokenizerGguf, ReadsSentencePiece) {
  const auto data = Read(Llama());
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->model, TokenModel::kCharacterBpe);
  EXPECT_EQ(data->merges, (std::vector<TokenMerge>{{3, 6, 7}, {4, 5, 6}}));
  EXPECT_TRUE(data->merges_tie && data->add_bos && data->strip_prefix);
  EXPECT_EQ(data->normalization, (Normalization{false, true, true}));
  EXPECT_EQ(data->types[2], TokenType::kByte);
  EXPECT_EQ(data->types[8], TokenType::kUserDefined);
  EXPECT_EQ(data->types[9], TokenType::kNormal);
  EXPECT_EQ(data->unk, 0);
  const auto tokenizer = Tokenizer::Create(*data);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_THAT((*tokenizer)->Encode("ab ab\nx"), ElementsAre(7, 7, 2, 0));
  EXPECT_THAT((*tokenizer)->Encode("b  ab"), ElementsAre(3, 5, 8, 6));
  EXPECT_THAT((*tokenizer)->Encode("b \u2581ab"), ElementsAre(3, 5, 8, 6))
      << "written, not a space";
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{3, 5, 8, 6}), "b  ab");
  const auto again =
      TokenizerDataFromJson(TokenizerDataToJson(*data), TokenizerConfigToJson(*data));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, *data);
  Metadata gemma = Llama();
  gemma["tokenizer.ggml.add_space_prefix"] = false;
  gemma["tokenizer.ggml.add_bos_token"] = false;
  const auto without = Read(gemma);
  EXPECT_TRUE(!without->strip_prefix && !without->normalization.prefix_mark && !without->add_bos);
}

// Robustness case 25, case 29, case 31.
TEST(TokenizerGguf, RefusesSentencePieceByName) {
  const auto error = [](const char* key, const Metadata::mapped_type& value) {
    Metadata metadata = Llama();
    metadata["tokenizer.ggml." + std::string(key)] = value;
    const auto data = Read(metadata);
    return data.ok() ? "read" : data.status().message();
  };
  const auto scores = [&](size_t id, float score) {
    Floats changed = std::get<Floats>(Llama()["tokenizer.ggml.scores"]);
    changed[id] = score;
    return error("scores", changed);
  };
  const auto types = [&](size_t id, int32_t type) {
    Ints changed = std::get<Ints>(Llama()["tokenizer.ggml.token_type"]);
    changed[id] = type;
    return error("token_type", changed);
  };
  const auto tokens = [&](size_t id, const std::string& token) {
    Strings changed = std::get<Strings>(Llama()["tokenizer.ggml.tokens"]);
    changed[id] = token;
    return error("tokens", changed);
  };
  EXPECT_THAT(scores(6, NAN), HasSubstr("tokens[6] has the score nan"));
  EXPECT_THAT(scores(3, -INFINITY), HasSubstr("tokens[3] has the score -inf"));
  EXPECT_EQ(scores(6, -1), "read") << "equal scores tie";
  EXPECT_EQ(scores(5, -1), "read") << "nothing makes single characters";
  EXPECT_THAT(error("scores", Floats{1}), HasSubstr("1 scores for 10 tokens"));
  EXPECT_THAT(error("scores", Ints{1}), HasSubstr("scores is not an array of floating-point"));
  EXPECT_THAT(types(6, 5), HasSubstr("'ab', is an unused token that can be made"));
  EXPECT_THAT(types(6, 7), HasSubstr("tokens[6] has the type 7"));
  EXPECT_THAT(types(4, 6), HasSubstr("token 4, 'a', is no name of a byte"));
  EXPECT_THAT(types(2, 1), "read");
  EXPECT_THAT(tokens(4, "<0x20>"), HasSubstr("is not marked as a byte"));
  EXPECT_THAT(tokens(4, std::string(1 << 20, 'a')), HasSubstr("has 1048576 bytes, the limit"));
  EXPECT_THAT(tokens(4, "b"), HasSubstr("tokens 4 and 5 are both 'b'"));
  EXPECT_THAT(tokens(4, ""), HasSubstr("token 4 is empty"));
  EXPECT_THAT(tokens(4, "\xFF\xFE"), HasSubstr("token 4 is not UTF-8"));
  EXPECT_THAT(error("unknown_token_id", 10u), HasSubstr("unknown_token_id is 10"));
  EXPECT_THAT(error("remove_extra_whitespaces", true), HasSubstr("remove_extra_whitespaces"));
  EXPECT_THAT(error("precompiled_charsmap", Ints{1, 2}), HasSubstr("precompiled_charsmap"));
  Metadata without = Llama();
  without.erase("tokenizer.ggml.scores");
  EXPECT_THAT(Read(without).status().message(), HasSubstr("tokenizer.ggml.scores"));
}

}  // namespace
}  // namespace tq
