// What the process takes of the machine's memory.
#pragma once

#include <cstdint>

namespace tq {

// Largest resident set of this process so far, in bytes.
uint64_t PeakRssBytes();

// Bytes that can be allocated without swapping, or 0 if the system does not say.
uint64_t AvailableMemory();

}  // namespace tq
