// libcuda.so.1: the functions of the driver that TVM and graphopt call.
//
// A module's image is a file header that says "CUDA machine code", a marker, the architecture and the path of the kernel library
// (images.py makes it), alone or among the entries of a fat binary.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../runtime/finding.h"
#include "../runtime/launch.h"
#include "device.h"

using namespace sim;

namespace {

constexpr char kMarker[] = "cuda_on_cpu image";
constexpr uint32_t kFatMagic = 0xba55ed50;

struct Module {
  Image* image;
  long uses;
};

struct Function {
  Module* module;
  const char* name;
  Kernel kernel;
  int dynamic_limit = 48 << 10;
};

struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

struct Entry {
  int architecture = 0;
  const char* path = nullptr;
};

// Reads a marked image that begins here.
bool read_entry(const unsigned char* at, Entry& entry) {
  if (memcmp(at, "\x7f" "ELF", 4) || memcmp(at + 64, kMarker, sizeof(kMarker))) return false;
  memcpy(&entry.architecture, at + 64 + sizeof(kMarker), 4);
  entry.path = reinterpret_cast<const char*>(at + 64 + sizeof(kMarker) + 4);
  return true;
}

bool runs_on(const Entry& entry, const Device& device) {
  int major = entry.architecture / 10, minor = entry.architecture % 10;
  return major == device.major && minor <= device.minor;
}

// The newest image that the device can run. `status` says why there is none.
Entry choose(const void* data, const Device& device, int& status) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  uint32_t magic;
  memcpy(&magic, bytes, 4);
  uint64_t size = 0;
  if (magic == kFatMagic) memcpy(&size, bytes + 8, 8);
  Entry best, entry;
  status = kInvalidImage;
  for (uint64_t at = 0; at <= size; at += 4) {
    const unsigned char* place = bytes + (magic == kFatMagic ? 16 : 0) + at;
    if (at + 64 + sizeof(kMarker) > size && magic == kFatMagic) break;
    if (!read_entry(place, entry)) continue;
    if (status != kSuccess) status = kNoBinaryForGpu;
    if (runs_on(entry, device) && entry.architecture >= best.architecture) {
      best = entry;
      status = kSuccess;
    }
  }
  return best;
}

// A library that is loaded in the place of the one that an image names.
char replacement[4096];

int attribute(const Device& device, int which) {
  bool is_turing = device.major == 7, is_small = device.major == 8 && device.minor != 0 && device.minor != 7;
  int most = is_turing ? 64 << 10 : is_small ? 99 << 10 : device.major == 8 ? 163 << 10 : 227 << 10;
  switch (which) {
    case 1: case 2: case 3: return which == 3 ? 64 : 1024;
    case 5: return 0x7fffffff;
    case 6: case 7: return 65535;
    case 8: return 48 << 10;
    case 10: return 32;
    case 12: return 64 << 10;
    case 13: return 1000000;
    case 16: return 4;
    case 38: return 4 << 20;
    case 75: return device.major;
    case 76: return device.minor;
    case 81: return most + (1 << 10);
    case 97: return most;
  }
  return 0;
}

long modules;

}  // namespace

extern "C" {
int cuInit(unsigned) { return device_count() ? kSuccess : kNoDevice; }
int cuDriverGetVersion(int* version) {
  *version = driver_version();
  return kSuccess;
}
int cuDeviceGetCount(int* count) {
  *count = device_count();
  return kSuccess;
}
int cuDeviceGet(int* device, int index) {
  *device = index;
  return index >= 0 && index < device_count() ? kSuccess : kInvalidDevice;
}
int cuDeviceGetAttribute(int* value, int which, int index) {
  if (index < 0 || index >= device_count()) return kInvalidDevice;
  *value = attribute(device(index), which);
  return kSuccess;
}
int cuDeviceGetName(char* name, int size, int index) {
  if (index < 0 || index >= device_count()) return kInvalidDevice;
  snprintf(name, size, "Simulated GPU of compute capability %d.%d", device(index).major, device(index).minor);
  return kSuccess;
}
int cuGetErrorName(int status, const char** name) {
  *name = status_name(status);
  return kSuccess;
}
int cuGetErrorString(int status, const char** text) {
  *text = status_text(status);
  return kSuccess;
}

int cuModuleLoadData(void** module, const void* data) {
  if (int status = sticky_status()) return status;
  int status;
  Entry entry = choose(data, device(current_device()), status);
  if (status) return status;
  Image* image = load_image(*replacement ? replacement : entry.path);
  if (!image) {
    fprintf(stderr, "cuda_on_cpu: %s\n", finding_text());
    return kInvalidImage;
  }
  modules++;
  *module = new Module{image, 0};
  return kSuccess;
}
// Not of CUDA: for tests that run an artefact with other kernels. An empty path ends it.
void cuSimulateReplacement(const char* path) { snprintf(replacement, sizeof(replacement), "%s", path); }
int cuModuleLoadDataEx(void** module, const void* data, unsigned, void*, void*) { return cuModuleLoadData(module, data); }
int cuModuleUnload(void* module) {
  synchronise_device();
  modules--;
  unload_image(static_cast<Module*>(module)->image);
  delete static_cast<Module*>(module);
  return kSuccess;
}
// Functions live as long as the process, as TVM keeps them beyond their module.
int cuModuleGetFunction(void** function, void* module, const char* name) {
  auto* owner = static_cast<Module*>(module);
  Kernel kernel = owner->image->kernel(name);
  if (!kernel.call) return kNotFound;
  *function = new Function{owner, strdup(name), kernel};
  return kSuccess;
}
int cuFuncSetAttribute(void* function, int which, int value) {
  if (which == 8) {  // the most dynamic shared memory
    if (value > attribute(device(current_device()), 97)) return kInvalidValue;
    static_cast<Function*>(function)->dynamic_limit = value;
  }
  return kSuccess;
}

int cuLaunchKernelEx(const LaunchConfig* config, void* handle, void** parameters, void** extra) {
  auto* function = static_cast<Function*>(handle);
  if (extra) return kInvalidValue;
  if (config->shared_bytes > unsigned(function->dynamic_limit)) return kInvalidValue;
  // the parameters' values are the call's, the launch may come later
  std::vector<std::vector<char>> values;
  for (int i = 0; function->kernel.sizes[i]; i++) {
    const char* value = static_cast<const char*>(parameters[i]);
    values.emplace_back(value, value + function->kernel.sizes[i]);
  }
  LaunchConfig copied = *config;
  Stream* stream = stream_of(config->stream);
  int device = stream->device;  // a graph outlives the stream that it was recorded on
  return enqueue(stream, [=]() mutable {
    std::vector<void*> addresses;
    for (auto& value : values) addresses.push_back(value.data());
    Launch launch{function->module->image,
                  function->kernel,
                  function->name,
                  {copied.grid[0], copied.grid[1], copied.grid[2]},
                  {copied.block[0], copied.block[1], copied.block[2]},
                  copied.shared_bytes,
                  addresses.data(),
                  device};
    return int(run(launch, schedule()) ? kSuccess : kLaunchFailed);
  });
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned bytes,
                   void* stream, void** parameters, void** extra) {
  LaunchConfig config{{gx, gy, gz}, {bx, by, bz}, bytes, stream, nullptr, 0};
  return cuLaunchKernelEx(&config, function, parameters, extra);
}
int cuTensorMapEncodeTiled() { return kInvalidValue; }
}
