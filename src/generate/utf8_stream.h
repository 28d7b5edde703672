// Text that arrives in pieces of bytes (a token may end inside a character), handed on in
// whole characters.
#pragma once

#include <string>
#include <string_view>

namespace tq {

class Utf8Stream {
 public:
  // The characters that `bytes` completes; the start of an incomplete one is held back.
  // Bytes that cannot be part of a character become U+FFFD, one per maximal part of an
  // ill-formed sequence (Unicode 14, section 3.9, table 3-7).
  std::string Push(std::string_view bytes);
  // What is left, as U+FFFD; the stream is empty again.
  std::string Finish();

 private:
  std::string held_;  // at most 3 bytes: a proper prefix of a well-formed character
};

}  // namespace tq
