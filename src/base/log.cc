#include "base/log.h"

#include <cstdio>

namespace tq {

void LogWarning(std::string_view message) {
  fmt::print(stderr, "tq: warning: {}\n", message);
  std::fflush(stderr);
}

}  // namespace tq
