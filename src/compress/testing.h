// Synthetic inputs and plain arithmetic for the tests of this folder.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "tensor/tensor.h"

namespace tq::testing {

// n rows of `features` values whose neighbours are strongly correlated (an autoregressive
// process), as activations are.
inline std::vector<float> CorrelatedRows(uint64_t n, uint64_t features, uint64_t seed) {
  Random random(seed, "correlated rows");
  std::vector<float> rows(n * features);
  for (uint64_t i = 0; i < n; ++i) {
    double value = random.NextNormal();
    for (uint64_t j = 0; j < features; ++j) {
      value = 0.9 * value + std::sqrt(1 - 0.81) * random.NextNormal();
      rows[i * features + j] = static_cast<float>(value);
    }
  }
  return rows;
}

// n rows that lie near a subspace of an eighth of the dimensions, none of them special: the
// spectrum of activations after rotation.
inline std::vector<float> LowRankRows(uint64_t n, uint64_t features, uint64_t seed) {
  Random random(seed, "low-rank rows");
  const uint64_t rank = std::max<uint64_t>(1, features / 8);
  std::vector<float> basis(rank * features), rows(n * features);
  for (float& value : basis) value = static_cast<float>(random.NextNormal());
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j < features; ++j) {
      rows[i * features + j] = static_cast<float>(0.3 * random.NextNormal());
    }
    for (uint64_t r = 0; r < rank; ++r) {
      const double weight = random.NextNormal();
      for (uint64_t j = 0; j < features; ++j) {
        rows[i * features + j] += static_cast<float>(weight * basis[r * features + j]);
      }
    }
  }
  return rows;
}

inline std::vector<float> NormalValues(uint64_t n, uint64_t seed) {
  Random random(seed, "normal values");
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.NextNormal());
  return values;
}

inline Tensor Copy(const Tensor& tensor) {
  return *Tensor::FromBytes(tensor.dtype(), tensor.shape(), {tensor.data(), tensor.num_bytes()});
}

// Mean of x x^T over rows x of `features` values.
inline Tensor Gram(std::span<const float> rows, uint64_t features) {
  Tensor gram = *Tensor::Zeros(DType::kF32, {features, features});
  const uint64_t n = rows.size() / features;
  for (uint64_t i = 0; i < features; ++i) {
    for (uint64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (uint64_t t = 0; t < n; ++t) sum += rows[t * features + i] * rows[t * features + j];
      gram.mutable_as<float>()[i * features + j] = gram.mutable_as<float>()[j * features + i] =
          static_cast<float>(sum / static_cast<double>(n));
    }
  }
  return gram;
}

// v^T H v.
inline double QuadraticForm(const Tensor& h, std::span<const float> v) {
  double sum = 0;
  for (size_t i = 0; i < v.size(); ++i) {
    for (size_t j = 0; j < v.size(); ++j) {
      sum += static_cast<double>(v[i]) * h.as<float>()[i * v.size() + j] * v[j];
    }
  }
  return sum;
}

}  // namespace tq::testing
