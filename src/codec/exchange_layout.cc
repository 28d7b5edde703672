#include "codec/exchange_layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "base/bit_fields.h"
#include "base/checked.h"

namespace tq {
namespace {

// Outputs that are turned together: their words of an input are a line of the cache.
constexpr uint64_t kRowBlock = 16;
constexpr uint32_t kWordBits = 32;
// Place of output i of eight in an AWQ word, counted in nibbles.
constexpr uint32_t kAwqPlaces[] = {0, 4, 1, 5, 2, 6, 3, 7};

bool IsAwq(ExchangeFormat format) { return format == ExchangeFormat::kAwq; }
uint32_t ZeroOffset(ExchangeFormat format) { return format == ExchangeFormat::kGptqV1 ? 1 : 0; }
bool IsZero(uint16_t half) { return (half & 0x7FFF) == 0; }
bool IsFinite(uint16_t half) { return (half & 0x7C00) != 0x7C00; }

// A row of fields along words that lie `stride` words apart.
class Words {
 public:
  Words(const uint8_t* bytes, uint64_t stride) : bytes_(bytes), stride_(stride) {}
  uint32_t Field(uint64_t index, uint32_t bits) const {
    const uint64_t bit = index * bits;
    const uint32_t shift = bit % kWordBits;
    uint64_t window = Word(bit / kWordBits);
    if (shift + bits > kWordBits) window |= uint64_t{Word(bit / kWordBits + 1)} << kWordBits;
    return static_cast<uint32_t>(window >> shift) & ((1u << bits) - 1);
  }

 private:
  // At any alignment: it may lie in a mapped file.
  uint32_t Word(uint64_t index) const {
    uint32_t word;
    std::memcpy(&word, bytes_ + index * stride_ * sizeof(word), sizeof(word));
    return word;
  }
  const uint8_t* bytes_;
  uint64_t stride_;
};

// The same for writing, to words that are zero.
class MutableWords {
 public:
  MutableWords(uint32_t* words, uint64_t stride) : words_(words), stride_(stride) {}
  void Put(uint64_t index, uint32_t bits, uint32_t value) const {
    const uint64_t bit = index * bits;
    const uint64_t window = uint64_t{value} << (bit % kWordBits);
    words_[bit / kWordBits * stride_] |= static_cast<uint32_t>(window);
    if (const auto rest = static_cast<uint32_t>(window >> kWordBits); rest != 0) {
      words_[(bit / kWordBits + 1) * stride_] |= rest;
    }
  }

 private:
  uint32_t* words_;
  uint64_t stride_;
};

Status CheckSizes(ExchangeFormat format, const ExchangeSizes& s) {
  const bool known =
      IsAwq(format) ? s.bits == 4 : s.bits == 2 || s.bits == 3 || s.bits == 4 || s.bits == 8;
  if (!known) {
    return Unimplemented("{}: bits = {}, known are {}", NameOf(format), s.bits,
                         IsAwq(format) ? "4" : "2, 3, 4, 8");
  }
  GroupedLayout layout;
  layout.rows = s.rows, layout.cols = s.cols;
  layout.bits = s.bits, layout.group_size = s.group_size;
  TQ_RETURN_IF_ERROR(CheckGroupedLayout(layout).WithContext(NameOf(format)));
  if (s.rows * s.bits % kWordBits != 0) {
    return InvalidArgument("{}: {} outputs of {} bits do not fill words", NameOf(format), s.rows,
                           s.bits);
  }
  if (!IsAwq(format) && s.cols * s.bits % kWordBits != 0) {
    return InvalidArgument("{}: {} inputs of {} bits do not fill words", NameOf(format), s.cols,
                           s.bits);
  }
  return OkStatus();
}

// Sizes in the tensors, which CheckSizes has passed.
struct Extents {
  explicit Extents(const ExchangeSizes& s)
      : groups(CeilDiv<uint64_t>(s.cols, s.group_size)),
        word_columns(s.rows * s.bits / kWordBits) {}
  uint64_t groups, word_columns;
};

Status CheckTensor(ExchangeFormat format, std::string_view name, const Tensor& tensor, DType dtype,
                   const Shape& shape) {
  if (tensor.data() == nullptr) {
    return NotFound("{}: there is no {}", NameOf(format), name);
  }
  if (tensor.dtype() == dtype && tensor.shape() == shape) return OkStatus();
  return InvalidArgument("{}: {} is {} {}, must be {} {}", NameOf(format), name,
                         DTypeName(tensor.dtype()), ShapeToString(tensor.shape()), DTypeName(dtype),
                         ShapeToString(shape));
}

Status CheckTensors(ExchangeFormat format, const ExchangeShapes& shapes, const ExchangeTensors& t) {
  TQ_RETURN_IF_ERROR(CheckTensor(format, "qweight", t.qweight, DType::kI32, shapes.qweight));
  TQ_RETURN_IF_ERROR(CheckTensor(format, "qzeros", t.qzeros, DType::kI32, shapes.qzeros));
  const DType scales = t.scales.dtype() == DType::kBF16 ? DType::kBF16 : DType::kF16;
  TQ_RETURN_IF_ERROR(CheckTensor(format, "scales", t.scales, scales, shapes.scales));
  if (t.g_idx.data() == nullptr) return OkStatus();
  if (IsAwq(format)) return InvalidArgument("awq: g_idx: inputs have no groups of their own");
  return CheckTensor(format, "g_idx", t.g_idx, DType::kI32, shapes.g_idx);
}

// Inputs in the order of their groups; none where that is the order in which they are.
StatusOr<Tensor> OrderOf(ExchangeFormat format, const ExchangeSizes& s, const Tensor& g_idx) {
  if (g_idx.data() == nullptr) return Tensor();
  const uint64_t groups = CeilDiv<uint64_t>(s.cols, s.group_size);
  std::vector<int32_t> group(s.cols);
  std::memcpy(group.data(), g_idx.data(), s.cols * sizeof(int32_t));
  std::vector<uint64_t> count(groups);
  for (uint64_t c = 0; c < s.cols; ++c) {
    if (group[c] < 0 || static_cast<uint64_t>(group[c]) >= groups) {
      return DataLoss("{}: g_idx[{}] = {}, must be 0 to {}", NameOf(format), c, group[c],
                      groups - 1);
    }
    ++count[static_cast<size_t>(group[c])];
  }
  for (uint64_t g = 0; g < groups; ++g) {
    const uint64_t size = std::min<uint64_t>(s.group_size, s.cols - g * s.group_size);
    if (count[g] != size) {
      return Unimplemented("{}: g_idx gives group {} {} inputs, must be {}", NameOf(format), g,
                           count[g], size);
    }
  }
  if (std::is_sorted(group.begin(), group.end())) return Tensor();
  std::vector<int32_t> order(s.cols);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return group[static_cast<size_t>(a)] < group[static_cast<size_t>(b)];
  });
  return Tensor::FromValues<int32_t>(DType::kI32, {s.cols}, order);
}

// Codes of outputs [first, first + n), [n][cols].
void ReadCodes(ExchangeFormat format, const ExchangeSizes& s, const Tensor& qweight, uint64_t first,
               uint64_t n, uint8_t* out) {
  const uint64_t words = s.rows * s.bits / kWordBits;
  for (uint64_t c = 0; c < s.cols; ++c) {
    for (uint64_t k = 0; k < n; ++k) {
      const uint64_t row = first + k;
      const uint32_t code =
          IsAwq(format)
              ? Words(qweight.data() + c * words * 4, 1).Field(row / 8 * 8 + kAwqPlaces[row % 8], 4)
              : Words(qweight.data() + row * 4, s.rows).Field(c, s.bits);
      out[k * s.cols + c] = static_cast<uint8_t>(code);
    }
  }
}

// Zeros [rows, groups] as integers below 2^bits. Of one that the first version stores as 2^bits - 1
// some programs make 2^bits, some 0, and those that add to whole words change the next output's.
StatusOr<std::vector<uint16_t>> ReadZeros(ExchangeFormat format, const ExchangeSizes& s,
                                          const Tensor& qzeros) {
  const Extents e(s);
  std::vector<uint16_t> zeros(s.rows * e.groups);
  for (uint64_t g = 0; g < e.groups; ++g) {
    const Words words(qzeros.data() + g * e.word_columns * 4, 1);
    for (uint64_t r = 0; r < s.rows; ++r) {
      const uint64_t place = IsAwq(format) ? r / 8 * 8 + kAwqPlaces[r % 8] : r;
      const uint32_t stored = words.Field(place, s.bits), zero = stored + ZeroOffset(format);
      if (zero >> s.bits != 0) {
        return Unimplemented(
            "{}: qzeros of output {} group {} is {}: programs differ about such a zero; gptq_v2 "
            "has it as it is",
            NameOf(format), r, g, stored);
      }
      zeros[r * e.groups + g] = static_cast<uint16_t>(zero);
    }
  }
  return zeros;
}

// As the matrix has them: not at all, or packed.
Status StoreZeros(const std::vector<uint16_t>& zeros, GroupedLayout& layout, Tensor& out) {
  const uint64_t groups = layout.groups();
  const uint32_t middle = 1u << (layout.bits - 1);
  if (std::ranges::all_of(zeros, [&](uint16_t z) { return z == middle; })) {
    layout.zeros = ZeroKind::kSymmetric;
    return OkStatus();
  }
  layout.zeros = ZeroKind::kPacked;
  const uint64_t bytes = layout.packed_zero_bytes();
  TQ_ASSIGN_OR_RETURN(out, Tensor::Zeros(DType::kU8, {layout.rows, bytes}));
  for (uint64_t i = 0; i < zeros.size(); ++i) {
    PutField(out.mutable_data() + i / groups * bytes, i % groups, layout.bits, zeros[i]);
  }
  return OkStatus();
}

// Scales [groups, rows] the other way round, as halves.
StatusOr<Tensor> TurnScales(ExchangeFormat format, const ExchangeSizes& s, const Tensor& scales) {
  const uint64_t groups = Extents(s).groups;
  TQ_ASSIGN_OR_RETURN(Tensor turned, Tensor::Zeros(DType::kF16, {s.rows, groups}));
  for (uint64_t g = 0; g < groups; ++g) {
    for (uint64_t r = 0; r < s.rows; ++r) {
      uint16_t half;
      std::memcpy(&half, scales.data() + (g * s.rows + r) * sizeof(half), sizeof(half));
      if (scales.dtype() == DType::kBF16) {
        const float scale = BFloat16ToFloat(half);
        half = FloatToHalf(scale);
        if (std::isfinite(scale) && !IsFinite(half)) {
          return InvalidArgument("{}: scales[{}, {}] is {}, float16 ends at 65504", NameOf(format),
                                 g, r, scale);
        }
      }
      turned.mutable_as<uint16_t>()[r * groups + g] = half;
    }
  }
  return turned;
}

// Whether all weights of a group are 0, whatever its codes.
bool IsNothing(const GroupedMatrix& m, uint64_t row, uint64_t group) {
  return IsZero(m.scale.as<uint16_t>()[row * m.groups() + group]);
}

// The zero of a group; the middle code where all weights of the group are 0.
float ZeroOf(const GroupedMatrix& m, uint64_t r, uint64_t g) {
  if (m.zeros == ZeroKind::kSymmetric || IsNothing(m, r, g)) {
    return static_cast<float>(1u << (m.bits - 1));
  }
  if (m.zeros == ZeroKind::kHalf) return HalfToFloat(m.zero.as<uint16_t>()[r * m.groups() + g]);
  return static_cast<float>(FieldAt(m.zero.data() + r * m.packed_zero_bytes(), g, m.bits));
}

// Integer zeros [rows, groups] of a matrix, each of which the format can say.
StatusOr<std::vector<uint16_t>> ZerosToWrite(ExchangeFormat format, const GroupedMatrix& m) {
  const uint32_t least = ZeroOffset(format), most = (1u << m.bits) - 1;
  std::vector<uint16_t> zeros;
  zeros.reserve(m.rows * m.groups());
  for (uint64_t r = 0; r < m.rows; ++r) {
    for (uint64_t g = 0; g < m.groups(); ++g) {
      const float zero = ZeroOf(m, r, g);
      if (!(zero >= static_cast<float>(least)) || zero > static_cast<float>(most) ||
          zero != static_cast<float>(static_cast<uint16_t>(zero))) {
        return Unimplemented(
            "{}: the zero of row {} group {} is {}, must be an integer from {} to {}",
            NameOf(format), r, g, zero, least, most);
      }
      zeros.push_back(static_cast<uint16_t>(zero));
    }
  }
  return zeros;
}

// Codes of outputs [first, first + n) into words of qweight, which are theirs alone.
void WriteCodes(ExchangeFormat format, const GroupedMatrix& m, const int32_t* order, uint64_t first,
                uint64_t n, uint32_t* qweight) {
  const uint64_t words = m.rows * m.bits / kWordBits;
  for (uint64_t r = first; r < first + n; ++r) {
    const uint8_t* codes = m.codes.data() + r * m.code_bytes();
    for (uint64_t i = 0; i < m.cols; ++i) {
      const uint64_t c = order == nullptr ? i : static_cast<uint64_t>(order[i]);
      const uint32_t code =
          IsNothing(m, r, i / m.group_size) ? 1u << (m.bits - 1) : FieldAt(codes, i, m.bits);
      if (IsAwq(format)) {
        MutableWords(qweight + c * words, 1).Put(r / 8 * 8 + kAwqPlaces[r % 8], 4, code);
      } else {
        MutableWords(qweight + r, m.rows).Put(c, m.bits, code);
      }
    }
  }
}

}  // namespace

std::string_view NameOf(ExchangeFormat format) {
  switch (format) {
    case ExchangeFormat::kGptqV1:
      return "gptq";
    case ExchangeFormat::kGptqV2:
      return "gptq_v2";
    case ExchangeFormat::kAwq:
      break;
  }
  return "awq";
}

StatusOr<ExchangeShapes> ShapesOf(ExchangeFormat format, const ExchangeSizes& sizes) {
  TQ_RETURN_IF_ERROR(CheckSizes(format, sizes));
  const Extents e(sizes);
  if (IsAwq(format)) {
    return ExchangeShapes{
        {sizes.cols, e.word_columns}, {e.groups, e.word_columns}, {e.groups, sizes.rows}, {}};
  }
  return ExchangeShapes{{sizes.cols * sizes.bits / kWordBits, sizes.rows},
                        {e.groups, e.word_columns},
                        {e.groups, sizes.rows},
                        {sizes.cols}};
}

StatusOr<GroupedMatrix> FromExchange(ExchangeFormat format, const ExchangeSizes& sizes,
                                     const ExchangeTensors& tensors, Executor& executor) {
  TQ_ASSIGN_OR_RETURN(const ExchangeShapes shapes, ShapesOf(format, sizes));
  TQ_RETURN_IF_ERROR(CheckTensors(format, shapes, tensors));
  GroupedLayout layout;
  layout.rows = sizes.rows, layout.cols = sizes.cols;
  layout.bits = sizes.bits, layout.group_size = sizes.group_size;
  GroupedTensors parts;
  TQ_ASSIGN_OR_RETURN(parts.order, OrderOf(format, sizes, tensors.g_idx));
  layout.ordered = parts.order.data() != nullptr;
  TQ_ASSIGN_OR_RETURN(parts.scale, TurnScales(format, sizes, tensors.scales));
  TQ_ASSIGN_OR_RETURN(const auto zeros, ReadZeros(format, sizes, tensors.qzeros));
  TQ_RETURN_IF_ERROR(StoreZeros(zeros, layout, parts.zero));
  TQ_ASSIGN_OR_RETURN(parts.codes, Tensor::Zeros(DType::kU8, {layout.rows, layout.code_bytes()}));
  uint8_t* codes = parts.codes.mutable_data();
  const int32_t* order = layout.ordered ? parts.order.as<int32_t>() : nullptr;
  executor.ParallelFor(CeilDiv(layout.rows, kRowBlock), 1, [&](size_t begin, size_t end, size_t) {
    std::vector<uint8_t> block(kRowBlock * layout.cols);
    for (size_t b = begin; b < end; ++b) {
      const uint64_t first = b * kRowBlock, n = std::min(kRowBlock, layout.rows - first);
      ReadCodes(format, sizes, tensors.qweight, first, n, block.data());
      for (uint64_t k = 0; k < n; ++k) {
        const uint8_t* row = block.data() + k * layout.cols;
        uint8_t* to = codes + (first + k) * layout.code_bytes();
        for (uint64_t i = 0; i < layout.cols; ++i) {
          PutField(to, i, layout.bits, row[order == nullptr ? i : static_cast<uint64_t>(order[i])]);
        }
      }
    }
  });
  auto matrix = MakeGroupedMatrix(layout, std::move(parts));
  if (!matrix.ok()) return matrix.status().WithContext(NameOf(format));
  return matrix;
}

StatusOr<ExchangeTensors> ToExchange(ExchangeFormat format, const GroupedMatrix& m,
                                     Executor& executor) {
  const ExchangeSizes sizes{m.rows, m.cols, m.bits, m.group_size};
  TQ_ASSIGN_OR_RETURN(const ExchangeShapes shapes, ShapesOf(format, sizes));
  if (IsAwq(format) && m.ordered) {
    return Unimplemented("awq: columns in an order of their own (act-order) have no place");
  }
  const Extents e(sizes);
  TQ_ASSIGN_OR_RETURN(const std::vector<uint16_t> zeros, ZerosToWrite(format, m));
  ExchangeTensors t;
  TQ_ASSIGN_OR_RETURN(t.qweight, Tensor::Zeros(DType::kI32, shapes.qweight));
  TQ_ASSIGN_OR_RETURN(t.qzeros, Tensor::Zeros(DType::kI32, shapes.qzeros));
  TQ_ASSIGN_OR_RETURN(t.scales, Tensor::Zeros(DType::kF16, shapes.scales));
  for (uint64_t g = 0; g < e.groups; ++g) {
    const MutableWords words(t.qzeros.mutable_as<uint32_t>() + g * e.word_columns, 1);
    for (uint64_t r = 0; r < m.rows; ++r) {
      const uint64_t place = IsAwq(format) ? r / 8 * 8 + kAwqPlaces[r % 8] : r;
      words.Put(place, m.bits, zeros[r * e.groups + g] - ZeroOffset(format));
      constexpr uint16_t kOne = 0x3C00;
      t.scales.mutable_as<uint16_t>()[g * m.rows + r] =
          IsNothing(m, r, g) ? kOne : m.scale.as<uint16_t>()[r * e.groups + g];
    }
  }
  const int32_t* order = m.ordered ? m.order.as<int32_t>() : nullptr;
  auto* qweight = t.qweight.mutable_as<uint32_t>();
  // Whole words of AWQ: kRowBlock is a multiple of eight.
  executor.ParallelFor(CeilDiv(m.rows, kRowBlock), 1, [&](size_t begin, size_t end, size_t) {
    const uint64_t first = begin * kRowBlock;
    WriteCodes(format, m, order, first, std::min(end * kRowBlock, m.rows) - first, qweight);
  });
  if (!IsAwq(format)) {
    std::vector<int32_t> g_idx(m.cols);
    for (uint64_t i = 0; i < m.cols; ++i) {
      g_idx[order == nullptr ? i : static_cast<uint64_t>(order[i])] =
          static_cast<int32_t>(i / m.group_size);
    }
    TQ_ASSIGN_OR_RETURN(t.g_idx, Tensor::FromValues<int32_t>(DType::kI32, {m.cols}, g_idx));
  }
  return t;
}

}  // namespace tq
