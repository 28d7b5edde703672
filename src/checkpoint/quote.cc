#include "checkpoint/quote.h"

#include <fmt/format.h>

namespace tq {

std::string Quote(std::string_view text) {
  constexpr size_t kShown = 80;
  std::string quoted = "'";
  for (const char c : text.substr(0, kShown)) {
    if (c >= ' ' && c <= '~') {
      quoted += c;
    } else {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  quoted += '\'';
  if (text.size() > kShown) quoted += fmt::format("... ({} bytes)", text.size());
  return quoted;
}

}  // namespace tq
