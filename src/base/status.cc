#include "base/status.h"

#include <cstdio>
#include <cstring>

namespace tq {

Status Status::WithContext(std::string_view prefix) const {
  return ok() ? *this : Status(code_, fmt::format("{}: {}", prefix, message_));
}

Status IoError(std::string_view what, int error_number) {
  return Status(StatusCode::kIo, fmt::format("{}: {}", what, std::strerror(error_number)));
}

namespace internal {
void CheckFailed(const char* file, int line, std::string_view what) {
  fmt::print(stderr, "{}:{}: internal error: {}\n", file, line, what);
  std::abort();
}
}  // namespace internal

}  // namespace tq
