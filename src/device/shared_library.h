// A library that is loaded when it is first needed: a program without it runs everything else.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tq {

class SharedLibrary {
 public:
  // `name` is for errors, `file` what the system looks for: "libcublas.so.13". NotFound if it is
  // not there.
  static StatusOr<SharedLibrary> Load(std::string_view name, const std::string& file);

  // The function of that name; its type is the caller's word.
  template <typename Function>
  Status Find(const char* symbol, Function& function) const {
    TQ_ASSIGN_OR_RETURN(void* const address, Address(symbol));
    function = reinterpret_cast<Function>(address);
    return OkStatus();
  }

 private:
  SharedLibrary(std::string_view name, std::shared_ptr<void> handle)
      : name_(name), handle_(std::move(handle)) {}
  StatusOr<void*> Address(const char* symbol) const;

  std::string name_;
  std::shared_ptr<void> handle_;  // unloaded with the last copy
};

}  // namespace tq
