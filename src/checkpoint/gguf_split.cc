#include "checkpoint/gguf_split.h"

#include <fmt/format.h>

#include <string>

#include "checkpoint/quote.h"

namespace tq {
namespace fs = std::filesystem;

namespace {

constexpr std::string_view kSplitNumber = "split.no";
constexpr std::string_view kSplitCount = "split.count";
constexpr uint64_t kMaxParts = 65535;  // the key is a uint16

// What follows NAME; files are counted from 1.
std::string PartEnding(uint64_t number, uint64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", number + 1, count);
}

Status CheckAllExist(const GgufFile& first, const std::vector<fs::path>& parts) {
  constexpr uint64_t kListed = 5;
  std::string list;
  uint64_t missing = 0;
  for (const fs::path& part : parts) {
    std::error_code ignored;
    if (fs::exists(part, ignored)) continue;
    if (++missing > kListed) continue;
    list += (missing > 1 ? ", " : "") + Quote(part.filename().string());
  }
  if (missing == 0) return OkStatus();
  if (missing > kListed) list += fmt::format(" and {} more", missing - kListed);
  return NotFound("{}: {} of {} parts missing beside it: {}", first.path().string(), missing,
                  parts.size() + 1, list);
}

}  // namespace

StatusOr<std::vector<fs::path>> FindOtherParts(const GgufFile& first, uint64_t count) {
  const std::string file = first.path().string();
  if (count > kMaxParts) {
    return InvalidArgument("{}: {} is {}, the limit is {}", file, kSplitCount, count, kMaxParts);
  }
  TQ_ASSIGN_OR_RETURN(const uint64_t number, first.GetUint(kSplitNumber));
  if (number >= count) {
    return InvalidArgument("{}: {} is {}, of {} parts it can be 0 to {}", file, kSplitNumber,
                           number, count, count - 1);
  }
  std::string name = first.path().filename().string();
  const std::string ending = PartEnding(number, count);
  if (!name.ends_with(ending)) {
    return InvalidArgument("{}: is part {} of {} and so should be called NAME{}", file, number + 1,
                           count, ending);
  }
  name.resize(name.size() - ending.size());
  if (number != 0) {
    return InvalidArgument("{}: is part {} of {}; open the first, {}", file, number + 1, count,
                           Quote(name + PartEnding(0, count)));
  }
  std::vector<fs::path> parts;
  for (uint64_t i = 1; i < count; ++i) {
    parts.push_back(first.path().parent_path() / (name + PartEnding(i, count)));
  }
  TQ_RETURN_IF_ERROR(CheckAllExist(first, parts));
  return parts;
}

Status CheckPart(const GgufFile& first, const GgufFile& part, uint64_t number) {
  const std::string file = part.path().string();
  TQ_ASSIGN_OR_RETURN(const uint64_t says, part.GetUint(kSplitNumber));
  if (says != number) {
    return InvalidArgument("{}: {} is {}, its name says {}", file, kSplitNumber, says, number);
  }
  for (const std::string_view key : {kSplitCount, kSplitTensors}) {
    TQ_ASSIGN_OR_RETURN(const uint64_t count, part.GetUint(key));
    TQ_ASSIGN_OR_RETURN(const uint64_t expected, first.GetUint(key));
    if (count != expected) {
      return InvalidArgument("{}: {} is {}, {} says {}", file, key, count, first.path().string(),
                             expected);
    }
  }
  // Other keys are the first part's alone; a part that repeats one tells whose it is.
  for (const auto& [key, value] : part.metadata()) {
    if (key == kSplitNumber || key == "general.alignment") continue;
    const auto at = first.metadata().find(key);
    if (at == first.metadata().end() || at->second != value) {
      return InvalidArgument("{}: is no part of {}: key {} is {}", file, first.path().string(),
                             Quote(key), at == first.metadata().end() ? "not there" : "another");
    }
  }
  return OkStatus();
}

}  // namespace tq
