#include "checkpoint/gguf_split.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <utility>

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

// NotFound listing the parts of `count` that are missing, some of them if there are many.
Status Missing(const GgufFile& first, uint64_t count, const std::vector<fs::path>& missing,
               bool more) {
  std::vector<std::string> names;
  for (const fs::path& part : missing) names.push_back(Quote(part.filename().string()));
  return NotFound("{}: {}{} of {} parts missing beside it: {}{}", first.path().string(),
                  more ? "more than " : "", names.size(), count, fmt::join(names, ", "),
                  more ? " and others" : "");
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
  // The number of parts is the file's word: looking for them ends when enough are missing.
  constexpr size_t kListed = 5;
  std::vector<fs::path> parts, missing;
  for (uint64_t i = 1; i < count; ++i) {
    fs::path part = first.path().parent_path() / (name + PartEnding(i, count));
    std::error_code ignored;
    if (fs::exists(part, ignored)) {
      parts.push_back(std::move(part));
    } else if (missing.size() < kListed) {
      missing.push_back(std::move(part));
    } else {
      return Missing(first, count, missing, /*more=*/true);
    }
  }
  if (!missing.empty()) return Missing(first, count, missing, /*more=*/false);
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
