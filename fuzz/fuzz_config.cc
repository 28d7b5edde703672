// config.json from arbitrary bytes, and the quantization_config in it; what is accepted survives
// being written and read again.
#include <cstdint>
#include <string_view>

#include "checkpoint/json.h"
#include "checkpoint/model_config.h"
#include "checkpoint/quantization_config.h"
#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  if (auto document = tq::ParseJson(text, "fuzz"); document.ok()) {
    const auto quantization = tq::TakeQuantization(*document, "fuzz");
    if (!quantization.ok()) tq::fuzz::RequireOneLine(quantization.status().message());
  }
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
