// safetensors files by memory map, one file or sharded by model.safetensors.index.json.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/mapped_file.h"
#include "tensor/tensor.h"

namespace tq {

struct SafetensorsEntry {
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t offset = 0;  // from the start of the file
  uint64_t bytes = 0;
};

// One file.
class SafetensorsFile {
 public:
  // Checks the whole header (robustness classes 1-12): sizes, names, dtypes, shapes and
  // that the tensors' ranges tile the data exactly.
  static StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::filesystem::path& path);

  const MappedFile& file() const { return *file_; }
  const std::map<std::string, SafetensorsEntry, std::less<>>& entries() const { return entries_; }
  // A view into the map that keeps the file open; checks the file's length first.
  StatusOr<Tensor> Get(std::string_view name) const;

 private:
  std::shared_ptr<MappedFile> file_;
  std::map<std::string, SafetensorsEntry, std::less<>> entries_;
};

// All the shards of a model directory: model.safetensors, or those that
// model.safetensors.index.json names (plain file names inside the directory only).
class SafetensorsDirectory {
 public:
  static StatusOr<std::unique_ptr<SafetensorsDirectory>> Open(const std::filesystem::path& folder);

  std::vector<std::string> names() const;
  const SafetensorsEntry* Find(std::string_view name) const;
  StatusOr<Tensor> Get(std::string_view name) const;
  // Bytes of all shards, headers included.
  uint64_t file_bytes() const;
  Status VerifyFiles() const;

 private:
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, size_t, std::less<>> file_of_;
};

}  // namespace tq
