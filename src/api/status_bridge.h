// From our Status to the public Error.
#pragma once

#include "base/status.h"
#include "turboquant/result.h"

namespace tq {

// The error of a status that is not ok.
turboquant::Error ToPublicError(const Status& status);

}  // namespace tq
