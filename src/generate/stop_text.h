// Watches a stream of text pieces for a stop sequence that may arrive in parts.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace tq {

class StopText {
 public:
  explicit StopText(std::string stop) : stop_(std::move(stop)) {}

  // What of the text so far is surely not part of the stop sequence and was not given yet.
  std::string Push(std::string_view piece) {
    if (found_) return {};
    held_ += piece;
    if (const size_t at = held_.find(stop_); at != std::string::npos) {
      found_ = true;
      std::string out = held_.substr(0, at);
      held_.clear();
      return out;
    }
    // Keep back the longest end of the text that begins the stop sequence.
    size_t keep = std::min(held_.size(), stop_.size() - 1);
    while (keep > 0 && held_.compare(held_.size() - keep, keep, stop_, 0, keep) != 0) --keep;
    std::string out = held_.substr(0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
    return out;
  }

  // The text held back when the stream ended without the stop sequence.
  std::string Flush() { return std::exchange(held_, {}); }
  bool found() const { return found_; }

 private:
  std::string stop_, held_;
  bool found_ = false;
};

}  // namespace tq
