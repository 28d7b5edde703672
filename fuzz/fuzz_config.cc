// config.json from arbitrary bytes; what is accepted survives being written and read again.
#include <cstdint>
#include <string_view>

#include "checkpoint/json.h"
#include "checkpoint/model_config.h"
#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  const auto config = tq::ModelConfigFromJson(text, "fuzz");
  if (!config.ok()) {
    tq::fuzz::RequireOneLine(config.status().message());
    return 0;
  }
  const std::string written = tq::ModelConfigToJson(*config);
  const auto again = tq::ModelConfigFromJson(written);
  if (!again.ok() || tq::ModelConfigToJson(*again) != written) abort();
  return 0;
}
