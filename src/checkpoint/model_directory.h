// Writing a model directory in Hugging Face's layout so that it appears whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/safetensors.h"

namespace tq {

inline constexpr uint64_t kDefaultShardBytes = uint64_t{4} << 30;

struct ModelDirectory {
  std::string config_json;
  std::map<std::string, std::string> files;  // further plain files: name -> contents
  std::vector<OutputTensor> tensors;         // in the order in which they are stored
  // Above this the tensors are spread over shards in order; no tensor is split.
  uint64_t max_shard_bytes = kDefaultShardBytes;
  // A folder on the output's file system in which the temporary folder is made; empty: the
  // output's parent.
  std::filesystem::path staging;
};

// Whether `output` can become a model made from `source`: it is another place, absent or an
// empty folder, and its parent can be written. Call it before long work.
Status CheckOutputDirectory(const std::filesystem::path& output,
                            const std::filesystem::path& source);

// The same of a model in one file: no file may be at `output` yet.
Status CheckOutputFile(const std::filesystem::path& output, const std::filesystem::path& source);

// Writes everything into a temporary folder, synced to disk, and renames it into place. On any
// error nothing is left at the final name. The bytes depend on `model` alone.
Status WriteModelDirectory(const std::filesystem::path& output, const std::filesystem::path& source,
                           const ModelDirectory& model);

// The tokenizer's files in a Hugging Face directory, those that are there: tokenizer.json,
// tokenizer.model, tokenizer_config.json, special_tokens_map.json, chat_template.jinja,
// generation_config.json.
StatusOr<std::map<std::string, std::string>> ReadTokenizerFiles(
    const std::filesystem::path& folder);

}  // namespace tq
