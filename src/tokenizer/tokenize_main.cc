// For benchmarks/oracles/tokenizer_oracle.py; not installed.
//   tq_tokenize MODEL --json FOLDER    writes the model's tokenizer.json and
//                                      tokenizer_config.json
//   tq_tokenize MODEL --special IN OUT encodes and decodes texts, control tokens parsed
//   tq_tokenize MODEL --plain IN OUT   the same, control tokens being text
// IN: texts, each after its number of bytes. OUT: for each text the number of its ids, the
// ids, the number of bytes that they decode to, and those. Numbers are little-endian int32.
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

void AppendNumber(size_t value, std::string& out) {
  for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(value >> shift & 0xFF);
}

StatusOr<std::string_view> TakeText(std::string_view& in) {
  size_t size = 0;
  for (size_t i = 0; i < 4 && i < in.size(); ++i) {
    size |= size_t{static_cast<uint8_t>(in[i])} << 8 * i;
  }
  if (in.size() < 4 || size > in.size() - 4) return InvalidArgument("a text is cut off");
  const std::string_view text = in.substr(4, size);
  in.remove_prefix(4 + size);
  return text;
}

Status EncodeTexts(const std::filesystem::path& model, bool special, const std::string& in_path,
                   const std::string& out_path) {
  TQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromModel(model));
  TQ_ASSIGN_OR_RETURN(const std::string in, ReadFile(in_path, uint64_t{1} << 32));
  std::string out;
  for (std::string_view rest = in; !rest.empty();) {
    TQ_ASSIGN_OR_RETURN(const std::string_view text, TakeText(rest));
    const std::vector<int32_t> ids = tokenizer->Encode(text, special);
    AppendNumber(ids.size(), out);
    for (const int32_t id : ids) AppendNumber(static_cast<size_t>(id), out);
    TQ_ASSIGN_OR_RETURN(const std::string decoded, tokenizer->Decode(ids));
    AppendNumber(decoded.size(), out);
    out += decoded;
  }
  return WriteFileAtomically(out_path, out);
}

Status Run(int argc, char** argv) {
  const std::string_view mode = argc > 2 ? argv[2] : "";
  if (argc == 4 && mode == "--json") return WriteJson(argv[1], argv[3]);
  if (argc == 5 && (mode == "--special" || mode == "--plain")) {
    return EncodeTexts(argv[1], mode == "--special", argv[3], argv[4]);
  }
  return InvalidArgument(
      "usage: tq_tokenize MODEL (--json FOLDER | --special IN OUT | --plain IN OUT)");
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  const tq::Status status = tq::Run(argc, argv);
  if (status.ok()) return 0;
  fmt::print(stderr, "tq_tokenize: {}\n", status.message());
  return 1;
}
