// GGUF version 3: metadata and tensors by memory map, one file or split into several.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "tensor/mapped_file.h"
#include "tensor/tensor.h"

namespace tq {

// Block types we read (gguf_blocks.h); GgufTypeName gives ggml's name for these and for known
// others.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
};
std::string GgufTypeName(uint32_t type);

// A metadata value: integers are widened to (u)int64, floats to double. Arrays hold one type.
struct GgufValue {
  std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<std::string>,
               std::vector<int64_t>, std::vector<double>>
      value;
  bool operator==(const GgufValue&) const = default;
};
using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  Shape shape;          // row-major: the reverse of ggml's ne
  size_t part = 0;      // which file of a split one
  uint64_t offset = 0;  // from the start of that file
  uint64_t bytes = 0;
};

// Matrix i of a stack of them, [n, rows, columns] with i < n, as a tensor of its own: blocks never
// cross rows, so it is one piece of the file.
GgufTensor SliceOf(const GgufTensor& stack, uint64_t i);
// Of a string in metadata: a chat template or tokenizer in JSON.
inline constexpr uint64_t kMaxGgufStringBytes = 64 << 20;

// Of the numbers by which frequencies of rotary embeddings are divided, [head_dim / 2].
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";

class GgufFile {
 public:
  // Reads and checks all headers, in this machine's byte order. Of a split file `path` is the
  // first part, and the others lie beside it (gguf_split.h). A tensor of a type that we do not
  // read is an error naming it.
  static StatusOr<std::unique_ptr<GgufFile>> Open(const std::filesystem::path& path);

  // Of a split file the first part, which has the model's metadata.
  const std::filesystem::path& path() const { return files_[0]->path(); }
  const GgufMetadata& metadata() const { return metadata_; }
  // Those of all parts.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  // The file that a tensor lies in.
  const MappedFile& FileOf(const GgufTensor& tensor) const { return *files_[tensor.part]; }
  const GgufTensor* Find(std::string_view name) const;

  // Typed metadata. Get* are errors naming file and key when absent or of another type;
  // *Or return the default when absent (still an error for a wrong type).
  StatusOr<uint64_t> GetUint(std::string_view key) const;
  StatusOr<double> GetFloat(std::string_view key) const;
  StatusOr<std::string> GetString(std::string_view key) const;
  StatusOr<const std::vector<std::string>*> GetStrings(std::string_view key) const;
  StatusOr<const std::vector<int64_t>*> GetInts(std::string_view key) const;
  StatusOr<const std::vector<double>*> GetFloats(std::string_view key) const;
  StatusOr<uint64_t> GetUintOr(std::string_view key, uint64_t fallback) const;
  StatusOr<double> GetFloatOr(std::string_view key, double fallback) const;
  StatusOr<bool> GetBoolOr(std::string_view key, bool fallback) const;
  bool HasKey(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }

  // The tensor's bytes in the map; checks the file's length first.
  StatusOr<std::span<const uint8_t>> Bytes(const GgufTensor& tensor) const;
  // Dequantised to float32 [shape], read by pread: safe against a file that shrinks. A code
  // that no encoder writes is an error naming tensor and block; values need not be finite.
  StatusOr<Tensor> LoadFloat(const GgufTensor& tensor) const;
  // The same of one row of a matrix, float [columns].
  Status LoadRow(const GgufTensor& tensor, uint64_t row, float* out) const;

 private:
  // One file; its tensors cannot be found by name yet.
  static StatusOr<std::unique_ptr<GgufFile>> OpenPart(const std::filesystem::path& path);
  Status PlaceTensors(uint64_t data_begin, uint64_t alignment);
  Status AddParts(uint64_t count);
  Status IndexTensors();
  StatusOr<const GgufValue*> Value(std::string_view key) const;
  // Blocks [begin, begin + blocks) of a tensor to floats; `buffer` holds their bytes.
  Status Decode(const GgufTensor& tensor, uint64_t begin, uint64_t blocks,
                std::vector<uint8_t>& buffer, float* out) const;

  std::vector<std::shared_ptr<MappedFile>> files_;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string_view, size_t, std::less<>> by_name_;  // keys point into tensors_
};

}  // namespace tq
