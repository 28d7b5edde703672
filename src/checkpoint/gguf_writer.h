// Writing GGUF version 3: metadata, then tensors whose bytes come piece by piece, in order. The
// layout is that of gguf_header.cc, with the format's default alignment.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_io.h"
#include "base/status.h"
#include "checkpoint/gguf_encode.h"
#include "tensor/tensor.h"

namespace tq {

inline constexpr uint64_t kGgufAlignment = 32;

// Metadata in the order in which they are added; keys must differ.
class GgufKeys {
 public:
  void Uint(std::string_view key, uint32_t value);
  void Float(std::string_view key, float value);
  // The type of the value is that of the key.
  void Number(std::string_view key, uint32_t value) { Uint(key, value); }
  void Number(std::string_view key, float value) { Float(key, value); }
  void Bool(std::string_view key, bool value);
  void String(std::string_view key, std::string_view value);
  void Strings(std::string_view key, const std::vector<std::string>& values);
  void Ints(std::string_view key, const std::vector<int32_t>& values);
  void Floats(std::string_view key, const std::vector<float>& values);

  uint64_t count() const { return count_; }
  // As they stand in the file.
  const std::string& bytes() const { return bytes_; }

 private:
  void Begin(std::string_view key, uint32_t type);
  template <class T>
  void Numbers(std::string_view key, uint32_t type, const std::vector<T>& values);

  std::string bytes_;
  uint64_t count_ = 0;
};

// A tensor that will be written. The last dimension must be a multiple of the type's block.
struct GgufOutputTensor {
  std::string name;  // GGUF's
  GgufEncoding type = GgufEncoding::kF32;
  Shape shape;  // row-major, of at least one dimension

  // Of a row, and of all.
  uint64_t row_bytes() const;
  uint64_t bytes() const;
};

class GgufWriter {
 public:
  // Writes the header under a temporary name beside `path`; ResourceExhausted when the disk has
  // not enough space for the whole file.
  static StatusOr<GgufWriter> Create(const std::filesystem::path& path, const GgufKeys& keys,
                                     const std::vector<GgufOutputTensor>& tensors);

  uint64_t file_bytes() const { return file_bytes_; }
  // The next bytes of the tensors, in their order. A piece ends with its tensor at the latest;
  // what aligns the next one is added here.
  Status Append(std::span<const uint8_t> bytes);
  // The file appears at its name. All tensors must be there.
  Status Commit();

 private:
  GgufWriter(AtomicFile file, std::vector<uint64_t> tensor_bytes, uint64_t file_bytes)
      : file_(std::move(file)), tensor_bytes_(std::move(tensor_bytes)), file_bytes_(file_bytes) {}

  AtomicFile file_;
  std::vector<uint64_t> tensor_bytes_;
  uint64_t file_bytes_ = 0;
  size_t tensor_ = 0;         // that is being written
  uint64_t tensor_done_ = 0;  // bytes of it
};

}  // namespace tq
