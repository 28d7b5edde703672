#include "checkpoint/model_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/checked.h"
#include "base/file_io.h"

namespace tq {
namespace fs = std::filesystem;

namespace {

// The path without a trailing slash, so that parent_path() is the folder around it.
fs::path WithoutSlash(const fs::path& path) {
  const fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

fs::path ParentOf(const fs::path& path) {
  const fs::path parent = WithoutSlash(path).parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

// A folder that is removed with its contents unless it was renamed away.
class TemporaryFolder {
 public:
  // In the folder `parent`, with `stem` in its name.
  static StatusOr<TemporaryFolder> Create(const fs::path& parent, const fs::path& stem) {
    std::string name = (parent / stem).string() + ".tmp.XXXXXX";
    if (mkdtemp(name.data()) == nullptr) return IoError("cannot create " + name, errno);
    return TemporaryFolder(name);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept
      : path_(std::exchange(other.path_, fs::path())) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;  // what cannot be removed is at least not at the final name
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }

  const fs::path& path() const { return path_; }

  Status MoveTo(const fs::path& target) {
    if (chmod(path_.c_str(), 0755) != 0) return IoError(path_.string(), errno);
    TQ_RETURN_IF_ERROR(SyncFolder(path_));
    if (rename(path_.c_str(), target.c_str()) != 0) {
      if (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR) {
        return AlreadyExists("{}: appeared while the model was made", target.string());
      }
      return IoError("renaming to " + target.string(), errno);
    }
    path_.clear();
    return SyncFolder(ParentOf(target));
  }

 private:
  explicit TemporaryFolder(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

// Consecutive tensors of at most `limit` bytes together, at least one each.
std::vector<std::vector<OutputTensor>> SplitIntoShards(const std::vector<OutputTensor>& tensors,
                                                       uint64_t limit) {
  std::vector<std::vector<OutputTensor>> shards(1);
  uint64_t used = 0;
  for (const OutputTensor& tensor : tensors) {
    const uint64_t bytes = tensor.tensor.num_bytes();
    if (!shards.back().empty() && (bytes > limit || used > limit - bytes)) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().push_back(tensor);
    used += bytes;
  }
  return shards;
}

Status WriteTensors(const fs::path& folder, const ModelDirectory& model, uint64_t total) {
  const auto shards = SplitIntoShards(model.tensors, model.max_shard_bytes);
  if (shards.size() == 1) return WriteSafetensors(folder / "model.safetensors", shards.front());
  nlohmann::json index;  // keys in alphabetical order
  index["metadata"]["total_size"] = total;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const OutputTensor& tensor : shards[i]) index["weight_map"][tensor.name] = name;
    TQ_RETURN_IF_ERROR(WriteSafetensors(folder / name, shards[i]));
  }
  return WriteFileAtomically(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

Status CheckOtherPlace(const fs::path& output, const fs::path& source) {
  if (output.empty()) return InvalidArgument("the output has no name");
  std::error_code error;
  if (fs::equivalent(output, source, error)) {
    return InvalidArgument("{}: is the input; the output must be another place", output.string());
  }
  return OkStatus();
}

Status CheckParent(const fs::path& output) {
  const fs::path parent = ParentOf(output);
  std::error_code error;
  if (!fs::is_directory(parent, error)) {
    return NotFound("{}: the folder {} does not exist", output.string(), parent.string());
  }
  if (access(parent.c_str(), W_OK | X_OK) != 0) {
    return IoError("cannot write in " + parent.string(), errno);
  }
  return OkStatus();
}

}  // namespace

Status CheckOutputDirectory(const fs::path& output, const fs::path& source) {
  const std::string name = output.string();
  TQ_RETURN_IF_ERROR(CheckOtherPlace(output, source));
  std::error_code error;
  const fs::file_status status = fs::symlink_status(WithoutSlash(output), error);
  if (fs::exists(status)) {
    if (!fs::is_directory(status)) return AlreadyExists("{}: exists and is no folder", name);
    const bool empty = fs::is_empty(output, error);
    if (error) return IoError(name, error.value());
    if (!empty) return AlreadyExists("{}: the folder exists and is not empty", name);
  }
  return CheckParent(output);
}

Status CheckOutputFile(const fs::path& output, const fs::path& source) {
  TQ_RETURN_IF_ERROR(CheckOtherPlace(output, source));
  if (!output.has_filename()) return InvalidArgument("{}: names no file", output.string());
  std::error_code error;
  if (fs::exists(fs::symlink_status(output, error))) {
    return AlreadyExists("{}: exists; the output must be a new file", output.string());
  }
  return CheckParent(output);
}

Status WriteModelDirectory(const fs::path& output, const fs::path& source,
                           const ModelDirectory& model) {
  TQ_RETURN_IF_ERROR(CheckOutputDirectory(output, source));
  uint64_t total = 0;
  for (const OutputTensor& tensor : model.tensors) total += tensor.tensor.num_bytes();
  TQ_ASSIGN_OR_RETURN(const uint64_t free, FreeDiskBytes(ParentOf(output)));
  if (free < total) {
    return ResourceExhausted("{}: needs {} bytes, the disk has {} left", output.string(), total,
                             free);
  }
  TQ_ASSIGN_OR_RETURN(
      TemporaryFolder folder,
      TemporaryFolder::Create(model.staging.empty() ? ParentOf(output) : model.staging,
                              WithoutSlash(output).filename()));
  for (const auto& [name, contents] : model.files) {
    TQ_RETURN_IF_ERROR(WriteFileAtomically(folder.path() / name, contents));
  }
  TQ_RETURN_IF_ERROR(WriteTensors(folder.path(), model, total));
  TQ_RETURN_IF_ERROR(WriteFileAtomically(folder.path() / "config.json", model.config_json));
  return folder.MoveTo(WithoutSlash(output));
}

StatusOr<std::map<std::string, std::string>> ReadTokenizerFiles(const fs::path& folder) {
  constexpr uint64_t kMaxBytes = 256 << 20;
  std::map<std::string, std::string> files;
  for (const char* name :
       {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
        "chat_template.jinja", "generation_config.json"}) {
    auto contents = ReadFile(folder / name, kMaxBytes);
    if (contents.ok()) {
      files.emplace(name, *std::move(contents));
    } else if (contents.status().code() != StatusCode::kNotFound) {
      return contents.status();
    }
  }
  return files;
}

}  // namespace tq
