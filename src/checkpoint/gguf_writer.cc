#include "checkpoint/gguf_writer.h"

#include <bit>

#include "base/checked.h"

namespace tq {

static_assert(std::endian::native == std::endian::little, "file formats here are little-endian");

namespace {

// Types of metadata, by their numbers in a file.
enum ValueType : uint32_t {
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
};

template <class T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutString(std::string& out, std::string_view text) {
  Put<uint64_t>(out, text.size());
  out += text;
}

}  // namespace

void GgufKeys::Begin(std::string_view key, uint32_t type) {
  PutString(bytes_, key);
  Put(bytes_, type);
  ++count_;
}

void GgufKeys::Uint(std::string_view key, uint32_t value) {
  Begin(key, kUint32);
  Put(bytes_, value);
}

void GgufKeys::Float(std::string_view key, float value) {
  Begin(key, kFloat32);
  Put(bytes_, value);
}

void GgufKeys::Bool(std::string_view key, bool value) {
  Begin(key, kBool);
  Put<uint8_t>(bytes_, value ? 1 : 0);
}

void GgufKeys::String(std::string_view key, std::string_view value) {
  Begin(key, kString);
  PutString(bytes_, value);
}

void GgufKeys::Strings(std::string_view key, const std::vector<std::string>& values) {
  Begin(key, kArray);
  Put<uint32_t>(bytes_, kString);
  Put<uint64_t>(bytes_, values.size());
  for (const std::string& value : values) PutString(bytes_, value);
}

template <class T>
void GgufKeys::Numbers(std::string_view key, uint32_t type, const std::vector<T>& values) {
  Begin(key, kArray);
  Put(bytes_, type);
  Put<uint64_t>(bytes_, values.size());
  for (const T value : values) Put(bytes_, value);
}

void GgufKeys::Ints(std::string_view key, const std::vector<int32_t>& values) {
  Numbers(key, kInt32, values);
}

void GgufKeys::Floats(std::string_view key, const std::vector<float>& values) {
  Numbers(key, kFloat32, values);
}

uint64_t GgufOutputTensor::row_bytes() const {
  const GgufBlocks format = BlocksOf(type);
  TQ_CHECK(!shape.empty() && shape.back() % format.values == 0);
  return shape.back() / format.values * format.bytes;
}

uint64_t GgufOutputTensor::bytes() const {
  uint64_t total = row_bytes();  // cannot overflow: shapes are those of a checked ModelConfig
  for (size_t i = 0; i + 1 < shape.size(); ++i) total *= shape[i];
  return total;
}

StatusOr<GgufWriter> GgufWriter::Create(const std::filesystem::path& path, const GgufKeys& keys,
                                        const std::vector<GgufOutputTensor>& tensors) {
  std::string header = "GGUF";
  Put<uint32_t>(header, 3);
  Put<uint64_t>(header, tensors.size());
  Put<uint64_t>(header, keys.count());
  header += keys.bytes();
  std::vector<uint64_t> tensor_bytes;
  uint64_t offset = 0;
  for (const GgufOutputTensor& tensor : tensors) {
    PutString(header, tensor.name);
    Put(header, static_cast<uint32_t>(tensor.shape.size()));
    // ggml's ne starts with the fastest dimension.
    for (auto d = tensor.shape.rbegin(); d != tensor.shape.rend(); ++d) Put<uint64_t>(header, *d);
    Put(header, static_cast<uint32_t>(tensor.type));
    Put(header, offset);
    tensor_bytes.push_back(tensor.bytes());
    const auto end = CheckedAdd(offset, RoundUp(tensor.bytes(), kGgufAlignment));
    if (!end) return InvalidArgument("{}: the tensors' sizes overflow", path.string());
    offset = *end;
  }
  header.resize(RoundUp<uint64_t>(header.size(), kGgufAlignment), '\0');
  const uint64_t file_bytes = header.size() + offset;
  const std::filesystem::path folder = path.parent_path();
  TQ_ASSIGN_OR_RETURN(const uint64_t free, FreeDiskBytes(folder.empty() ? "." : folder));
  if (free < file_bytes) {
    return ResourceExhausted("{}: needs {} bytes, the disk has {} left", path.string(), file_bytes,
                             free);
  }
  TQ_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  TQ_RETURN_IF_ERROR(file.Write(header));
  return GgufWriter(std::move(file), std::move(tensor_bytes), file_bytes);
}

Status GgufWriter::Append(std::span<const uint8_t> bytes) {
  TQ_CHECK(tensor_ < tensor_bytes_.size());
  const uint64_t size = tensor_bytes_[tensor_];
  TQ_CHECK(bytes.size() <= size - tensor_done_);
  TQ_RETURN_IF_ERROR(file_.Write(bytes.data(), bytes.size()));
  tensor_done_ += bytes.size();
  if (tensor_done_ < size) return OkStatus();
  ++tensor_;
  tensor_done_ = 0;
  return file_.Write(std::string(RoundUp(size, kGgufAlignment) - size, '\0'));
}

Status GgufWriter::Commit() {
  TQ_CHECK(tensor_ == tensor_bytes_.size());
  return file_.Commit();
}

}  // namespace tq
