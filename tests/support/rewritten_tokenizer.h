// A tokenizer written as GGUF metadata and read again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/gguf.h"
#include "checkpoint/gguf_writer.h"
#include "temp_folder.h"
#include "tokenizer/tokenizer.h"

namespace tq::testing {

// The file that AppendTokenizerKeys makes for `vocabulary` rows; `unsaid` gets what it returns.
inline StatusOr<std::unique_ptr<GgufFile>> WriteTokenizer(
    const TokenizerData& data, uint64_t vocabulary, std::vector<std::string>* unsaid = nullptr) {
  static const TempFolder folder;
  GgufKeys keys;
  auto missing = AppendTokenizerKeys(data, vocabulary, keys);
  if (!missing.ok()) return missing.status();
  if (unsaid != nullptr) *unsaid = *std::move(missing);
  const auto path = folder / "rewritten.gguf";
  auto writer = GgufWriter::Create(path, keys, {});
  if (!writer.ok()) return writer.status();
  TQ_RETURN_IF_ERROR(writer->Commit());
  return GgufFile::Open(path);
}

inline StatusOr<TokenizerData> Rewritten(const TokenizerData& data, uint64_t vocabulary,
                                         std::vector<std::string>* unsaid = nullptr) {
  TQ_ASSIGN_OR_RETURN(const auto file, WriteTokenizer(data, vocabulary, unsaid));
  return TokenizerDataFromGguf(*file);
}

}  // namespace tq::testing
