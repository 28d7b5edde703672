// Text from files in error messages: always one short, printable line.
#pragma once

#include <string>
#include <string_view>

namespace tq {

// 'text' in single quotes; bytes outside printable ASCII become \xNN, and anything over
// 80 bytes is cut, with the full length behind.
std::string Quote(std::string_view text);

}  // namespace tq
