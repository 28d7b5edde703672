// Unicode's normalization form C (UAX #15): characters composed, marks in canonical order.
#pragma once

#include <string>
#include <string_view>

namespace tq {

// Of Unicode 14. Bytes that are not UTF-8 stay as they are; nothing is composed across them.
// O(n log n) for n bytes.
std::string ComposeNfc(std::string_view text);

}  // namespace tq
