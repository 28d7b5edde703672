// What the process takes of the machine's memory.
#pragma once

#include <cstdint>

namespace tq {

// Largest resident set of this process so far, in bytes.
uint64_t PeakRssBytes();

}  // namespace tq
