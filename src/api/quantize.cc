#include "turboquant/quantize.h"

#include "api/status_bridge.h"
#include "compress/quantize.h"
#include "device/thread_pool.h"
#include "kernels/isa.h"

namespace turboquant {
namespace {

// Passes the lasting lines on.
class LineProgress final : public tq::Progress {
 public:
  explicit LineProgress(const std::function<void(std::string_view)>& on_line) : on_line_(on_line) {}
  void Begin(std::string_view, uint64_t) override {}
  void Update(uint64_t, std::string_view) override {}
  void Line(std::string_view text) override {
    if (on_line_) on_line_(text);
  }
  void End() override {}

 private:
  const std::function<void(std::string_view)>& on_line_;
};

tq::Method InnerMethod(Method method) {
  switch (method) {
    case Method::kTrellis:
      return tq::Method::kTrellis;
    case Method::kRoundToNearest:
      return tq::Method::kRtn;
    case Method::kGptq:
      return tq::Method::kGptq;
    case Method::kAwq:
      return tq::Method::kAwq;
    case Method::kTernary:
      return tq::Method::kTernary;
  }
  return tq::Method::kTrellis;
}

}  // namespace

Result<QuantizeSummary> Quantize(const QuantizeOptions& options,
                                 const std::function<void(std::string_view)>& on_line) {
  if (const tq::Status isa = tq::CheckIsa(); !isa.ok()) return tq::ToPublicError(isa);
  auto pool = tq::ThreadPool::Create(options.threads);
  if (!pool.ok()) return tq::ToPublicError(pool.status());
  tq::QuantizeOptions inner;
  inner.model = options.model;
  inner.output = options.output;
  inner.method = InnerMethod(options.method);
  inner.bits = options.bits;
  inner.group_size = options.group_size;
  inner.symmetric = options.symmetric;
  inner.act_order = options.act_order;
  inner.memory_bytes = options.memory_bytes;
  inner.context = options.context;
  inner.calibration = options.calibration;
  inner.seed = options.seed;
  inner.fast = options.fast;
  inner.fresh = options.fresh;
  if (options.uniform || options.method != Method::kTrellis) {
    inner.sensitivity = tq::SensitivityMeasure::kNone;
  }
  LineProgress progress(on_line);
  auto report = tq::Quantize(inner, **pool, progress);
  if (!report.ok()) return tq::ToPublicError(report.status());
  const auto& measured = report->candidates.front().measured;
  return QuantizeSummary{report->parameters,      report->bytes,
                         report->bits_per_weight, report->decoder_bits_per_weight,
                         report->seconds,         measured ? measured->kl->mean : -1};
}

}  // namespace turboquant
