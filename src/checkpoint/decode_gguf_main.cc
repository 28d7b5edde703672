// tq_decode_gguf MODEL OUT: writes the values of all tensors of a GGUF file, in its order, as
// little-endian float32. For benchmarks/oracles/gguf_oracle.py; not installed.
#include <bit>
#include <string_view>

#include "base/file_io.h"
#include "checkpoint/gguf.h"

namespace tq {
namespace {

static_assert(std::endian::native == std::endian::little);

Status Run(int argc, char** argv) {
  if (argc != 3) return InvalidArgument("usage: tq_decode_gguf MODEL OUT");
  TQ_ASSIGN_OR_RETURN(const auto model, GgufFile::Open(argv[1]));
  TQ_ASSIGN_OR_RETURN(AtomicFile out, AtomicFile::Create(argv[2]));
  for (const GgufTensor& tensor : model->tensors()) {
    TQ_ASSIGN_OR_RETURN(const Tensor values, model->LoadFloat(tensor));
    TQ_RETURN_IF_ERROR(out.Write(values.data(), values.num_bytes()));
  }
  return out.Commit();
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  const tq::Status status = tq::Run(argc, argv);
  if (status.ok()) return 0;
  fmt::print(stderr, "tq_decode_gguf: {}\n", status.message());
  return 1;
}
