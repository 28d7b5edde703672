#include "api/status_bridge.h"

namespace tq {

turboquant::Error ToPublicError(const Status& status) {
  using turboquant::ErrorKind;
  TQ_CHECK(!status.ok());
  ErrorKind kind = ErrorKind::kInvalidArgument;
  switch (status.code()) {
    case StatusCode::kOk:
    case StatusCode::kInvalidArgument:
      kind = ErrorKind::kInvalidArgument;
      break;
    case StatusCode::kNotFound:
      kind = ErrorKind::kNotFound;
      break;
    case StatusCode::kAlreadyExists:
      kind = ErrorKind::kAlreadyExists;
      break;
    case StatusCode::kFailedPrecondition:
      kind = ErrorKind::kFailedPrecondition;
      break;
    case StatusCode::kDataLoss:
      kind = ErrorKind::kDataLoss;
      break;
    case StatusCode::kUnimplemented:
      kind = ErrorKind::kUnimplemented;
      break;
    case StatusCode::kResourceExhausted:
      kind = ErrorKind::kResourceExhausted;
      break;
    case StatusCode::kIo:
      kind = ErrorKind::kIo;
      break;
    case StatusCode::kCancelled:
      kind = ErrorKind::kCancelled;
      break;
  }
  return {kind, status.message()};
}

}  // namespace tq
