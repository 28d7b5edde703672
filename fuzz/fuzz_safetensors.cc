// safetensors files from arbitrary bytes. The first byte picks what the rest is:
//   even: a header's JSON text, in front of as many zero bytes as fit its tensors
//   odd:  a whole file
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "memory_file.h"

namespace tq {
namespace {

void ReadFileOf(const std::string& bytes) {
  const fuzz::MemoryFile memory(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  const auto file = SafetensorsFile::Open(memory.path());
  if (!file.ok()) return fuzz::RequireOneLine(file.status().message());
  uint64_t sum = 0;
  for (const auto& [name, entry] : (*file)->entries()) {
    const auto view = (*file)->Get(name), copy = (*file)->Copy(name);
    if (!view.ok() || !copy.ok()) abort();
    if (view->num_bytes() != entry.bytes || copy->num_bytes() != entry.bytes) abort();
    if (entry.bytes > 0 && std::memcmp(view->data(), copy->data(), entry.bytes) != 0) abort();
    std::vector<float> values(view->num_elements());
    if (!ConvertToFloat(copy->view(), values.data()).ok()) continue;
    sum += values.size();
  }
  if (sum > bytes.size()) abort();
}

}  // namespace
}  // namespace tq

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  if (bytes[0] % 2 == 1) {
    tq::ReadFileOf(rest);
    return 0;
  }
  const uint64_t data_bytes = bytes[0] / 2;
  const auto entries = tq::ParseSafetensorsHeader(rest, 8, data_bytes, "fuzz");
  if (!entries.ok()) {
    tq::fuzz::RequireOneLine(entries.status().message());
    return 0;
  }
  uint64_t length = rest.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  tq::ReadFileOf(file + rest + std::string(data_bytes, '\0'));
  return 0;
}
