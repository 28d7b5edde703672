// tq_tokenize MODEL TEXT OUT: writes the ids of a text file, control tokens parsed, as
// little-endian int32. tq_tokenize MODEL --json FOLDER writes the model's tokenizer.json
// and tokenizer_config.json. For benchmarks/oracles/tokenizer_oracle.py; not installed.
#include <filesystem>
#include <string>
#include <string_view>

#include "base/file_io.h"
#include "checkpoint/gguf.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

Status WriteJson(const std::filesystem::path& model, const std::filesystem::path& folder) {
  TokenizerData data;
  if (std::filesystem::is_directory(model)) {
    TQ_ASSIGN_OR_RETURN(data, TokenizerDataFromFolder(model));
  } else {
    TQ_ASSIGN_OR_RETURN(const auto file, GgufFile::Open(model));
    TQ_ASSIGN_OR_RETURN(data, TokenizerDataFromGguf(*file));
  }
  TQ_RETURN_IF_ERROR(WriteFileAtomically(folder / "tokenizer.json", TokenizerDataToJson(data)));
  return WriteFileAtomically(folder / "tokenizer_config.json", TokenizerConfigToJson(data));
}

Status Run(int argc, char** argv) {
  if (argc != 4) return InvalidArgument("usage: tq_tokenize MODEL (TEXT OUT | --json FOLDER)");
  if (std::string_view(argv[2]) == "--json") return WriteJson(argv[1], argv[3]);
  TQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromModel(argv[1]));
  TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(argv[2], uint64_t{1} << 32));
  std::string out;
  for (const int32_t id : tokenizer->Encode(text, /*parse_special=*/true)) {
    for (int shift = 0; shift < 32; shift += 8) {
      out += static_cast<char>(static_cast<uint32_t>(id) >> shift & 0xFF);
    }
  }
  return WriteFileAtomically(argv[3], out);
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  const tq::Status status = tq::Run(argc, argv);
  if (status.ok()) return 0;
  fmt::print(stderr, "tq_tokenize: {}\n", status.message());
  return 1;
}
