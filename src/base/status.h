// Status and StatusOr: how every fallible function reports. Used wherever bytes,
// shapes or user options enter; TQ_CHECK is only for our own bugs. No exception
// crosses a library boundary.
#pragma once

#include <fmt/format.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace tq {

enum class StatusCode {
  kOk,
  kInvalidArgument,     // an option or a file's field is wrong whatever the state of the system
  kNotFound,            // a file, tensor or name is absent
  kAlreadyExists,       // an output is there already
  kFailedPrecondition,  // the state forbids it (another job's work folder, two writers)
  kDataLoss,            // bytes are damaged: truncated, hash mismatch, non-finite
  kUnimplemented,       // well-formed, but of a kind we do not support
  kResourceExhausted,   // memory, disk or a stated limit
  kIo,                  // the operating system said no
  kCancelled,           // the user asked us to stop
};

// Either ok or a code with one line of text: what, where, value, limit.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // The same error with "prefix: " before its text; an ok status is unchanged.
  Status WithContext(std::string_view prefix) const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status OkStatus() { return Status(); }

template <class... Args>
Status InvalidArgument(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status NotFound(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kNotFound, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status AlreadyExists(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kAlreadyExists, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status FailedPrecondition(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kFailedPrecondition, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status DataLoss(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kDataLoss, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status Unimplemented(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kUnimplemented, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status ResourceExhausted(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kResourceExhausted, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status Cancelled(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kCancelled, fmt::format(format, std::forward<Args>(args)...));
}
// "<what>: <strerror(error_number)>"
Status IoError(std::string_view what, int error_number);

namespace internal {
[[noreturn]] void CheckFailed(const char* file, int line, std::string_view what);
}  // namespace internal

// A value or the Status that explains its absence.
template <class T>
class [[nodiscard]] StatusOr {
 public:
  StatusOr(Status status) : status_(std::move(status)) {  // NOLINT: implicit by design
    if (status_.ok()) internal::CheckFailed(__FILE__, __LINE__, "StatusOr made from an ok Status");
  }
  StatusOr(T value) : value_(std::move(value)) {}  // NOLINT: implicit by design

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  // The value; using an absent one is a bug and aborts with the status' text.
  T& operator*() & { return Get(); }
  const T& operator*() const& { return const_cast<StatusOr*>(this)->Get(); }
  T&& operator*() && { return std::move(Get()); }
  T* operator->() { return &Get(); }
  const T* operator->() const { return &const_cast<StatusOr*>(this)->Get(); }
  T& value() & { return Get(); }
  const T& value() const& { return const_cast<StatusOr*>(this)->Get(); }
  T&& value() && { return std::move(Get()); }

 private:
  T& Get() {
    if (!value_) internal::CheckFailed(__FILE__, __LINE__, status_.message());
    return *value_;
  }
  Status status_;
  std::optional<T> value_;
};

}  // namespace tq

#define TQ_STATUS_CONCAT_INNER(a, b) a##b
#define TQ_STATUS_CONCAT(a, b) TQ_STATUS_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` (a Status) is an error.
#define TQ_RETURN_IF_ERROR(expr)                                            \
  do {                                                                      \
    if (::tq::Status tq_status = (expr); !tq_status.ok()) return tq_status; \
  } while (false)

// TQ_ASSIGN_OR_RETURN(auto x, F()): x is F()'s value, or its error is returned.
#define TQ_ASSIGN_OR_RETURN(lhs, expr) \
  TQ_ASSIGN_OR_RETURN_IMPL(TQ_STATUS_CONCAT(tq_statusor_, __LINE__), lhs, expr)
#define TQ_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return tmp.status();            \
  lhs = *std::move(tmp)

// For our own invariants only, never for input.
#define TQ_CHECK(condition)                                                        \
  do {                                                                             \
    if (!(condition)) ::tq::internal::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)
