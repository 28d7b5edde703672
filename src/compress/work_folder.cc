#include "compress/work_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file_io.h"
#include "base/log.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxJobFileBytes = 1 << 20;
constexpr std::string_view kHashTensor = "part.hash";

// Hash of a part: the job, the part's name, and all tensors.
Hash128 HashPart(const Hash128& fingerprint, std::string_view part,
                 const std::vector<OutputTensor>& tensors) {
  Hasher hasher;
  hasher.Update(&fingerprint, sizeof(fingerprint));
  hasher.UpdateString(part);
  for (const OutputTensor& t : tensors) {
    hasher.UpdateString(t.name);
    hasher.UpdateString(DTypeName(t.tensor.dtype()));
    hasher.UpdateString(ShapeToString(t.tensor.shape()));
    hasher.Update(t.tensor.data(), t.tensor.num_bytes());
  }
  return hasher.Digest();
}

bool IsTemporary(std::string_view name) { return name.find(".tmp.") != std::string_view::npos; }

bool IsPart(std::string_view name) { return name.ends_with(".part"); }

constexpr std::string_view kJobFile = "job.json", kLockFile = "lock";

struct JobFile {
  std::string fingerprint, job;
};
StatusOr<JobFile> ReadJobFile(const fs::path& path) {
  TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxJobFileBytes));
  const nlohmann::json job = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto is_text = [&](const char* key) {
    return job.is_object() && job.contains(key) && job[key].is_string();
  };
  if (!is_text("fingerprint") || !is_text("job")) {
    return FailedPrecondition("{}: is no job of ours; remove the folder, or give another one",
                              path.string());
  }
  return JobFile{job["fingerprint"], job["job"]};
}

// A folder without a job in it is used only when it is empty but for what a process that was
// killed at its beginning leaves: somebody else's files may have the names that are removed below.
Status CheckIsOurs(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path / kJobFile, error)) return ReadJobFile(path / kJobFile).status();
  for (const auto& entry : fs::directory_iterator(path, error)) {
    const std::string name = entry.path().filename().string();
    if (name == kLockFile || name.starts_with(std::string(kJobFile) + ".tmp.")) continue;
    return FailedPrecondition("{}: holds {} and no unfinished work; give a folder of its own",
                              path.string(), name);
  }
  if (error) return IoError(path.string(), error.value());
  return OkStatus();
}

// Removes the entries of those names: nothing else is touched.
Status RemoveEntries(const fs::path& folder, bool (*matches)(std::string_view)) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (!matches(entry.path().filename().string())) continue;
    fs::remove_all(entry.path(), error);
    if (error) return IoError(entry.path().string(), error.value());
  }
  if (error) return IoError(folder.string(), error.value());
  return OkStatus();
}

StatusOr<std::vector<OutputTensor>> ReadPart(const fs::path& path, const Hash128& fingerprint,
                                             std::string_view part) {
  TQ_ASSIGN_OR_RETURN(std::shared_ptr<SafetensorsFile> file, SafetensorsFile::Open(path));
  std::vector<OutputTensor> tensors;
  std::string stored;
  for (const auto& [name, entry] : file->entries()) {
    TQ_ASSIGN_OR_RETURN(Tensor tensor, file->Get(name));
    if (name == kHashTensor) {
      stored.assign(reinterpret_cast<const char*>(tensor.data()), tensor.num_bytes());
    } else {
      tensors.push_back({name, std::move(tensor)});
    }
  }
  if (stored != HashPart(fingerprint, part, tensors).Hex()) {
    return DataLoss("{}: its hash does not match its contents", path.string());
  }
  // Parts of a whole model may be open at once.
  file->file().DropPages(0, file->file().size());
  return tensors;
}

}  // namespace

WorkFolder::WorkFolder(WorkFolder&& other) noexcept
    : path_(std::move(other.path_)),
      fingerprint_(other.fingerprint_),
      lock_(std::exchange(other.lock_, -1)) {}

WorkFolder& WorkFolder::operator=(WorkFolder&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fingerprint_, other.fingerprint_);
  std::swap(lock_, other.lock_);
  return *this;
}

WorkFolder::~WorkFolder() {
  if (lock_ >= 0) close(lock_);
}

StatusOr<WorkFolder> WorkFolder::Open(const fs::path& path, const Hash128& fingerprint,
                                      std::string_view description, bool fresh) {
  std::error_code error;
  fs::create_directory(path, error);
  if (error) return IoError(path.string(), error.value());
  TQ_RETURN_IF_ERROR(CheckIsOurs(path));
  const fs::path lock_path = path / kLockFile;
  const int lock = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (lock < 0) return IoError(lock_path.string(), errno);
  WorkFolder folder(path, fingerprint, lock);
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return IoError(lock_path.string(), errno);
    return FailedPrecondition("{}: another process is writing this output", path.string());
  }
  TQ_RETURN_IF_ERROR(folder.CheckJob(description, fresh));
  TQ_RETURN_IF_ERROR(RemoveEntries(path, IsTemporary));
  return folder;
}

Status WorkFolder::CheckJob(std::string_view description, bool fresh) const {
  const fs::path job_path = path_ / kJobFile;
  std::error_code error;
  if (fs::exists(job_path, error)) {
    TQ_ASSIGN_OR_RETURN(const JobFile stored, ReadJobFile(job_path));
    if (!fresh && stored.fingerprint == fingerprint_.Hex()) return OkStatus();
    if (!fresh) {
      return FailedPrecondition(
          "{}: holds unfinished work of another job ({}), not of this one ({}); --fresh starts "
          "over",
          path_.string(), stored.job, description);
    }
    TQ_RETURN_IF_ERROR(RemoveEntries(path_, IsPart));
  }
  const nlohmann::ordered_json job = {{"fingerprint", fingerprint_.Hex()}, {"job", description}};
  return WriteFileAtomically(
      job_path, job.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

fs::path WorkFolder::PartPath(std::string_view part) const {
  return path_ / (std::string(part) + ".part");
}

std::optional<std::vector<OutputTensor>> WorkFolder::Load(std::string_view part) const {
  const fs::path path = PartPath(part);
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  StatusOr<std::vector<OutputTensor>> tensors = ReadPart(path, fingerprint_, part);
  if (!tensors.ok()) {
    Warn("{}; it is done again", tensors.status().message());
    return std::nullopt;
  }
  return *std::move(tensors);
}

Status WorkFolder::Store(std::string_view part, std::vector<OutputTensor> tensors) const {
  // In the order in which a reader lists them.
  std::sort(tensors.begin(), tensors.end(),
            [](const OutputTensor& a, const OutputTensor& b) { return a.name < b.name; });
  const std::string hash = HashPart(fingerprint_, part, tensors).Hex();
  TQ_ASSIGN_OR_RETURN(
      Tensor hash_tensor,
      Tensor::FromValues<uint8_t>(DType::kU8, {hash.size()},
                                  {reinterpret_cast<const uint8_t*>(hash.data()), hash.size()}));
  tensors.push_back({std::string(kHashTensor), std::move(hash_tensor)});
  return WriteSafetensors(PartPath(part), tensors);
}

Status WorkFolder::Remove() {
  TQ_RETURN_IF_ERROR(RemoveEntries(path_, IsPart));
  TQ_RETURN_IF_ERROR(RemoveEntries(path_, IsTemporary));
  // Last: it tells that the others are ours.
  std::error_code error;
  fs::remove(path_ / kJobFile, error);
  fs::remove(path_ / kLockFile, error);
  fs::remove(path_, error);  // Refused, rightly, when something of somebody else's is inside.
  if (error) Warn("{}: left in place ({})", path_.string(), error.message());
  return OkStatus();
}

}  // namespace tq
