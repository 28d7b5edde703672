#include "tokenizer/marked_text.h"

#include <algorithm>
#include <utility>

namespace tq {

MarkedText MarkedText::Trusted(std::string bytes) {
  MarkedText text;
  text.bytes_ = std::move(bytes);
  return text;
}

MarkedText MarkedText::Untrusted(std::string bytes) {
  MarkedText text = Trusted(std::move(bytes));
  if (!text.empty()) text.untrusted_.push_back({0, text.size()});
  return text;
}

void MarkedText::Append(const MarkedText& other) {
  const size_t offset = size();
  bytes_ += other.bytes_;
  untrusted_.reserve(untrusted_.size() + other.untrusted_.size());
  for (const TextSpan& span : other.untrusted_) {
    if (!untrusted_.empty() && untrusted_.back().end == offset + span.begin) {
      untrusted_.back().end = offset + span.end;
    } else {
      untrusted_.push_back({offset + span.begin, offset + span.end});
    }
  }
}

MarkedText MarkedText::Substr(size_t begin, size_t size) const {
  MarkedText text = Trusted(bytes_.substr(begin, size));
  const size_t end = begin + size;
  auto span = std::partition_point(untrusted_.begin(), untrusted_.end(),
                                   [&](const TextSpan& s) { return s.end <= begin; });
  for (; span != untrusted_.end() && span->begin < end; ++span) {
    text.untrusted_.push_back(
        {std::max(span->begin, begin) - begin, std::min(span->end, end) - begin});
  }
  return text;
}

MarkedText MarkedText::WithBytes(std::string bytes) const {
  return untrusted_.empty() ? Trusted(std::move(bytes)) : Untrusted(std::move(bytes));
}

}  // namespace tq
