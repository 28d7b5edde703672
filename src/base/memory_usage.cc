#include "base/memory_usage.h"

#include <sys/resource.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

namespace tq {

uint64_t PeakRssBytes() {
  // getrusage() is the second choice: its figure survives exec, so that it also counts the
  // process that started this one.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> status(
      std::fopen("/proc/self/status", "re"), std::fclose);
  char line[256];
  while (status != nullptr && std::fgets(line, sizeof(line), status.get()) != nullptr) {
    unsigned long long kib = 0;
    if (std::sscanf(line, "VmHWM: %llu kB", &kib) == 1) return kib * 1024;
  }
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;  // Linux counts in KiB
}

uint64_t AvailableMemory() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  uint64_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(file, key);
  }
  return 0;
}

}  // namespace tq
