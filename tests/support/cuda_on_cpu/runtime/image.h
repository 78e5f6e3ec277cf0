// A kernel library: what the build made of one CUDA source.
#pragma once
#include <cstddef>
#include <vector>

namespace sim {

struct SharedArray {
  char* name;    // of the array
  char* kernel;  // of the kernel that declares it, nullptr for a device function's
  size_t offset, size;
};

struct Kernel {
  void (*call)(void**);
  const int* sizes;  // of the parameters, in bytes, 0 behind the last
  int bound;         // the threads that __launch_bounds__ promises, or 0
};

struct Image {
  void* library = nullptr;
  size_t shared_base = 0, shared_size = 0;
  bool is_checked = false;
  std::vector<SharedArray> arrays;

  // The kernel of that name; its `call` is nullptr if there is none.
  Kernel kernel(const char* name) const;
};

// Loads a library, or returns nullptr after a finding.
Image* load_image(const char* path);
void unload_image(Image* image);

}  // namespace sim
