// The vector form of the block Hadamard transform, shared by the instruction sets.
// A file includes it inside its own namespace and an anonymous one, after defining
//
//   Vec, kLanes, Load, Store, Add, Sub, Mul, Set1,
//   MulAdd(a, b, c) = a * b + c,
//   Butterfly<h>(x): stride-h butterfly inside a vector, h = 1, 2, .. kLanes / 2.
//
// No include guard on purpose: each instruction set gets its own copy.

// All strides below min(width, kLanes) on one vector.
inline Vec InnerButterflies(Vec x, uint64_t width) {
  if (width > 1) x = Butterfly<1>(x);
  if (width > 2) x = Butterfly<2>(x);
  if (width > 4) x = Butterfly<4>(x);
  if constexpr (kLanes > 8) {
    if (width > 8) x = Butterfly<8>(x);
  }
  return x;
}

// Strides kLanes, 2 kLanes, 4 kLanes on eight vectors kept in registers.
inline void OuterButterflies8(Vec* x) {
  for (int half = 1; half < 8; half *= 2) {
    for (int i = 0; i < 8; i += 2 * half) {
      for (int j = i; j < i + half; ++j) {
        const Vec a = x[j], b = x[j + half];
        x[j] = Add(a, b);
        x[j + half] = Sub(a, b);
      }
    }
  }
}

// Butterflies of all strides below `width` over n values, n a multiple of width and
// of kLanes; the results are multiplied by `scale` when it is the last stage.
inline void Sylvester(float* values, uint64_t n, uint64_t width, bool scale_here, float scale) {
  const Vec factor = Set1(scale);
  constexpr uint64_t kChunk = 8 * kLanes;
  uint64_t done = 1;  // strides below this are done
  if (width >= kChunk) {
    const bool last = scale_here && width == kChunk;
    for (uint64_t i = 0; i < n; i += kChunk) {
      Vec x[8];
      for (int r = 0; r < 8; ++r) x[r] = InnerButterflies(Load(values + i + r * kLanes), width);
      OuterButterflies8(x);
      for (int r = 0; r < 8; ++r) {
        Store(values + i + r * kLanes, last ? Mul(x[r], factor) : x[r]);
      }
    }
    done = kChunk;
  } else {
    const bool last = scale_here && width <= kLanes;
    for (uint64_t i = 0; i < n; i += kLanes) {
      const Vec x = InnerButterflies(Load(values + i), width);
      Store(values + i, last ? Mul(x, factor) : x);
    }
    done = kLanes;
  }
  for (uint64_t half = done; half < width; half *= 2) {
    const bool last = scale_here && 2 * half == width;
    for (uint64_t i = 0; i < n; i += 2 * half) {
      for (uint64_t j = i; j < i + half; j += kLanes) {
        const Vec a = Load(values + j), b = Load(values + j + half);
        const Vec sum = Add(a, b), difference = Sub(a, b);
        Store(values + j, last ? Mul(sum, factor) : sum);
        Store(values + j + half, last ? Mul(difference, factor) : difference);
      }
    }
  }
}

// y[a] = scale * sum_c M[a, c] x[c] on m vectors `stride` apart, in place. Four rows at
// a time hide the latency of the additions.
inline void MixVectors(float* values, uint64_t stride, int m, const float* matrix, float scale) {
  const Vec factor = Set1(scale);
  Vec x[kMaxHadamardMatrix];
  for (int a = 0; a < m; ++a) x[a] = Load(values + a * stride);
  for (int a = 0; a < m; a += 4) {  // every m above 1 is a multiple of 4
    const float* row = matrix + a * m;
    Vec s0 = Mul(Set1(row[0]), x[0]), s1 = Mul(Set1(row[m]), x[0]);
    Vec s2 = Mul(Set1(row[2 * m]), x[0]), s3 = Mul(Set1(row[3 * m]), x[0]);
    for (int c = 1; c < m; ++c) {
      s0 = MulAdd(Set1(row[c]), x[c], s0);
      s1 = MulAdd(Set1(row[m + c]), x[c], s1);
      s2 = MulAdd(Set1(row[2 * m + c]), x[c], s2);
      s3 = MulAdd(Set1(row[3 * m + c]), x[c], s3);
    }
    Store(values + a * stride, Mul(s0, factor));
    Store(values + (a + 1) * stride, Mul(s1, factor));
    Store(values + (a + 2) * stride, Mul(s2, factor));
    Store(values + (a + 3) * stride, Mul(s3, factor));
  }
}
