// A flag that SIGINT and SIGTERM set: long work polls it between matrices or
// tokens and stops in good order with StatusCode::kCancelled.
#pragma once

#include "base/status.h"

namespace tq {

// Installs the handlers (idempotent). A second signal ends the process at once.
void InstallCancelHandlers();
bool CancelRequested();
void RequestCancel();
// For tests.
void ClearCancel();
// Cancelled(...) when asked to stop, else ok.
Status CheckCancelled();

}  // namespace tq
