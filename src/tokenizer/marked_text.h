// Text that remembers which of its bytes nobody vouches for.
//
// A chat template writes "<|im_end|>" to end a turn; a message may hold the same letters. Both end
// up in one text, and only the first may become a control token. So every text that a template
// computes with carries the spans that came from messages, tools and other inputs, through
// trimming, splitting, replacing and joining, and the tokenizer matches control tokens outside of
// those spans only (Tokenizer::Encode). Words are still cut and merged across the border of a span:
// for messages without such letters the tokens are those of the plain text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tq {

// Bytes [begin, end) of a text.
struct TextSpan {
  size_t begin = 0, end = 0;
  bool operator==(const TextSpan&) const = default;
};

class MarkedText {
 public:
  MarkedText() = default;
  // All of it trusted, or all of it not.
  static MarkedText Trusted(std::string bytes);
  static MarkedText Untrusted(std::string bytes);

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  // Ascending, not empty, not touching.
  const std::vector<TextSpan>& untrusted() const { return untrusted_; }

  void Append(const MarkedText& other);
  void Append(std::string_view trusted) { bytes_ += trusted; }
  // Bytes [begin, begin + size), which must lie inside.
  MarkedText Substr(size_t begin, size_t size) const;
  // Other bytes made of this text in a way that moves them: untrusted when any byte of it is.
  MarkedText WithBytes(std::string bytes) const;

  bool operator==(const MarkedText&) const = default;

 private:
  std::string bytes_;
  std::vector<TextSpan> untrusted_;
};

}  // namespace tq
