#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

namespace tq {

std::string FormatDuration(double seconds) {
  const auto s = static_cast<uint64_t>(std::max(0.0, seconds) + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

ConsoleProgress::ConsoleProgress(std::FILE* out) : out_(out), terminal_(isatty(fileno(out)) != 0) {}

void ConsoleProgress::ClearLine() {
  if (line_shown_) fmt::print(out_, "\r\x1b[K");
  line_shown_ = false;
}

void ConsoleProgress::Begin(std::string_view stage, uint64_t total) {
  stage_ = stage;
  total_ = total;
  start_ = std::chrono::steady_clock::now();
  last_shown_ = {};
}

void ConsoleProgress::Update(uint64_t done, std::string_view detail) {
  const auto now = std::chrono::steady_clock::now();
  // Ten refreshes a second are smooth to the eye and cost nothing.
  if (!terminal_ || now - last_shown_ < std::chrono::milliseconds(100)) return;
  last_shown_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  ClearLine();
  if (total_ > 0) {
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
    fmt::print(out_, "{} {:3.0f} %", stage_, 100 * share);
    // The first second says little about the rest.
    if (elapsed > 1 && share > 0) {
      fmt::print(out_, "  {} left", FormatDuration(elapsed / share * (1 - share)));
    }
  } else {
    fmt::print(out_, "{} {}", stage_, done);
  }
  if (!detail.empty()) fmt::print(out_, "  {}", detail);
  std::fflush(out_);
  line_shown_ = true;
}

void ConsoleProgress::Line(std::string_view text) {
  ClearLine();
  fmt::print(out_, "{}\n", text);
  std::fflush(out_);
}

void ConsoleProgress::End() {
  ClearLine();
  std::fflush(out_);
}

}  // namespace tq
