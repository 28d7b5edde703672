#include "tokenizer/protobuf_reader.h"

namespace tq {

Status ProtobufReader::Truncated() const {
  return DataLoss("{}: a field runs past the end of its {} bytes", where_, size_);
}

StatusOr<uint64_t> ProtobufReader::Varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (rest_.empty()) return Truncated();
    const auto byte = static_cast<uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
  return DataLoss("{}: a number of more than 10 bytes at byte {}", where_,
                  size_ - rest_.size() - 10);
}

StatusOr<uint64_t> ProtobufReader::Fixed(size_t bytes) {
  if (rest_.size() < bytes) return Truncated();
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) {
    value |= uint64_t{static_cast<uint8_t>(rest_[i])} << 8 * i;
  }
  rest_.remove_prefix(bytes);
  return value;
}

StatusOr<ProtobufReader::Field> ProtobufReader::Next() {
  const size_t at = size_ - rest_.size();
  TQ_ASSIGN_OR_RETURN(const uint64_t tag, Varint());
  Field field;
  field.number = tag >> 3;
  if (field.number == 0) return DataLoss("{}: field number 0 at byte {}", where_, at);
  switch (tag & 7) {
    case 0: {
      TQ_ASSIGN_OR_RETURN(field.value, Varint());
      break;
    }
    case 1: {
      TQ_ASSIGN_OR_RETURN(field.value, Fixed(8));
      break;
    }
    case 2: {
      TQ_ASSIGN_OR_RETURN(const uint64_t size, Varint());
      if (size > rest_.size()) return Truncated();
      field.bytes = rest_.substr(0, size);
      rest_.remove_prefix(size);
      break;
    }
    case 5: {
      TQ_ASSIGN_OR_RETURN(field.value, Fixed(4));
      break;
    }
    default:
      return DataLoss("{}: wire type {} of field {} at byte {}", where_, tag & 7, field.number, at);
  }
  field.wire = static_cast<Field::Wire>(tag & 7);
  return field;
}

}  // namespace tq
