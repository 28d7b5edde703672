// Checked arithmetic for every size that comes from outside.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <utility>

namespace tq {

// a * b and a + b, or nothing when the result does not fit.
template <std::integral T>
constexpr std::optional<T> CheckedMul(T a, T b) {
  T result;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}
template <std::integral T>
constexpr std::optional<T> CheckedAdd(T a, T b) {
  T result;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}

// The product of all elements of a range, or nothing on overflow.
template <class Range>
constexpr std::optional<uint64_t> CheckedProduct(const Range& range) {
  uint64_t product = 1;
  for (auto value : range) {
    if (std::cmp_less(value, 0)) return std::nullopt;
    auto next = CheckedMul<uint64_t>(product, static_cast<uint64_t>(value));
    if (!next) return std::nullopt;
    product = *next;
  }
  return product;
}

// Whether [offset, offset + size) lies inside [0, limit).
constexpr bool RangeFits(uint64_t offset, uint64_t size, uint64_t limit) {
  return offset <= limit && size <= limit - offset;
}

template <std::integral T>
constexpr T CeilDiv(T a, T b) {
  return a / b + (a % b != 0);
}
template <std::integral T>
constexpr T RoundUp(T a, T multiple) {
  return CeilDiv(a, multiple) * multiple;
}

}  // namespace tq
