// How long work tells where it is. The library reports through this interface;
// the program decides how to show it.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace tq {

class Progress {
 public:
  virtual ~Progress() = default;
  // A stage of `total` units (tokens, weights, windows) begins; 0 = unknown.
  virtual void Begin(std::string_view stage, uint64_t total) = 0;
  // `done` units of the stage are finished; `detail` is shown beside (matrix, error).
  virtual void Update(uint64_t done, std::string_view detail) = 0;
  // One lasting line, e.g. a finished matrix with its error.
  virtual void Line(std::string_view text) = 0;
  virtual void End() = 0;
};

// Shows nothing.
class NullProgress final : public Progress {
 public:
  void Begin(std::string_view, uint64_t) override {}
  void Update(uint64_t, std::string_view) override {}
  void Line(std::string_view) override {}
  void End() override {}
};

// On a terminal one line rewritten in place with percentage and ETA; otherwise the
// lasting lines only.
class ConsoleProgress final : public Progress {
 public:
  explicit ConsoleProgress(std::FILE* out = stderr);
  void Begin(std::string_view stage, uint64_t total) override;
  void Update(uint64_t done, std::string_view detail) override;
  void Line(std::string_view text) override;
  void End() override;

 private:
  void ClearLine();

  std::FILE* out_;
  bool terminal_;
  bool line_shown_ = false;
  std::string stage_;
  uint64_t total_ = 0;
  std::chrono::steady_clock::time_point start_, last_shown_;
};

// A stage of `progress` that ends on every way out.
class ProgressStage {
 public:
  ProgressStage(Progress& progress, std::string_view name, uint64_t total) : progress_(progress) {
    progress_.Begin(name, total);
  }
  ~ProgressStage() { progress_.End(); }
  ProgressStage(const ProgressStage&) = delete;
  ProgressStage& operator=(const ProgressStage&) = delete;

 private:
  Progress& progress_;
};

// "3 s", "2 min 05 s", "1 h 02 min".
std::string FormatDuration(double seconds);

}  // namespace tq
