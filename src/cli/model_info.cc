#include "cli/model_info.h"

#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"

namespace tq::cli {

StatusOr<ModelInfo> GetModelInfo(const std::filesystem::path& path) {
  TQ_ASSIGN_OR_RETURN(const ModelKind kind, DetectModelKind(path));
  if (kind == ModelKind::kPacked) {
    TQ_ASSIGN_OR_RETURN(auto model, PackedModel::Open(path));
    return ModelInfo{model->num_parameters(), model->num_bytes()};
  }
  TQ_ASSIGN_OR_RETURN(auto source, ModelSource::Open(path));
  return ModelInfo{source->num_parameters(), source->num_bytes()};
}

}  // namespace tq::cli
