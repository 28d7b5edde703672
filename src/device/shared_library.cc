#include "device/shared_library.h"

#include <dlfcn.h>

namespace tq {

StatusOr<SharedLibrary> SharedLibrary::Load(std::string_view name, const std::string& file) {
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    return NotFound("{}: {}", name, why == nullptr ? file : std::string(why));
  }
  return SharedLibrary(name,
                       std::shared_ptr<void>(handle, [](void* library) { dlclose(library); }));
}

StatusOr<void*> SharedLibrary::Address(const char* symbol) const {
  void* address = dlsym(handle_.get(), symbol);
  if (address == nullptr) return NotFound("{} has no {}", name_, symbol);
  return address;
}

}  // namespace tq
