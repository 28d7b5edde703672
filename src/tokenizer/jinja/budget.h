// What running a template may cost. Templates come with models that nobody vouches for: loops in
// loops, doubling texts and deep nesting must end as errors, soon and in little memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"

namespace tq::jinja {

struct Limits {
  // A byte that an operation reads or writes costs 1, a step (a node of the template that is
  // evaluated, an element of a list) kStepCost. Everything that is made is paid for, so that this
  // also bounds the memory. The largest templates in use take some 10^6 for a long conversation.
  uint64_t work = uint64_t{1} << 28;
  uint64_t text_bytes = uint64_t{16} << 20;  // of one text, the output among them
  int depth = 400;  // evaluations inside each other; a macro that calls itself takes about 8
};

constexpr uint64_t kStepCost = 64;
// Nesting of a template's expressions and blocks, and of lists and dictionaries.
constexpr int kMaxSyntaxDepth = 120;
constexpr int kMaxValueDepth = 100;

class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}

  Status Use(uint64_t work) {
    if (work > limits_.work - used_) {
      return ResourceExhausted("it takes more than {} units of work", limits_.work);
    }
    used_ += work;
    return OkStatus();
  }
  Status UseSteps(uint64_t steps) { return Use(steps > limits_.work ? steps : steps * kStepCost); }
  Status CheckTextSize(uint64_t bytes) const {
    if (bytes <= limits_.text_bytes) return OkStatus();
    return ResourceExhausted("a text of {} bytes, the limit is {}", bytes, limits_.text_bytes);
  }
  // Pays for making a text of `bytes`.
  Status UseText(uint64_t bytes) {
    TQ_RETURN_IF_ERROR(CheckTextSize(bytes));
    return Use(bytes);
  }

  // One evaluation inside the others, as long as it lives.
  class Nested {
   public:
    explicit Nested(Budget& budget) : budget_(budget) { ++budget_.depth_; }
    ~Nested() { --budget_.depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    Status Check() const {
      if (budget_.depth_ <= budget_.limits_.depth) return OkStatus();
      return ResourceExhausted("evaluations nested more than {} deep", budget_.limits_.depth);
    }

   private:
    Budget& budget_;
  };

 private:
  Limits limits_;
  uint64_t used_ = 0;
  int depth_ = 0;
};

}  // namespace tq::jinja
