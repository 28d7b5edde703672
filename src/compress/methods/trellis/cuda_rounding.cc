// Rounding on a CUDA device: all rows of a column block at once, from the last block to the first.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "base/format.h"
#include "codec/trellis_encoder.h"
#include "compress/feedback.h"
#include "compress/methods/trellis/rounding.h"
#include "device/cublas.h"
#include "device/cuda_device.h"
#include "kernels/cuda/feedback.h"
#include "kernels/cuda/viterbi.h"
#include "kernels/viterbi/viterbi.h"

namespace tq {
namespace {

constexpr uint64_t kSuper = cuda::kFeedbackColumns;
static_assert(kSuper == Feedback::kSuperBlock, "sums are in the processor's order");
// Rows of a product with the factor. Fixed, as cuBLAS adds in an order that depends on their
// number: so the pieces that memory allows change no bit.
constexpr uint64_t kProductRows = 4096;

// Device memory that grows.
template <typename T>
class Growing {
 public:
  StatusOr<T*> AtLeast(const CudaDevice& device, uint64_t count, std::string_view what) {
    if (count > count_) {
      count_ = 0;
      memory_.reset();
      TQ_ASSIGN_OR_RETURN(memory_, device.Allocate(count * sizeof(T), what));
      count_ = count;
    }
    return static_cast<T*>(memory_.get());
  }

 private:
  DeviceMemory memory_;
  uint64_t count_ = 0;
};

cuda::ViterbiConfig Choose(const CudaDevice& device, trellis::Code code, uint64_t tiles) {
  return cuda::ChooseViterbi(code, trellis::ShapeOf(code).steps(), tiles,
                             {device.multiprocessors(), device.shared_bytes()},
                             device.block_shared_bytes());
}

class OnCuda final : public Rounding {
 public:
  OnCuda(std::shared_ptr<const CudaDevice> device, std::shared_ptr<const Cublas> blas,
         const HessianFactor* factor, uint64_t cols, uint64_t memory_bytes)
      : device_(std::move(device)),
        blas_(std::move(blas)),
        factor_(factor),
        cols_(cols),
        memory_bytes_(memory_bytes) {}

  Status Load() {
    if (factor_ != nullptr) {
      const uint64_t bytes = cols_ * cols_ * sizeof(float);
      TQ_ASSIGN_OR_RETURN(factor_memory_, device_->Allocate(bytes, "the factor of a Hessian"));
      TQ_RETURN_IF_ERROR(device_->Upload(factor_->lower(), bytes, factor_memory_.get()));
      TQ_RETURN_IF_ERROR(Check(cuda::LaunchClearAbove(Factor(), cols_, device_->stream())));
    }
    if (memory_bytes_ == 0) {
      TQ_ASSIGN_OR_RETURN(const uint64_t free_bytes, device_->FreeBytes());
      memory_bytes_ = free_bytes / 8 * 7;
    }
    return OkStatus();
  }

  StatusOr<std::vector<RoundingLoss>> Round(const RowRuns& runs) override {
    const trellis::TileShape shape = trellis::ShapeOf(runs.code);
    const uint64_t num_runs = runs.scales.size();
    const uint64_t tiles = CeilDiv<uint64_t>(runs.rows, shape.rows);  // of a run
    // Pieces of one run begin where a product begins. Several runs are few rows: one piece.
    const uint64_t product_tiles = kProductRows / static_cast<uint64_t>(shape.rows);
    const uint64_t least = num_runs > 1 ? num_runs * tiles : std::min(tiles, product_tiles);
    TQ_ASSIGN_OR_RETURN(const uint64_t most, TilesThatFit(runs.code, least));
    const uint64_t together =
        num_runs * tiles <= most ? tiles : most / product_tiles * product_tiles;
    TQ_RETURN_IF_ERROR(LoadInverses(shape));
    std::vector<RoundingLoss> losses(num_runs);
    for (uint64_t tile = 0; tile < tiles; tile += together) {
      Piece piece{num_runs, tile, std::min(together, tiles - tile), 0};
      piece.rows = std::min(runs.rows - tile * shape.rows, piece.tiles * shape.rows);
      TQ_RETURN_IF_ERROR(RoundPiece(runs, piece, losses));
    }
    return losses;
  }

 private:
  // All runs, or some tiles of one.
  struct Piece {
    uint64_t runs, tile, tiles, rows;  // tiles and rows of each run
  };

  static Status Check(int error) { return CudaDevice::Check(error, "rounding a matrix"); }
  float* Factor() const { return static_cast<float*>(factor_memory_.get()); }
  uint64_t TileBytesAcross(const trellis::TileShape& shape) const {
    return CeilDiv<uint64_t>(cols_, shape.columns) * static_cast<uint64_t>(shape.bytes());
  }

  // With as many thread blocks as leave most of the memory to rows.
  cuda::ViterbiConfig ConfigOf(trellis::Code code, uint64_t tiles) const {
    cuda::ViterbiConfig config = Choose(*device_, code, tiles);
    const uint64_t each = config.scratch_bytes / static_cast<uint64_t>(config.blocks);
    const uint64_t most = std::max<uint64_t>(1, memory_bytes_ / 4 / each);
    config.blocks = static_cast<int>(std::min<uint64_t>(config.blocks, most));
    config.scratch_bytes = each * static_cast<uint64_t>(config.blocks);
    return config;
  }

  // An error where they are fewer than `least`.
  StatusOr<uint64_t> TilesThatFit(trellis::Code code, uint64_t least) const {
    const trellis::TileShape shape = trellis::ShapeOf(code);
    const uint64_t row = (cols_ + kSuper) * sizeof(float) + 2 * sizeof(double);
    const uint64_t step = viterbi::Words(code.values) * sizeof(int32_t) + sizeof(uint16_t);
    const uint64_t tile = shape.rows * row + shape.steps() * step + TileBytesAcross(shape);
    const uint64_t scratch =
        std::max(ConfigOf(code, INT32_MAX).scratch_bytes, ConfigOf(code, least).scratch_bytes);
    const uint64_t fixed = scratch + CeilDiv<uint64_t>(cols_, shape.columns) * shape.columns *
                                         shape.columns * sizeof(float);
    if (memory_bytes_ < fixed + least * tile) {
      return ResourceExhausted(
          "--device cuda: rounding rows of {} values takes {} beside the factor of their Hessian, "
          "of which {} are free; use --device cpu",
          cols_, FormatBytes(fixed + least * tile), FormatBytes(memory_bytes_));
    }
    return std::min<uint64_t>((memory_bytes_ - fixed) / tile, INT32_MAX / shape.rows);
  }

  Status LoadInverses(const trellis::TileShape& shape) {
    if (factor_ == nullptr) return OkStatus();
    const std::vector<float> inverses = InvertDiagonal(*factor_, shape.columns);
    TQ_ASSIGN_OR_RETURN(float* const at,
                        inverses_.AtLeast(*device_, inverses.size(), "inverses of blocks"));
    TQ_RETURN_IF_ERROR(device_->Upload(inverses.data(), inverses.size() * sizeof(float), at));
    inverse_data_ = at;
    return device_->Synchronize();
  }

  Status RoundPiece(const RowRuns& runs, const Piece& piece, std::vector<RoundingLoss>& losses);
  StatusOr<cuda::FeedbackArgs> Prepare(const RowRuns& runs, const Piece& piece);
  // sums [rows] grow by the squares of W C.
  Status AddNorms(const cuda::FeedbackArgs& args, double* sums) const;
  Status RoundBlocks(cuda::FeedbackArgs args, uint16_t* states);
  // carried = W[:, from..] C[from.., super..].
  Status StartProduct(const cuda::FeedbackArgs& args, uint64_t from, uint64_t super) const {
    const uint64_t rows = uint64_t{args.tiles()} * args.shape.rows;
    Cublas::FloatProduct product;
    product.m = std::min(kSuper, cols_ - super);
    product.k = cols_ - from;
    product.w = Factor() + from * cols_ + super, product.w_stride = cols_, product.w_by_k = true;
    product.x_stride = cols_, product.y_stride = kSuper;
    for (uint64_t row = 0; row < rows; row += kProductRows) {
      product.n = std::min(kProductRows, rows - row);
      product.x = args.w + row * cols_ + from;
      product.y = args.carried + row * kSuper;
      TQ_RETURN_IF_ERROR(blas_->StartProduct(product));
    }
    return OkStatus();
  }
  // Where rows of a run begin.
  float* RowsOf(const RowRuns& runs, const Piece& piece, uint64_t run) const {
    const uint64_t rows_before = runs.codes == nullptr ? 0 : run * runs.rows;
    return runs.w + (rows_before + piece.tile * trellis::ShapeOf(runs.code).rows) * cols_;
  }

  std::shared_ptr<const CudaDevice> device_;
  std::shared_ptr<const Cublas> blas_;
  const HessianFactor* factor_;
  uint64_t cols_;
  uint64_t memory_bytes_;  // for all below but the factor
  DeviceMemory factor_memory_;
  const float* inverse_data_ = nullptr;
  Growing<float> w_, carried_, scales_, inverses_;
  Growing<int32_t> targets_;
  Growing<uint16_t> states_;
  Growing<uint8_t> codes_, scratch_;
  Growing<double> sums_;  // losses and norms of rows
};

StatusOr<cuda::FeedbackArgs> OnCuda::Prepare(const RowRuns& runs, const Piece& piece) {
  cuda::FeedbackArgs args;
  args.code = runs.code;
  args.shape = trellis::ShapeOf(runs.code);
  args.runs = static_cast<uint32_t>(piece.runs);
  args.run_rows = static_cast<uint32_t>(piece.rows);
  args.run_tiles = static_cast<uint32_t>(piece.tiles);
  args.cols = cols_;
  args.factor = Factor();
  const uint64_t tiles = args.tiles(), rows = tiles * args.shape.rows;
  const uint64_t steps = tiles * static_cast<uint64_t>(args.shape.steps());
  TQ_ASSIGN_OR_RETURN(args.w, w_.AtLeast(*device_, rows * cols_, "rows to round"));
  TQ_ASSIGN_OR_RETURN(args.carried, carried_.AtLeast(*device_, rows * kSuper, "feedback"));
  TQ_ASSIGN_OR_RETURN(float* const scales, scales_.AtLeast(*device_, piece.runs, "scales"));
  TQ_ASSIGN_OR_RETURN(
      args.targets,
      targets_.AtLeast(*device_, steps * viterbi::Words(args.code.values), "targets"));
  TQ_ASSIGN_OR_RETURN(args.losses, sums_.AtLeast(*device_, 2 * rows, "losses"));
  if (runs.codes != nullptr) {
    TQ_ASSIGN_OR_RETURN(args.codes,
                        codes_.AtLeast(*device_, tiles * TileBytesAcross(args.shape), "codes"));
  }
  TQ_RETURN_IF_ERROR(device_->Upload(runs.scales.data(), piece.runs * sizeof(float), scales));
  args.scales = scales;
  const uint64_t padded = piece.tiles * args.shape.rows;
  for (uint64_t run = 0; run < piece.runs; ++run) {
    float* to = args.w + run * padded * cols_;
    TQ_RETURN_IF_ERROR(
        device_->Upload(RowsOf(runs, piece, run), piece.rows * cols_ * sizeof(float), to));
    if (piece.rows < padded) {
      TQ_RETURN_IF_ERROR(
          device_->Fill(to + piece.rows * cols_, 0, (padded - piece.rows) * cols_ * sizeof(float)));
    }
  }
  TQ_RETURN_IF_ERROR(device_->Fill(args.losses, 0, 2 * rows * sizeof(double)));
  return args;
}

Status OnCuda::AddNorms(const cuda::FeedbackArgs& args, double* sums) const {
  const uint64_t rows = uint64_t{args.tiles()} * args.shape.rows;
  if (factor_ == nullptr) {
    return Check(cuda::LaunchAddSquares(args.w, rows, cols_, cols_, sums, device_->stream()));
  }
  for (uint64_t super = 0; super < cols_; super += kSuper) {
    TQ_RETURN_IF_ERROR(StartProduct(args, super, super));
    TQ_RETURN_IF_ERROR(Check(cuda::LaunchAddSquares(
        args.carried, rows, std::min(kSuper, cols_ - super), kSuper, sums, device_->stream())));
  }
  return OkStatus();
}

Status OnCuda::RoundBlocks(cuda::FeedbackArgs args, uint16_t* states) {
  const uint64_t tiles = args.tiles();
  const auto columns = static_cast<uint64_t>(args.shape.columns);
  const cuda::ViterbiConfig config = ConfigOf(args.code, tiles);
  cuda::ViterbiArgs search{args.code, args.shape.steps(), SearchReach(args.code), tiles};
  search.targets = args.targets;
  search.states = states;
  args.states = states;
  TQ_ASSIGN_OR_RETURN(search.scratch, scratch_.AtLeast(*device_, config.scratch_bytes, "a search"));
  for (uint64_t end = cols_; end > 0;) {
    const uint64_t super = (end - 1) / kSuper * kSuper;
    if (factor_ != nullptr && end < cols_) {
      TQ_RETURN_IF_ERROR(StartProduct(args, end, super));
    } else if (factor_ != nullptr) {
      TQ_RETURN_IF_ERROR(
          device_->Fill(args.carried, 0, tiles * args.shape.rows * kSuper * sizeof(float)));
    }
    for (uint64_t block = CeilDiv(end, columns); block > super / columns;) {
      args.block = static_cast<uint32_t>(--block);
      if (factor_ != nullptr) args.inverse = inverse_data_ + block * columns * columns;
      TQ_RETURN_IF_ERROR(Check(cuda::LaunchFeedbackTargets(args, device_->stream())));
      TQ_RETURN_IF_ERROR(Check(cuda::LaunchViterbi(search, config, device_->stream())));
      TQ_RETURN_IF_ERROR(Check(cuda::LaunchFeedbackApply(args, device_->stream())));
    }
    end = super;
  }
  return OkStatus();
}

Status OnCuda::RoundPiece(const RowRuns& runs, const Piece& piece,
                          std::vector<RoundingLoss>& losses) {
  TQ_ASSIGN_OR_RETURN(const cuda::FeedbackArgs args, Prepare(runs, piece));
  const uint64_t tiles = args.tiles(), run_rows = piece.tiles * args.shape.rows;
  const uint64_t rows = tiles * args.shape.rows;
  TQ_ASSIGN_OR_RETURN(uint16_t* const states,
                      states_.AtLeast(*device_, tiles * args.shape.steps(), "paths"));
  if (runs.codes != nullptr) TQ_RETURN_IF_ERROR(AddNorms(args, args.losses + rows));
  TQ_RETURN_IF_ERROR(RoundBlocks(args, states));
  if (runs.codes != nullptr) {
    const uint64_t across = TileBytesAcross(args.shape);
    const uint64_t run_tiles = CeilDiv<uint64_t>(runs.rows, args.shape.rows);
    for (uint64_t run = 0; run < piece.runs; ++run) {
      TQ_RETURN_IF_ERROR(device_->Download(args.w + run * run_rows * cols_,
                                           piece.rows * cols_ * sizeof(float),
                                           RowsOf(runs, piece, run)));
      TQ_RETURN_IF_ERROR(device_->Download(args.codes + run * piece.tiles * across,
                                           piece.tiles * across,
                                           runs.codes + (run * run_tiles + piece.tile) * across));
    }
  }
  std::vector<double> sums(2 * rows);
  TQ_RETURN_IF_ERROR(device_->Download(args.losses, sums.size() * sizeof(double), sums.data()));
  TQ_RETURN_IF_ERROR(device_->Synchronize());
  for (uint64_t run = 0; run < piece.runs; ++run) {
    for (uint64_t row = run * run_rows; row < run * run_rows + piece.rows; ++row) {
      losses[run].loss += sums[row];
      losses[run].norm += sums[rows + row];
    }
  }
  return OkStatus();
}

class CudaRounding final : public RoundingDevice {
 public:
  CudaRounding(std::shared_ptr<const CudaDevice> device, std::shared_ptr<const Cublas> blas,
               uint64_t memory_bytes)
      : device_(std::move(device)), blas_(std::move(blas)), memory_bytes_(memory_bytes) {}

  const std::string& name() const override { return device_->name(); }
  bool Has(trellis::Code code) const override {
    return cuda::HasViterbi(code) && Choose(*device_, code, 1).together > 0;
  }
  StatusOr<std::unique_ptr<Rounding>> Start(const HessianFactor* factor, uint64_t cols,
                                            Executor&) const override {
    auto rounding = std::make_unique<OnCuda>(device_, blas_, factor, cols, memory_bytes_);
    TQ_RETURN_IF_ERROR(rounding->Load());
    return std::unique_ptr<Rounding>(std::move(rounding));
  }

 private:
  std::shared_ptr<const CudaDevice> device_;
  std::shared_ptr<const Cublas> blas_;
  uint64_t memory_bytes_;
};

}  // namespace

StatusOr<std::shared_ptr<const RoundingDevice>> MakeCudaRounding(uint64_t memory_bytes) {
  TQ_ASSIGN_OR_RETURN(std::shared_ptr<const CudaDevice> device, CudaDevice::Open());
  auto blas = Cublas::Load(*device);
  if (!blas.ok()) return blas.status().WithContext("--device cuda: rounding matrices");
  return std::shared_ptr<const RoundingDevice>(
      std::make_shared<CudaRounding>(std::move(device), *std::move(blas), memory_bytes));
}

}  // namespace tq
