#include "checkpoint/gguf.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/checked.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/gguf_split.h"
#include "checkpoint/quote.h"

namespace tq {

static_assert(std::endian::native == std::endian::little, "file formats here are little-endian");

StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::filesystem::path& path) {
  TQ_ASSIGN_OR_RETURN(auto file, OpenPart(path));
  // Merging leaves a count of 0.
  TQ_ASSIGN_OR_RETURN(const uint64_t parts, file->GetUintOr("split.count", 0));
  if (parts > 1) TQ_RETURN_IF_ERROR(file->AddParts(parts));
  TQ_RETURN_IF_ERROR(file->IndexTensors());
  return file;
}

StatusOr<std::unique_ptr<GgufFile>> GgufFile::OpenPart(const std::filesystem::path& path) {
  std::unique_ptr<GgufFile> result(new GgufFile);
  TQ_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  TQ_ASSIGN_OR_RETURN(GgufHeader header, ReadGgufHeader(*file));
  result->files_.push_back(std::move(file));
  result->metadata_ = std::move(header.metadata);
  result->tensors_ = std::move(header.tensors);
  TQ_RETURN_IF_ERROR(result->PlaceTensors(header.data_begin, header.alignment));
  return result;
}

// Offsets from the start of the data become those from the start of the file.
Status GgufFile::PlaceTensors(uint64_t data_begin, uint64_t alignment) {
  const std::string file = path().string();
  const uint64_t size = files_[0]->size();
  std::vector<const GgufTensor*> order;
  order.reserve(tensors_.size());
  for (GgufTensor& tensor : tensors_) {
    if (tensor.offset % alignment != 0) {
      return InvalidArgument("{}: tensor {}: offset {} is no multiple of the alignment {}", file,
                             Quote(tensor.name), tensor.offset, alignment);
    }
    const auto offset = CheckedAdd(data_begin, tensor.offset);
    if (!offset || !RangeFits(*offset, tensor.bytes, size)) {
      return DataLoss("{}: tensor {}: bytes {} + {} lie outside the file of {} bytes", file,
                      Quote(tensor.name), tensor.offset, tensor.bytes, size);
    }
    tensor.offset = *offset;
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset) {
      return InvalidArgument("{}: tensors {} and {} overlap", file, Quote(order[i - 1]->name),
                             Quote(order[i]->name));
    }
  }
  return OkStatus();
}

Status GgufFile::AddParts(uint64_t count) {
  TQ_ASSIGN_OR_RETURN(const auto others, FindOtherParts(*this, count));
  for (const std::filesystem::path& other : others) {
    TQ_ASSIGN_OR_RETURN(const auto part, OpenPart(other));
    TQ_RETURN_IF_ERROR(CheckPart(*this, *part, files_.size()));
    for (GgufTensor& tensor : part->tensors_) {
      tensor.part = files_.size();
      tensors_.push_back(std::move(tensor));
    }
    files_.push_back(std::move(part->files_[0]));
  }
  TQ_ASSIGN_OR_RETURN(const uint64_t tensors, GetUint(kSplitTensors));
  if (tensors_.size() != tensors) {
    return InvalidArgument("{}: {} is {}, the {} parts hold {} tensors", path().string(),
                           kSplitTensors, tensors, count, tensors_.size());
  }
  return OkStatus();
}

Status GgufFile::IndexTensors() {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const auto [at, inserted] = by_name_.emplace(tensors_[i].name, i);
    if (!inserted) {
      return InvalidArgument("{}: tensor {} is in {}, too", FileOf(tensors_[i]).path().string(),
                             Quote(tensors_[i].name), FileOf(tensors_[at->second]).path().string());
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

GgufTensor SliceOf(const GgufTensor& stack, uint64_t i) {
  TQ_CHECK(stack.shape.size() == 3 && i < stack.shape[0]);
  GgufTensor slice = stack;
  slice.name = fmt::format("{}[{}]", stack.name, i);
  slice.shape.erase(slice.shape.begin());
  slice.bytes = stack.bytes / stack.shape[0];
  slice.offset += i * slice.bytes;
  return slice;
}

StatusOr<std::span<const uint8_t>> GgufFile::Bytes(const GgufTensor& tensor) const {
  TQ_RETURN_IF_ERROR(FileOf(tensor).VerifySize());
  return FileOf(tensor).Range(tensor.offset, tensor.bytes);
}

Status GgufFile::Decode(const GgufTensor& tensor, uint64_t begin, uint64_t blocks,
                        std::vector<uint8_t>& buffer, float* out) const {
  const uint64_t bytes = GgufBlockFormat(static_cast<uint32_t>(tensor.type))->bytes;
  TQ_RETURN_IF_ERROR(
      FileOf(tensor).ReadAt(tensor.offset + begin * bytes, buffer.data(), blocks * bytes));
  if (const auto bad = FirstUnsoundBlock(tensor.type, buffer.data(), blocks)) {
    return DataLoss("{}: tensor {}: block {} has a code that no encoder of {} writes",
                    FileOf(tensor).path().string(), Quote(tensor.name), begin + *bad,
                    GgufTypeName(static_cast<uint32_t>(tensor.type)));
  }
  DequantizeBlocks(tensor.type, buffer.data(), blocks, out);
  return OkStatus();
}

Status GgufFile::LoadRow(const GgufTensor& tensor, uint64_t row, float* out) const {
  // Blocks never cross rows.
  const GgufBlocks format = *GgufBlockFormat(static_cast<uint32_t>(tensor.type));
  const uint64_t blocks = tensor.shape[1] / format.values;
  std::vector<uint8_t> buffer(blocks * format.bytes);
  return Decode(tensor, row * blocks, blocks, buffer, out);
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
    TQ_RETURN_IF_ERROR(Decode(tensor, done, blocks, buffer, out + done * format.values));
  }
  const uint8_t* data = memory.get();
  return Tensor({DType::kF32, tensor.shape, data}, std::move(memory));
}

}  // namespace tq
