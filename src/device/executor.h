// Where parallel work runs: our thread pool, or the caller's own executor.
#pragma once

#include <cstddef>
#include <functional>

namespace tq {

// Runs the parts of a parallel loop. Results must not depend on threads(): work is
// cut by ParallelFor's caller into items whose results do not depend on each other.
class Executor {
 public:
  virtual ~Executor() = default;
  // At least 1; `worker` below is less than this.
  virtual size_t threads() const = 0;
  // Calls body(begin, end, worker) over disjoint ranges covering [0, n), each at
  // least `grain` long but for the last; returns when all have returned. `body`
  // must not call ParallelFor on the same executor. If it throws (memory that ran out), the
  // rest of the loop may be dropped and the first exception is thrown again from here.
  virtual void ParallelFor(
      size_t n, size_t grain,
      const std::function<void(size_t begin, size_t end, size_t worker)>& body) = 0;
};

// Everything on the calling thread.
class InlineExecutor final : public Executor {
 public:
  size_t threads() const override { return 1; }
  void ParallelFor(size_t n, size_t,
                   const std::function<void(size_t, size_t, size_t)>& body) override {
    if (n > 0) body(0, n, 0);
  }
};

}  // namespace tq
