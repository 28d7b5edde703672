// How products with packed matrices are computed.
#pragma once

namespace tq {

// kFast: integer activations, the same for any number of threads. kReference: float activations
// against decoded floats; slow, the twin of the fast path.
enum class MatmulPath { kFast, kReference };

}  // namespace tq
