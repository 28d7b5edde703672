// How the public functions report: a value, or an error with a kind and one line of text.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace turboquant {

enum class ErrorKind {
  kInvalidArgument,
  kNotFound,
  kAlreadyExists,
  kFailedPrecondition,
  kDataLoss,
  kUnimplemented,
  kResourceExhausted,
  kIo,
  kCancelled,
};

struct Error {
  ErrorKind kind = ErrorKind::kInvalidArgument;
  std::string message;  // what, where, value, limit
};

// A T or an Error. Reading the absent one is undefined, as with std::optional.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}      // NOLINT: implicit by design
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit by design

  bool ok() const { return value_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return error_; }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return std::move(*value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  std::optional<T> value_;
  Error error_;
};

}  // namespace turboquant
