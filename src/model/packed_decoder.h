// The parts of a packed Llama-like model by their places in it, for whoever computes with them.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/packed_model.h"
#include "model/layer_vectors.h"
#include "tensor/tensor.h"

namespace tq {

// Matrices that share their input.
struct PackedGroup {
  std::string name;
  std::vector<const StoredMatrix*> matrices;
};

struct PackedMlp {
  PackedGroup gate_up, down;
};

struct PackedLayer {
  AttentionVectors attention;
  PackedGroup qkv, o;
  MlpVectors mlp;
  PackedGroup gate_up, down;       // empty where there are experts
  std::vector<PackedMlp> experts;  // empty where there are none
};

struct PackedDecoder {
  const StoredMatrix* embedding = nullptr;
  PackedGroup head;
  Tensor norm;  // LoadFinalNorm
  std::vector<PackedLayer> layers;
};

// Finds everything and checks every shape that arithmetic relies on. Matrices stay in the model.
StatusOr<PackedDecoder> FindPackedDecoder(const PackedModel& model);

}  // namespace tq
