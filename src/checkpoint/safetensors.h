// safetensors files by memory map, one file or sharded by model.safetensors.index.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
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
using SafetensorsEntries = std::map<std::string, SafetensorsEntry, std::less<>>;

// Longest header that is read: the limit of the format's own library.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

// Checks a whole header (the JSON text) against the `data_bytes` bytes behind it: names,
// dtypes, shapes, and that the tensors' ranges tile the data exactly. Offsets in the result
// are those of a file whose data starts at `data_begin`. `file` is named in errors.
StatusOr<SafetensorsEntries> ParseSafetensorsHeader(std::string_view header, uint64_t data_begin,
                                                    uint64_t data_bytes, std::string_view file);

// One file.
class SafetensorsFile {
 public:
  static StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::filesystem::path& path);

  const MappedFile& file() const { return *file_; }
  const SafetensorsEntries& entries() const { return entries_; }
  // A view into the map that keeps the file open; checks the file's length first.
  StatusOr<Tensor> Get(std::string_view name) const;
  // A copy in memory of its own, 64-byte aligned: safe against a file that shrinks later.
  StatusOr<Tensor> Copy(std::string_view name) const;

 private:
  StatusOr<const SafetensorsEntry*> Find(std::string_view name) const;

  std::shared_ptr<MappedFile> file_;
  SafetensorsEntries entries_;
};

// All the shards of a model directory: model.safetensors, or those that
// model.safetensors.index.json names (plain file names inside the directory only).
class SafetensorsDirectory {
 public:
  static StatusOr<std::unique_ptr<SafetensorsDirectory>> Open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  std::vector<std::string> names() const;
  const SafetensorsEntry* Find(std::string_view name) const;
  // The shard that holds a tensor, or null.
  const SafetensorsFile* FileOf(std::string_view name) const;
  StatusOr<Tensor> Get(std::string_view name) const;
  StatusOr<Tensor> Copy(std::string_view name) const;
  // Bytes of all shards, headers included.
  uint64_t file_bytes() const;
  Status VerifyFiles() const;
  // Begins to read all shards into the system's cache.
  void ReadAhead() const;

 private:
  Status OpenShards(const std::filesystem::path& folder, const std::filesystem::path& index);

  std::filesystem::path folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, size_t, std::less<>> file_of_;
};

// Takes the next bytes of a tensor.
using ByteSink = std::function<Status(std::span<const uint8_t> bytes)>;

// A tensor to be written; its bytes may lie in a mapped file and are read when their turn comes.
struct OutputTensor {
  std::string name;
  Tensor tensor;
  // If set, makes the bytes when their turn comes and hands them over in order; then `tensor`
  // gives type and shape alone, and its data may be null.
  std::function<Status(const ByteSink& sink)> stream = nullptr;
};

// The beginning of a file, made tensor by tensor; what writes files also predicts their sizes.
class SafetensorsHeader {
 public:
  // The next tensor; the sizes of all together must not overflow.
  void Add(std::string_view name, DType dtype, const Shape& shape, uint64_t bytes);
  // Of the tensors so far: where the next one starts in the data.
  uint64_t data_bytes() const { return data_bytes_; }
  // The length field and the JSON text, padded so that the data starts at a multiple of 64.
  std::string Bytes() const;

 private:
  std::string text_ = R"({"__metadata__":{"format":"pt"})";
  uint64_t data_bytes_ = 0;
};

// Writes a safetensors file through AtomicFile; tensors in the given order, the header padded
// so that the data starts at a multiple of 64 bytes, "__metadata__": {"format": "pt"}. The
// bytes depend on the arguments alone.
Status WriteSafetensors(const std::filesystem::path& path,
                        const std::vector<OutputTensor>& tensors);

}  // namespace tq
