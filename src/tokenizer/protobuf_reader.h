// Protocol buffers' wire format, as much as is needed to read one message field by field.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace tq {

class ProtobufReader {
 public:
  // `bytes` must outlive the reader; `where` names them in errors.
  ProtobufReader(std::string_view bytes, std::string_view where)
      : rest_(bytes), size_(bytes.size()), where_(where) {}

  struct Field {
    // Protocol buffers' numbers; groups (3, 4) are errors.
    enum class Wire : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
    uint64_t number = 0;
    Wire wire = Wire::kVarint;
    uint64_t value = 0;      // all but kBytes
    std::string_view bytes;  // kBytes
  };
  bool done() const { return rest_.empty(); }
  // The next field of the message, which must not be done.
  StatusOr<Field> Next();

 private:
  StatusOr<uint64_t> Varint();
  StatusOr<uint64_t> Fixed(size_t bytes);
  Status Truncated() const;

  std::string_view rest_;
  size_t size_;
  std::string_view where_;
};

}  // namespace tq
