#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <set>

#include "base/checked.h"
#include "base/file_io.h"
#include "checkpoint/json.h"
#include "checkpoint/quote.h"

namespace tq {
namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "file formats here are little-endian");

namespace {

// Index files of the largest models have some hundred thousand lines.
constexpr uint64_t kMaxIndexBytes = 32 << 20;
constexpr size_t kMaxShards = 10'000;

// A plain name of a .safetensors file: it can only mean a file inside the model's folder.
bool IsShardName(std::string_view name) {
  return name.size() <= 255 && name.ends_with(".safetensors") && !name.starts_with('.') &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace

StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const fs::path& path) {
  std::unique_ptr<SafetensorsFile> result(new SafetensorsFile);
  TQ_ASSIGN_OR_RETURN(result->file_, MappedFile::Open(path));
  const MappedFile& file = *result->file_;
  uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) {
    return DataLoss("{}: {} bytes are too few for a safetensors file", path.string(), file.size());
  }
  TQ_RETURN_IF_ERROR(file.ReadAt(0, &header_bytes, sizeof(header_bytes)));
  const uint64_t rest = file.size() - sizeof(header_bytes);
  if (header_bytes < 2 || header_bytes > kMaxSafetensorsHeader || header_bytes > rest) {
    return InvalidArgument("{}: header of {} bytes; allowed are 2 to {}", path.string(),
                           header_bytes, std::min(rest, kMaxSafetensorsHeader));
  }
  std::string header(header_bytes, '\0');
  TQ_RETURN_IF_ERROR(file.ReadAt(sizeof(header_bytes), header.data(), header_bytes));
  TQ_ASSIGN_OR_RETURN(result->entries_,
                      ParseSafetensorsHeader(header, sizeof(header_bytes) + header_bytes,
                                             rest - header_bytes, path.string()));
  return result;
}

StatusOr<const SafetensorsEntry*> SafetensorsFile::Find(std::string_view name) const {
  const auto at = entries_.find(name);
  if (at == entries_.end()) {
    return NotFound("{}: no tensor {}", file_->path().string(), Quote(name));
  }
  return &at->second;
}

StatusOr<Tensor> SafetensorsFile::Get(std::string_view name) const {
  TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* entry, Find(name));
  TQ_RETURN_IF_ERROR(file_->VerifySize());
  TQ_ASSIGN_OR_RETURN(const auto bytes, file_->Range(entry->offset, entry->bytes));
  return Tensor::Mapped({entry->dtype, entry->shape, bytes.data()}, file_);
}

StatusOr<Tensor> SafetensorsFile::Copy(std::string_view name) const {
  TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* entry, Find(name));
  TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(entry->bytes, name));
  TQ_RETURN_IF_ERROR(file_->ReadAt(entry->offset, memory.get(), entry->bytes));
  const uint8_t* data = memory.get();
  return Tensor({entry->dtype, entry->shape, data}, std::move(memory));
}

StatusOr<std::unique_ptr<SafetensorsDirectory>> SafetensorsDirectory::Open(const fs::path& folder) {
  std::unique_ptr<SafetensorsDirectory> result(new SafetensorsDirectory);
  result->folder_ = folder;
  const fs::path single = folder / "model.safetensors";
  const fs::path index = folder / "model.safetensors.index.json";
  std::error_code ignored;
  if (fs::exists(single, ignored)) {
    TQ_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(single));
    for (const auto& [name, entry] : file->entries()) result->file_of_.emplace(name, 0);
    result->files_.push_back(std::move(file));
  } else if (fs::exists(index, ignored)) {
    TQ_RETURN_IF_ERROR(result->OpenShards(folder, index));
  } else {
    return NotFound("{}: neither model.safetensors nor model.safetensors.index.json",
                    folder.string());
  }
  return result;
}

Status SafetensorsDirectory::OpenShards(const fs::path& folder, const fs::path& index) {
  TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(index, kMaxIndexBytes));
  TQ_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, index.string()));
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (map == json.end() || !map->is_object() || map->empty()) {
    return InvalidArgument("{}: no weight_map", index.string());
  }
  std::map<std::string, size_t> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !IsShardName(shard.get_ref<const std::string&>())) {
      return InvalidArgument("{}: tensor {}: {} is no name of a .safetensors file", index.string(),
                             Quote(tensor), Quote(shard.dump()));
    }
    const auto [at, inserted] = shards.emplace(shard.get_ref<const std::string&>(), shards.size());
    if (shards.size() > kMaxShards) {
      return ResourceExhausted("{}: more than {} shards", index.string(), kMaxShards);
    }
    file_of_.emplace(tensor, at->second);
  }
  files_.resize(shards.size());
  for (const auto& [name, number] : shards) {
    TQ_ASSIGN_OR_RETURN(files_[number], SafetensorsFile::Open(folder / name));
    for (const auto& [tensor, entry] : files_[number]->entries()) {
      const auto at = file_of_.find(tensor);
      if (at == file_of_.end() || at->second != number) {
        return InvalidArgument("{}: holds tensor {}, which {} places in {}",
                               (folder / name).string(), Quote(tensor), index.string(),
                               at == file_of_.end() ? "no shard" : "another shard");
      }
    }
  }
  for (const auto& [tensor, number] : file_of_) {
    if (files_[number]->entries().find(tensor) == files_[number]->entries().end()) {
      return NotFound("{}: tensor {} is missing, though {} names it",
                      files_[number]->file().path().string(), Quote(tensor), index.string());
    }
  }
  return OkStatus();
}

std::vector<std::string> SafetensorsDirectory::names() const {
  std::vector<std::string> names;
  names.reserve(file_of_.size());
  for (const auto& [name, number] : file_of_) names.push_back(name);
  return names;
}

const SafetensorsFile* SafetensorsDirectory::FileOf(std::string_view name) const {
  const auto at = file_of_.find(name);
  return at == file_of_.end() ? nullptr : files_[at->second].get();
}

const SafetensorsEntry* SafetensorsDirectory::Find(std::string_view name) const {
  const SafetensorsFile* file = FileOf(name);
  return file == nullptr ? nullptr : &file->entries().find(name)->second;
}

StatusOr<Tensor> SafetensorsDirectory::Get(std::string_view name) const {
  const SafetensorsFile* file = FileOf(name);
  if (file == nullptr) return NotFound("{}: no tensor {}", folder_.string(), Quote(name));
  return file->Get(name);
}

StatusOr<Tensor> SafetensorsDirectory::Copy(std::string_view name) const {
  const SafetensorsFile* file = FileOf(name);
  if (file == nullptr) return NotFound("{}: no tensor {}", folder_.string(), Quote(name));
  return file->Copy(name);
}

uint64_t SafetensorsDirectory::file_bytes() const {
  uint64_t bytes = 0;
  for (const auto& file : files_) bytes += file->file().size();
  return bytes;
}

Status SafetensorsDirectory::VerifyFiles() const {
  for (const auto& file : files_) TQ_RETURN_IF_ERROR(file->file().VerifySize());
  return OkStatus();
}

void SafetensorsDirectory::ReadAhead() const {
  for (const auto& file : files_) file->file().ReadAhead();
}

void SafetensorsHeader::Add(std::string_view name, DType dtype, const Shape& shape,
                            uint64_t bytes) {
  const auto replace = nlohmann::json::error_handler_t::replace;
  text_ += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                       nlohmann::json(name).dump(-1, ' ', false, replace), DTypeName(dtype),
                       fmt::join(shape, ","), data_bytes_, data_bytes_ + bytes);
  data_bytes_ += bytes;
}

std::string SafetensorsHeader::Bytes() const {
  std::string text = text_ + '}';
  const uint64_t data_begin = RoundUp<uint64_t>(sizeof(uint64_t) + text.size(), 64);
  const uint64_t length = data_begin - sizeof(uint64_t);
  text.resize(length, ' ');
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

namespace {

StatusOr<std::string> MakeHeader(const fs::path& path, const std::vector<OutputTensor>& tensors) {
  SafetensorsHeader header;
  std::set<std::string_view> names;
  for (const OutputTensor& output : tensors) {
    const Tensor& tensor = output.tensor;
    TQ_ASSIGN_OR_RETURN(const uint64_t bytes, NumBytes(tensor.shape(), tensor.dtype()));
    if (!CheckedAdd(header.data_bytes(), bytes)) {
      return InvalidArgument("{}: the tensors' sizes overflow", path.string());
    }
    if (!names.insert(output.name).second) {
      return InvalidArgument("{}: tensor {} twice", path.string(), Quote(output.name));
    }
    header.Add(output.name, tensor.dtype(), tensor.shape(), bytes);
  }
  return header.Bytes();
}

Status WriteTensor(const OutputTensor& output, AtomicFile& file) {
  const Tensor& tensor = output.tensor;
  const uint64_t bytes = tensor.num_bytes();
  if (output.stream) {
    uint64_t done = 0;
    TQ_RETURN_IF_ERROR(output.stream([&](std::span<const uint8_t> piece) {
      done += piece.size();
      return file.Write(piece.data(), piece.size());
    }));
    TQ_CHECK(done == bytes);
    return OkStatus();
  }
  // It may lie in a mapped file; all together may be larger than memory.
  constexpr uint64_t kPiece = 8 << 20;
  for (uint64_t done = 0; done < bytes; done += kPiece) {
    const uint64_t size = std::min(kPiece, bytes - done);
    TQ_RETURN_IF_ERROR(file.Write(tensor.data() + done, size));
    tensor.DropPages(done, size);
  }
  return OkStatus();
}

}  // namespace

Status WriteSafetensors(const fs::path& path, const std::vector<OutputTensor>& tensors) {
  TQ_ASSIGN_OR_RETURN(const std::string header, MakeHeader(path, tensors));
  TQ_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  TQ_RETURN_IF_ERROR(file.Write(header));
  for (const OutputTensor& output : tensors) TQ_RETURN_IF_ERROR(WriteTensor(output, file));
  return file.Commit();
}

}  // namespace tq
