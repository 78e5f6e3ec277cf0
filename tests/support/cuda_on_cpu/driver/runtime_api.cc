// libcudart.so.13: the functions of CUDA's runtime that TVM and graphopt call.
#include <cstring>

#include "device.h"

using namespace sim;

extern "C" int cuDeviceGetAttribute(int* value, int which, int index);

namespace {

int last_status;

// The runtime remembers a failure until somebody asks for it.
int remember(int status) {
  if (status) last_status = status;
  return status;
}

}  // namespace

extern "C" {
int cudaGetDeviceCount(int* count) {
  *count = 0;
  if (driver_version() < 13000) return remember(kDriverTooOld);
  *count = device_count();
  return remember(*count ? kSuccess : kNoDevice);
}
int cudaDriverGetVersion(int* version) {
  *version = driver_version();
  return kSuccess;
}
int cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}
int cudaSetDevice(int device) { return remember(driver_version() < 13000 ? int(kDriverTooOld) : set_device(device)); }
int cudaGetDevice(int* device) {
  *device = current_device();
  return kSuccess;
}
int cudaDeviceGetAttribute(int* value, int which, int device) { return remember(cuDeviceGetAttribute(value, which, device)); }
int cudaGetDeviceProperties(void* properties, int index) {
  if (index < 0 || index >= device_count()) return remember(kInvalidDevice);
  // the fields up to the shared memory of a block: name[256], uuid[16], luid[8], luidDeviceNodeMask, then two sizes
  struct {
    char name[256], ids[32];
    size_t memory, shared;
  } first = {"Simulated GPU", {}, memory_limit(), 48 << 10};
  memcpy(properties, &first, sizeof(first));
  return kSuccess;
}
int cudaDeviceSynchronize() { return remember(synchronise_device()); }
const char* cudaGetErrorName(int status) { return status_name(status); }
const char* cudaGetErrorString(int status) { return status_text(status); }
int cudaGetLastError() {
  int status = last_status;
  last_status = sticky_status();
  return status;
}
int cudaPeekAtLastError() { return last_status; }

int cudaMalloc(void** memory, size_t bytes) { return remember(allocate(bytes, memory)); }
int cudaFree(void* memory) { return remember(deallocate(memory)); }
int cudaMallocHost(void** memory, size_t bytes) { return remember(allocate_host(bytes, memory)); }
int cudaFreeHost(void* memory) { return remember(deallocate_host(memory)); }
int cudaMemGetInfo(size_t* left, size_t* total) {
  *total = memory_limit();
  *left = memory_limit() - memory_used();
  return kSuccess;
}
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, void* stream) {
  return remember(copy(to, from, bytes, stream_of(stream)));
}
int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, void* stream) {
  return remember(copy(to, from, bytes, stream_of(stream)));
}
int cudaMemcpy(void* to, const void* from, size_t bytes, int) {
  int status = copy(to, from, bytes, stream_of(nullptr));
  return remember(status ? status : synchronise(stream_of(nullptr)));
}

int cudaStreamCreate(void** stream) {
  *stream = create_stream(true);
  return kSuccess;
}
int cudaStreamCreateWithFlags(void** stream, unsigned flags) {
  *stream = create_stream(!(flags & 1));
  return kSuccess;
}
int cudaStreamDestroy(void* stream) { return remember(destroy_stream(stream_of(stream))); }
int cudaStreamSynchronize(void* stream) { return remember(synchronise(stream_of(stream))); }
int cudaStreamWaitEvent(void* stream, void* event, unsigned) {
  return remember(wait_for(stream_of(stream), static_cast<Event*>(event)));
}

int cudaEventCreate(void** event) {
  *event = create_event();
  return kSuccess;
}
int cudaEventCreateWithFlags(void** event, unsigned) { return cudaEventCreate(event); }
int cudaEventDestroy(void* event) { return remember(destroy_event(static_cast<Event*>(event))); }
int cudaEventRecord(void* event, void* stream) { return remember(record(static_cast<Event*>(event), stream_of(stream))); }
int cudaEventSynchronize(void* event) { return remember(synchronise(static_cast<Event*>(event))); }
int cudaEventQuery(void* event) {
  auto* asked = static_cast<Event*>(event);
  return !asked->is_recorded || asked->has_passed ? kSuccess : kNotReady;
}
int cudaEventElapsedTime(float* milliseconds, void* start, void* end) {
  auto *first = static_cast<Event*>(start), *second = static_cast<Event*>(end);
  if (!first->is_recorded || !second->is_recorded) return remember(kInvalidHandle);
  if (!first->has_passed || !second->has_passed) return remember(kNotReady);
  *milliseconds = float(second->milliseconds - first->milliseconds);
  return kSuccess;
}

int cudaStreamBeginCapture(void* stream, int) { return remember(begin_capture(stream_of(stream))); }
int cudaStreamEndCapture(void* stream, void** graph) {
  return remember(end_capture(stream_of(stream), reinterpret_cast<Graph**>(graph)));
}
int cudaStreamIsCapturing(void* stream, int* status) {
  *status = stream_of(stream)->capture != nullptr;
  return kSuccess;
}
int cudaGraphInstantiate(void** executable, void* graph, unsigned long long) {
  *executable = copy_of(static_cast<Graph*>(graph));
  return kSuccess;
}
int cudaGraphLaunch(void* executable, void* stream) {
  return remember(launch_graph(static_cast<Graph*>(executable), stream_of(stream)));
}
int cudaGraphDestroy(void* graph) {
  destroy_graph(static_cast<Graph*>(graph));
  return kSuccess;
}
int cudaGraphExecDestroy(void* executable) {
  destroy_graph(static_cast<Graph*>(executable));
  return kSuccess;
}
}
