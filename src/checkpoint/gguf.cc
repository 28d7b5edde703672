#include "checkpoint/gguf.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/checked.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/quote.h"

namespace tq {

static_assert(std::endian::native == std::endian::little, "file formats here are little-endian");

StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::filesystem::path& path) {
  std::unique_ptr<GgufFile> result(new GgufFile);
  TQ_ASSIGN_OR_RETURN(result->file_, MappedFile::Open(path));
  TQ_ASSIGN_OR_RETURN(GgufHeader header, ReadGgufHeader(*result->file_));
  result->metadata_ = std::move(header.metadata);
  result->tensors_ = std::move(header.tensors);
  TQ_ASSIGN_OR_RETURN(const uint64_t split, result->GetUintOr("split.count", 1));
  if (split > 1) {
    return Unimplemented("{}: one of {} split files; merge them first", path.string(), split);
  }
  const std::string file = path.string();
  for (GgufTensor& tensor : result->tensors_) {
    if (tensor.offset % header.alignment != 0) {
      return InvalidArgument("{}: tensor {}: offset {} is no multiple of the alignment {}", file,
                             Quote(tensor.name), tensor.offset, header.alignment);
    }
    const auto offset = CheckedAdd(header.data_begin, tensor.offset);
    if (!offset || !RangeFits(*offset, tensor.bytes, result->file_->size())) {
      return DataLoss("{}: tensor {}: bytes {} + {} lie outside the file of {} bytes", file,
                      Quote(tensor.name), tensor.offset, tensor.bytes, result->file_->size());
    }
    tensor.offset = *offset;
  }
  TQ_RETURN_IF_ERROR(result->CheckTensors());
  return result;
}

Status GgufFile::CheckTensors() {
  std::vector<const GgufTensor*> order;
  order.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    by_name_.emplace(tensors_[i].name, i);
    order.push_back(&tensors_[i]);
  }
  std::sort(order.begin(), order.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset) {
      return InvalidArgument("{}: tensors {} and {} overlap", path().string(),
                             Quote(order[i - 1]->name), Quote(order[i]->name));
    }
  }
  return OkStatus();
}

const GgufTensor* GgufFile::Find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

StatusOr<const GgufValue*> GgufFile::Value(std::string_view key) const {
  const auto at = metadata_.find(key);
  if (at == metadata_.end()) return NotFound("{}: key {} is missing", path().string(), key);
  return &at->second;
}

namespace {

Status WrongType(const GgufFile& file, std::string_view key, std::string_view wanted) {
  return InvalidArgument("{}: key {} is not {}", file.path().string(), key, wanted);
}

}  // namespace

StatusOr<uint64_t> GgufFile::GetUint(std::string_view key) const {
  TQ_ASSIGN_OR_RETURN(const GgufValue* value, Value(key));
  if (const auto* number = std::get_if<uint64_t>(&value->value)) return *number;
  if (const auto* number = std::get_if<int64_t>(&value->value); number && *number >= 0) {
    return static_cast<uint64_t>(*number);
  }
  return WrongType(*this, key, "a non-negative integer");
}

StatusOr<double> GgufFile::GetFloat(std::string_view key) const {
  TQ_ASSIGN_OR_RETURN(const GgufValue* value, Value(key));
  if (const auto* number = std::get_if<double>(&value->value)) return *number;
  return WrongType(*this, key, "a floating-point number");
}

StatusOr<std::string> GgufFile::GetString(std::string_view key) const {
  TQ_ASSIGN_OR_RETURN(const GgufValue* value, Value(key));
  if (const auto* text = std::get_if<std::string>(&value->value)) return *text;
  return WrongType(*this, key, "a string");
}

StatusOr<const std::vector<std::string>*> GgufFile::GetStrings(std::string_view key) const {
  TQ_ASSIGN_OR_RETURN(const GgufValue* value, Value(key));
  if (const auto* strings = std::get_if<std::vector<std::string>>(&value->value)) return strings;
  return WrongType(*this, key, "an array of strings");
}

StatusOr<const std::vector<int64_t>*> GgufFile::GetInts(std::string_view key) const {
  TQ_ASSIGN_OR_RETURN(const GgufValue* value, Value(key));
  if (const auto* numbers = std::get_if<std::vector<int64_t>>(&value->value)) return numbers;
  return WrongType(*this, key, "an array of integers");
}

StatusOr<const std::vector<double>*> GgufFile::GetFloats(std::string_view key) const {
  TQ_ASSIGN_OR_RETURN(const GgufValue* value, Value(key));
  if (const auto* numbers = std::get_if<std::vector<double>>(&value->value)) return numbers;
  return WrongType(*this, key, "an array of floating-point numbers");
}

StatusOr<uint64_t> GgufFile::GetUintOr(std::string_view key, uint64_t fallback) const {
  if (!HasKey(key)) return fallback;
  return GetUint(key);
}

StatusOr<double> GgufFile::GetFloatOr(std::string_view key, double fallback) const {
  if (!HasKey(key)) return fallback;
  return GetFloat(key);
}

StatusOr<bool> GgufFile::GetBoolOr(std::string_view key, bool fallback) const {
  if (!HasKey(key)) return fallback;
  TQ_ASSIGN_OR_RETURN(const GgufValue* value, Value(key));
  if (const auto* flag = std::get_if<bool>(&value->value)) return *flag;
  return WrongType(*this, key, "a boolean");
}

StatusOr<std::span<const uint8_t>> GgufFile::Bytes(const GgufTensor& tensor) const {
  TQ_RETURN_IF_ERROR(file_->VerifySize());
  return file_->Range(tensor.offset, tensor.bytes);
}

Status GgufFile::LoadRow(const GgufTensor& tensor, uint64_t row, float* out) const {
  // Blocks never cross rows.
  const GgufBlocks format = *GgufBlockFormat(static_cast<uint32_t>(tensor.type));
  const uint64_t blocks = tensor.shape[1] / format.values;
  std::vector<uint8_t> buffer(blocks * format.bytes);
  TQ_RETURN_IF_ERROR(
      file_->ReadAt(tensor.offset + row * buffer.size(), buffer.data(), buffer.size()));
  DequantizeBlocks(tensor.type, buffer.data(), blocks, out);
  return OkStatus();
}

StatusOr<Tensor> GgufFile::LoadFloat(const GgufTensor& tensor) const {
  TQ_ASSIGN_OR_RETURN(const uint64_t bytes, NumBytes(tensor.shape, DType::kF32));
  TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(bytes, tensor.name));
  auto* out = reinterpret_cast<float*>(memory.get());
  const GgufBlocks format = *GgufBlockFormat(static_cast<uint32_t>(tensor.type));
  // A piece stays in the second-level cache between pread and decoding.
  constexpr uint64_t kPieceBytes = 256 << 10;
  const uint64_t piece = kPieceBytes / format.bytes;
  const uint64_t total = tensor.bytes / format.bytes;
  std::vector<uint8_t> buffer(std::min(piece, total) * format.bytes);
  for (uint64_t done = 0; done < total; done += piece) {
    const uint64_t blocks = std::min(piece, total - done);
    TQ_RETURN_IF_ERROR(
        file_->ReadAt(tensor.offset + done * format.bytes, buffer.data(), blocks * format.bytes));
    DequantizeBlocks(tensor.type, buffer.data(), blocks, out + done * format.values);
  }
  const uint8_t* data = memory.get();
  return Tensor({DType::kF32, tensor.shape, data}, std::move(memory));
}

}  // namespace tq
