// What a GGUF file says of a model besides its tensors and tokenizer: the keys of its architecture.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/gguf_writer.h"
#include "checkpoint/model_config.h"

namespace tq {

// The model as a GGUF file describes it, which may be as one of another architecture. What its
// readers would compute otherwise is Unimplemented, naming field and value; where a file can only
// say less, `notes` gets a line.
StatusOr<ModelConfig> DescribeForGguf(const ModelConfig& model, std::vector<std::string>& notes);

// general.architecture and its keys, for what DescribeForGguf gave.
void AppendConfigKeys(const ModelConfig& config, GgufKeys& keys);

}  // namespace tq
