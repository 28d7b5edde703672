// The folder beside the output (OUT.work) in which an unfinished job keeps its finished
// parts, so that a run that was stopped, even by kill -9, goes on where it was.
//
//   job.json        the job's fingerprint and a description for people
//   lock            flock'ed by the process at work
//   *.part          finished parts: tensors with a hash (safetensors files)
//   *.tmp.*         files and folders on their way to their final name
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "checkpoint/safetensors.h"

namespace tq {

class WorkFolder {
 public:
  // Makes or opens the folder and locks it. An error if it holds files but no job of ours, if
  // another process is at work there, or if it holds another job (`description` names this one)
  // and not `fresh`. With `fresh` earlier parts are removed; what a killed process left
  // half-written always is.
  static StatusOr<WorkFolder> Open(const std::filesystem::path& path, const Hash128& fingerprint,
                                   std::string_view description, bool fresh);
  WorkFolder(WorkFolder&& other) noexcept;
  WorkFolder& operator=(WorkFolder&& other) noexcept;
  WorkFolder(const WorkFolder&) = delete;
  ~WorkFolder();

  const std::filesystem::path& path() const { return path_; }

  // Tensors of a finished part, mapped from its file; nothing if it is absent or damaged
  // (the latter with a warning). `part` is a plain name.
  std::optional<std::vector<OutputTensor>> Load(std::string_view part) const;
  // Stores a part: complete or not at all.
  Status Store(std::string_view part, std::vector<OutputTensor> tensors) const;

  // Removes what is ours, and the folder if nothing else is in it.
  Status Remove();

 private:
  WorkFolder(std::filesystem::path path, Hash128 fingerprint, int lock)
      : path_(std::move(path)), fingerprint_(fingerprint), lock_(lock) {}
  std::filesystem::path PartPath(std::string_view part) const;
  Status CheckJob(std::string_view description, bool fresh) const;

  std::filesystem::path path_;
  Hash128 fingerprint_;
  int lock_ = -1;
};

}  // namespace tq
