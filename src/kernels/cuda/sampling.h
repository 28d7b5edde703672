// Drawing a token from logits on a GPU: the steps of Sampler (model/sampler.h) with its arithmetic
// (kernels/transformer/token_mass.h), so that both draw the same token. No CUDA types here.
//
//   penalty      logits of recent tokens are divided by it if positive, multiplied if not
//   weight       w[i] = exp((logit[i] - largest) / temperature), the bits of transformer::Exp at
//                its levels with FMA; smaller values than exp(-80) differ, whose mass is 0
//   top-k        the k largest logits, the lower ids among equals
//   top-p        of those by falling weight, the lower ids first among equals, the fewest whose
//                masses reach the share p
//   min-p        of those the ones with w[i] >= min_p
//   draw         of those, in the order of ids, the first whose masses up to it exceed the random
//                share of all
#pragma once

#include <cstdint>

#include "kernels/cuda/argmax.h"

namespace tq::cuda {

// What a draw depends on beside the logits; in device memory, where recorded work reads it anew.
struct SamplingParams {
  float repetition_penalty = 1;
  uint32_t num_recent = 0;
  float temperature = 1;  // above 0
  uint32_t top_k = 0;     // at least 1 where the step is taken
  float top_p = 1;        // above 0, and below 1 where the step is taken
  float min_p = 0;
  double uniform = 0;  // in [0, 1)
};

struct SamplingArgs {
  float* logits = nullptr;  // [n]
  uint32_t n = 0;
  bool top_k = false, top_p = false;  // whether these steps are taken
  const SamplingParams* params = nullptr;
  // [params->num_recent]: different ids; those outside [0, n) are none.
  const int32_t* recent = nullptr;
  // SamplingScratchBytes(n), 8-byte aligned: zeros before the first draw, and fit for another
  // behind each.
  uint8_t* scratch = nullptr;
  // What LaunchArgmax made of the logits; the token drawn becomes `best`. Logits that are not all
  // finite leave it as it is.
  ArgmaxResult* result = nullptr;
};
uint64_t SamplingScratchBytes(uint64_t n);

// The penalty alone, in place, before LaunchArgmax. Values that are not finite stay what they are.
int LaunchPenalise(const SamplingArgs& args, void* stream);
// The other steps, behind LaunchArgmax. Both start work on a stream (cudaStream_t) and return a
// cudaError_t.
int LaunchDraw(const SamplingArgs& args, void* stream);

}  // namespace tq::cuda
