// Warnings to standard error: one line each, "tq: warning: ...". Nothing else in
// the libraries prints; progress goes through base/progress.h.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace tq {

void LogWarning(std::string_view message);

template <class... Args>
void Warn(fmt::format_string<Args...> format, Args&&... args) {
  LogWarning(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace tq
