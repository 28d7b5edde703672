// make_seeds FOLDER TEMPLATES: writes small sound inputs into FOLDER/fuzz_<name>.corpus, so that
// the fuzzers start behind the first checks; those for chat templates are made of
// TEMPLATES/*.jinja.
#include <cstdio>
#include <filesystem>
#include <string>

#include "../tests/support/tiny_exchange.h"
#include "../tests/support/tiny_model.h"
#include "checkpoint/gguf_blocks.h"

int main(int argc, char** argv) {
  using namespace tq::testing;  // NOLINT: the test support
  namespace fs = std::filesystem;
  if (argc != 3) return 2;
  const auto corpus = [&](const char* name) {
    const fs::path folder = fs::path(argv[1]) / ("fuzz_" + std::string(name) + ".corpus");
    fs::create_directories(folder);
    return folder;
  };
  const TinyModel model = MakeTinyModel({.hidden = 32,
                                         .intermediate = 32,
                                         .layers = 1,
                                         .heads = 2,
                                         .kv_heads = 1,
                                         .vocab = 4,
                                         .dtype = tq::DType::kBF16});
  for (const uint32_t type : {kPackF32, kPackF16, kPackQ4_0, kPackQ4_1, kPackQ8_0, kPackBF16}) {
    WriteGguf(model, corpus("gguf") / ("type_" + std::to_string(type)), type);
  }
  // A row of two blocks in each type, of codes and scales that are zero.
  GgufBuilder blocks;
  for (uint32_t type = 0; type < 64; ++type) {
    const auto format = tq::GgufBlockFormat(type);
    if (!format) continue;
    blocks.Tensor(tq::GgufTypeName(type), type, {2 * format->values},
                  std::string(2 * format->bytes, '\0'));
  }
  WriteText(corpus("gguf") / "blocks", blocks.Build());
  const TinyTokenizer tokenizer = MakeTinyTokenizer(258);
  GgufBuilder keys;
  AddTokenizerKeys(tokenizer, keys);
  WriteText(corpus("gguf") / "tokenizer", keys.Build());
  // fuzz_tokenizer.cc says what the first byte picks. A SentencePiece model of "<unk>", "a", "b"
  // and "ab": pieces of text, score and type, the type of the model, and the normalizer's flags.
  const std::string pieces(
      "\x0A\x0E\x0A\5<unk>\x15\0\0\0\0\x18\2"
      "\x0A\x08\x0A\1a\x15\0\0\xA0\xC0"
      "\x0A\x08\x0A\1b\x15\0\0\x80\xC0"
      "\x0A\x09\x0A\2ab\x15\0\0\x80\xBF"
      "\x12\2\x18\2\x1A\4\x18\1\x20\0",
      57);
  const std::string size = {'\0', static_cast<char>(pieces.size())};
  WriteText(corpus("tokenizer") / "sentencepiece", "\5" + size + pieces + "ab a");
  WriteText(corpus("tokenizer") / "pieces",
            "\4\xFF\xFF"
            "ab a b \u00E9\u0301");
  // Of a score 16, ab 24, U+2581 a 8.
  const std::string unigram("\6\3\0\0\x10\1\0\1\x18\1\7\0\x08", 13);
  WriteText(corpus("tokenizer") / "unigram", unigram + "ab xab");
  WriteText(corpus("config") / "tiny", tq::ModelConfigToJson(model.config));
  for (const bool awq : {false, true}) {
    TinyModel rounded = model;
    const TinyExchangeOptions options{.format = awq ? tq::ExchangeFormat::kAwq
                                                    : tq::ExchangeFormat::kGptqV2};
    const TinyDirectory directory = MakeTinyExchange(rounded, options);
    WriteText(corpus("config") / (awq ? "awq" : "gptq"), directory.config.dump());
    // fuzz_exchange.cc says what the first bytes are; scales of 1, or of 1 and groups.
    std::string matrix = {static_cast<char>(options.format), 4, 8, 32, 16, awq ? '\0' : '\1'};
    for (int i = 0; i < 16; ++i) matrix += std::string("\0\x3C", 2);
    for (int c = 0; c < 32 && !awq; ++c) matrix += std::string({static_cast<char>(c % 2), 0, 0, 0});
    WriteText(corpus("exchange") / (awq ? "awq" : "gptq"), matrix + "codes");
  }
  const TempFolder folder;
  WriteHuggingFace(model, folder / "hf");
  const std::string file = ReadText(folder / "hf/model.safetensors");
  WriteText(corpus("safetensors") / "file", "\1" + file);
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},)"
      R"("b":{"dtype":"U8","shape":[],"data_offsets":[12,13]}})";
  WriteText(corpus("safetensors") / "header", std::string(1, 13 * 2) + header);
  WriteText(corpus("tasks") / "text", "Water is\n1\ndry\nwet\nhot\nred\nFire is\n2\na\nb\nc\nd\n");
  WriteText(corpus("tasks") / "choices",
            R"({"query":"Water is","choices":["wet","dry"],"gold":0})");
  WriteText(corpus("tasks") / "contexts",
            R"({"context_options":["So A","So B"],"continuation":"won","gold":1,"id":3})"
            "\n");
  for (const auto& entry : fs::directory_iterator(argv[2])) {
    if (entry.path().extension() != ".jinja") continue;
    const std::string messages("\0Hi <b>\0<think>so</think> ok, a\n\0more", 37);
    WriteText(corpus("chat_template") / entry.path().stem(), ReadText(entry.path()) + messages);
  }
  return 0;
}
