// EXPECT_THAT(status, Fails(code, "part of the message", ...)): an error of that code in one
// short printable line that holds all the parts.
#pragma once

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "base/status.h"

namespace tq::testing {

inline const Status& StatusOf(const Status& status) { return status; }
template <class T>
const Status& StatusOf(const StatusOr<T>& result) {
  return result.status();
}

MATCHER_P2(FailsWith, code, parts, "") {
  const Status& status = StatusOf(arg);
  *result_listener << "\"" << status.message() << "\", code " << static_cast<int>(status.code());
  if (status.ok() || status.code() != code) return false;
  if (status.message().size() > 1000) return false;
  for (const char c : status.message()) {
    if (c < ' ' || c > '~') return false;
  }
  for (const std::string& part : parts) {
    if (status.message().find(part) == std::string::npos) return false;
  }
  return true;
}

template <class... Parts>
auto Fails(StatusCode code, Parts... parts) {
  return FailsWith(code, std::vector<std::string>{parts...});
}

}  // namespace tq::testing
