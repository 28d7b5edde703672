// A number of a ModelConfig, for tables that name it: what files call it, and how they are read and
// written.
#pragma once

#include <variant>

#include "checkpoint/model_config.h"

namespace tq {

using ConfigMember = std::variant<uint32_t ModelConfig::*, float ModelConfig::*>;

// use(number), a uint32_t& or float& of `config` (const if that is).
template <class Config, class Use>
decltype(auto) VisitMember(const ConfigMember& member, Config& config, Use use) {
  return std::visit([&](auto of) -> decltype(auto) { return use(config.*of); }, member);
}

}  // namespace tq
