#include "device.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "../runtime/finding.h"
#include "../runtime/memory.h"

namespace sim {
namespace {

std::vector<Device> devices;
size_t limit;
int version;
unsigned chosen_schedule;
bool is_configured;
thread_local int current;
int sticky;
std::map<size_t, size_t> device_memory, host_memory;  // sizes by address
size_t used;
long allocation_number;
int exposed = 1;  // how many reasons there are for the host to reach device memory: streams that run, or that nobody forbade it

const char* environment(const char* name, const char* otherwise) {
  const char* value = getenv(name);
  return value ? value : otherwise;
}

void need_configuration() {
  if (is_configured) return;
  if (*environment("CUDA_ON_CPU_APART", "")) exposed--;
  configure(environment("CUDA_ON_CPU_DEVICES", "8.0"), atoi(environment("CUDA_ON_CPU_DRIVER", "13000")),
            strtoull(environment("CUDA_ON_CPU_MEMORY", "0"), nullptr, 10),
            unsigned(atoi(environment("CUDA_ON_CPU_SCHEDULE", "0"))));
}

bool is_in(const std::map<size_t, size_t>& memory, const void* place, size_t bytes) {
  size_t address = reinterpret_cast<size_t>(place);
  auto at = memory.upper_bound(address);
  if (at == memory.begin()) return false;
  --at;
  return address - at->first <= at->second && bytes <= at->second - (address - at->first);
}

// Whether the address lies within an allocation, so that it is one of the device's.
bool is_of_device(const void* place) { return is_in(device_memory, place, 1); }

// Threads of a process call the driver one after the other: what runs kernels knows of one thread only.
pthread_mutex_t turns = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
struct Turn {
  Turn() { pthread_mutex_lock(&turns); }
  ~Turn() { pthread_mutex_unlock(&turns); }
};

}  // namespace

const char* status_name(int status) {
  switch (status) {
    case kSuccess: return "CUDA_SUCCESS";
    case kInvalidValue: return "CUDA_ERROR_INVALID_VALUE";
    case kOutOfMemory: return "CUDA_ERROR_OUT_OF_MEMORY";
    case kInvalidDevice: return "CUDA_ERROR_INVALID_DEVICE";
    case kNoDevice: return "CUDA_ERROR_NO_DEVICE";
    case kDriverTooOld: return "CUDA_ERROR_INSUFFICIENT_DRIVER";
    case kInvalidImage: return "CUDA_ERROR_INVALID_IMAGE";
    case kNoBinaryForGpu: return "CUDA_ERROR_NO_BINARY_FOR_GPU";
    case kInvalidHandle: return "CUDA_ERROR_INVALID_HANDLE";
    case kNotFound: return "CUDA_ERROR_NOT_FOUND";
    case kNotReady: return "CUDA_ERROR_NOT_READY";
    case kLaunchOutOfResources: return "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
    case kLaunchFailed: return "CUDA_ERROR_LAUNCH_FAILED";
    case kCaptureUnsupported: return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
    case kCaptureInvalidated: return "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED";
  }
  return "CUDA_ERROR_UNKNOWN";
}

const char* status_text(int status) {
  static char text[2200];
  switch (status) {
    case kSuccess: return "no error";
    case kInvalidValue: return "invalid argument";
    case kOutOfMemory: return "out of memory";
    case kInvalidDevice: return "invalid device ordinal";
    case kNoDevice: return "no CUDA-capable device is detected";
    case kDriverTooOld: return "CUDA driver version is insufficient for CUDA runtime version";
    case kInvalidImage: return "device kernel image is invalid";
    case kNoBinaryForGpu: return "no kernel image is available for execution on the device";
    case kInvalidHandle: return "invalid resource handle";
    case kNotFound: return "named symbol not found";
    case kNotReady: return "device not ready";
    case kLaunchOutOfResources: return "too many resources requested for launch";
    case kCaptureUnsupported: return "operation not permitted when stream is capturing";
    case kCaptureInvalidated: return "operation failed due to a previous error during capture";
    case kLaunchFailed:
      snprintf(text, sizeof(text), "unspecified launch failure: %s: %s", finding_kind(), finding_text());
      return text;
  }
  return "unknown error";
}

void configure(const char* capabilities, int driver, size_t memory, unsigned schedule) {
  is_configured = true;
  std::vector<Device> wanted;
  for (const char* at = capabilities; *at;) {
    int major = 0, minor = 0, read = 0;
    if (sscanf(at, "%d.%d%n", &major, &minor, &read) != 2) break;
    wanted.push_back({major, minor, nullptr});
    at += read + (at[read] == ',');
  }
  for (size_t i = 0; i < wanted.size(); i++) {
    wanted[i].default_stream = i < devices.size() ? devices[i].default_stream : new Stream{int(i), true, {}, nullptr, false};
  }
  devices = wanted;
  version = driver;
  limit = memory;
  chosen_schedule = schedule;
}

int device_count() {
  need_configuration();
  return int(devices.size());
}
int driver_version() {
  need_configuration();
  return version;
}
unsigned schedule() { return chosen_schedule; }
int current_device() { return current; }
int set_device(int index) {
  if (index < 0 || index >= device_count()) return kInvalidDevice;
  current = index;
  return kSuccess;
}
Device& device(int index) {
  need_configuration();
  return devices[index];
}
int sticky_status() { return sticky; }

int allocate(size_t bytes, void** memory) {
  Turn turn;
  need_configuration();
  if (sticky) return sticky;
  if (is_capturing()) return kCaptureUnsupported;
  if (limit && used + bytes > limit) return kOutOfMemory;
  size_t room = bytes ? bytes : 1;
  *memory = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (*memory == MAP_FAILED) return kOutOfMemory;
  memset(*memory, 0xff, room);  // NaN in every float type
  size_t address = reinterpret_cast<size_t>(*memory);
  if (!exposed) mprotect(*memory, room, PROT_NONE);
  char name[60];
  snprintf(name, sizeof(name), "allocation %ld of device %d", ++allocation_number, current);
  allocations.add(address, room, name, current);
  device_memory[address] = room;
  used += room;
  return kSuccess;
}

int deallocate(void* memory) {
  Turn turn;
  if (!memory) return kSuccess;
  if (is_capturing()) return kCaptureUnsupported;
  // A real driver would report a failed launch here too. TVM calls this from destructors, which end the process then, and the finding
  // with it.
  synchronise_device();
  auto at = device_memory.find(reinterpret_cast<size_t>(memory));
  if (at == device_memory.end()) return kInvalidValue;
  used -= at->second;
  allocations.remove(at->first);
  munmap(memory, at->second);
  device_memory.erase(at);
  return kSuccess;
}

int allocate_host(size_t bytes, void** memory) {
  if (posix_memalign(memory, 256, bytes ? bytes : 1)) return kOutOfMemory;
  host_memory[reinterpret_cast<size_t>(*memory)] = bytes;
  return kSuccess;
}

int deallocate_host(void* memory) {
  if (!host_memory.erase(reinterpret_cast<size_t>(memory))) return kInvalidValue;
  free(memory);
  return kSuccess;
}

size_t memory_limit() { return limit ? limit : size_t(16) << 30; }
size_t memory_used() { return used; }

int copy(void* to, const void* from, size_t bytes, Stream* stream) {
  Turn turn;
  if (!bytes) return kSuccess;
  bool to_device = is_of_device(to), from_device = is_of_device(from);
  if ((to_device && !is_in(device_memory, to, bytes)) || (from_device && !is_in(device_memory, from, bytes))) return kInvalidValue;
  bool waits = !to_device && !is_in(host_memory, to, bytes);
  if (waits && stream->capture) return kCaptureUnsupported;
  if (!from_device && !is_in(host_memory, from, bytes)) {
    // ordinary host memory may be used again as soon as the call is back
    std::vector<char> content(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return enqueue(stream, [=] { return memcpy(to, content.data(), bytes), int(kSuccess); });
  }
  int status = enqueue(stream, [=] { return memmove(to, from, bytes), int(kSuccess); });
  return waits && !status ? synchronise(stream) : status;
}

// While it lives, device memory can be accessed. At all other times a program that takes an address of the device for one of the host
// ends with a segmentation fault, as it does with a GPU.
struct Exposure {
  Exposure() {
    if (!exposed++) protect(PROT_READ | PROT_WRITE);
  }
  ~Exposure() {
    if (!--exposed) protect(PROT_NONE);
  }
  static void protect(int how) {
    for (auto& [address, size] : device_memory) mprotect(reinterpret_cast<void*>(address), size, how);
  }
};

// Runs what is queued; the first failure is the device's from then on, as a failed launch ends a context on a GPU.
static int drain(Stream* stream) {
  if (stream->is_running) return kSuccess;  // a wait among the work itself
  if (stream->queue.empty()) return sticky;
  Exposure exposure;
  stream->is_running = true;
  while (!stream->queue.empty() && !sticky) {
    Work work = stream->queue.front();
    stream->queue.pop_front();
    if (int status = work()) sticky = status;
  }
  stream->is_running = false;
  return sticky;
}

static std::vector<Stream*>& streams() {
  static std::vector<Stream*> all;
  return all;
}

Stream* create_stream(bool waits_for_default) {
  Turn turn;
  auto* stream = new Stream{current, waits_for_default, {}, nullptr, false};
  streams().push_back(stream);
  return stream;
}

int destroy_stream(Stream* stream) {
  Turn turn;
  drain(stream);
  auto& all = streams();
  for (size_t i = 0; i < all.size(); i++) {
    if (all[i] == stream) all.erase(all.begin() + i);
  }
  delete stream;
  return kSuccess;
}

// A stream that was destroyed has nothing left to do.
bool is_living(const Stream* stream) {
  for (const Device& each : devices) {
    if (each.default_stream == stream) return true;
  }
  for (const Stream* each : streams()) {
    if (each == stream) return true;
  }
  return false;
}

long live_streams() { return long(streams().size()); }

Stream* stream_of(void* handle) {
  size_t number = reinterpret_cast<size_t>(handle);
  return number <= 2 ? device(current).default_stream : static_cast<Stream*>(handle);
}

int enqueue(Stream* stream, Work work) {
  Turn turn;
  if (sticky) return sticky;
  if (stream->capture) {
    stream->capture->work.push_back(work);
    return kSuccess;
  }
  Stream* other = device(stream->device).default_stream;
  if (stream == other) {
    // the default stream begins when all others, but those that were made not to, are through
    for (Stream* blocking : streams()) {
      if (!blocking->waits_for_default || blocking->device != stream->device || blocking->capture) continue;
      if (int status = drain(blocking)) return status;
    }
  } else if (stream->waits_for_default && !other->queue.empty()) {
    if (int status = drain(other)) return status;
  }
  stream->queue.push_back(work);
  return kSuccess;
}

int synchronise(Stream* stream) {
  Turn turn;
  if (stream->capture) return kCaptureUnsupported;
  return drain(stream);
}

int synchronise_device() {
  Turn turn;
  for (Stream* stream : streams()) {
    if (!stream->capture) drain(stream);
  }
  for (Device& each : devices) drain(each.default_stream);
  return sticky;
}

void reset() {
  sticky = 0;
  clear_finding();
  for (Stream* stream : streams()) {
    stream->queue.clear();
    stream->is_running = false;
    if (Graph* graph = stream->capture) {
      forget_capture(graph);
      destroy_graph(graph);
    }
  }
  for (Device& each : devices) {
    each.default_stream->queue.clear();
    each.default_stream->is_running = false;
  }
}

void forget_capture(const Graph* graph) {
  for (Stream* stream : streams()) {
    if (stream->capture == graph) stream->capture = nullptr;
  }
}

bool is_capturing() {
  for (Stream* stream : streams()) {
    if (stream->capture) return true;
  }
  return false;
}

}  // namespace sim

extern "C" {
void sim_configure(const char* capabilities, int driver, size_t memory, unsigned schedule) {
  sim::configure(capabilities, driver, memory, schedule);
}
void sim_set_schedule(unsigned schedule) {
  sim::need_configuration();
  sim::chosen_schedule = schedule;
}
void sim_reset() { sim::reset(); }
size_t sim_memory_used() { return sim::memory_used(); }
// What hasn't been given back: allocations, streams, events, graphs.
void sim_living(long* counts) {
  counts[0] = long(sim::device_memory.size());
  counts[1] = sim::live_streams();
  counts[2] = sim::live_events();
  counts[3] = sim::live_graphs();
}
}
