#include "base/cancel.h"

#include <csignal>

namespace tq {
namespace {
volatile std::sig_atomic_t cancel_requested = 0;
}  // namespace

void InstallCancelHandlers() {
  struct sigaction action = {};
  action.sa_handler = [](int) { cancel_requested = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second signal takes the default way
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool CancelRequested() { return cancel_requested != 0; }
void RequestCancel() { cancel_requested = 1; }
void ClearCancel() { cancel_requested = 0; }

Status CheckCancelled() {
  return CancelRequested() ? Cancelled("stopped on request; the same command resumes") : OkStatus();
}

}  // namespace tq
