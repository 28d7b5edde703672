// For the tests of chat templates and the program of their oracle: what a template is given.
#pragma once

#include <nlohmann/json.hpp>
#include <utility>

#include "tokenizer/chat_template.h"

namespace tq {

// `variables` hold "messages" and perhaps "add_generation_prompt", whose default is given; the
// others are the template's own. The time is that of benchmarks/oracles/chat_template_oracle.py.
inline ChatInputs ChatInputsForTest(nlohmann::ordered_json variables, bool add_generation_prompt) {
  ChatInputs inputs;
  inputs.messages = variables.value("messages", nlohmann::ordered_json::array());
  inputs.add_generation_prompt = variables.value("add_generation_prompt", add_generation_prompt);
  variables.erase("messages");
  variables.erase("add_generation_prompt");
  inputs.variables = std::move(variables);
  inputs.bos_token = "<s>";
  inputs.eos_token = "</s>";
  std::tm now{};  // Friday, 26 July 2024, 13:05:09
  now.tm_year = 124;
  now.tm_mon = 6;
  now.tm_mday = 26;
  now.tm_hour = 13;
  now.tm_min = 5;
  now.tm_sec = 9;
  now.tm_wday = 5;
  now.tm_yday = 207;
  inputs.now = now;
  return inputs;
}

}  // namespace tq
