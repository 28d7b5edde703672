// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace tq {

// "96.4 MiB".
std::string FormatBytes(uint64_t bytes);

}  // namespace tq
