// Devices that are simulated: memory, streams, events, graphs. driver_api.cc and runtime_api.cc dress it in CUDA's two interfaces.
//
// Nothing runs before something waits for it: a stream is a queue that a synchronisation works off. This is as late as CUDA allows,
// so that a program which forgets to wait gets wrong results here.
#pragma once
#include <cstddef>
#include <deque>
#include <functional>
#include <vector>

namespace sim {

// CUDA's numbers, the same in both interfaces.
enum Status {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kInvalidDevice = 101,
  kNoDevice = 100,
  kDriverTooOld = 35,
  kInvalidImage = 200,
  kNoBinaryForGpu = 209,
  kInvalidHandle = 400,
  kNotFound = 500,
  kNotReady = 600,
  kLaunchOutOfResources = 701,
  kLaunchFailed = 719,
  kCaptureUnsupported = 900,
  kCaptureInvalidated = 901,
};
const char* status_name(int status);
const char* status_text(int status);

typedef std::function<int()> Work;

struct Event {
  bool is_recorded = false, has_passed = true;
  long record = 0;  // which of the event's records is meant
  struct Stream* stream = nullptr;
  struct Graph* capture = nullptr;  // the one that was being recorded, if the event is of its work
  double milliseconds = 0;
};

struct Graph {
  std::vector<Work> work;
};

struct Stream {
  int device;
  bool waits_for_default;  // false with cudaStreamNonBlocking
  std::deque<Work> queue;
  Graph* capture = nullptr;
  bool is_running = false;
};

struct Device {
  int major, minor;
  Stream* default_stream;
};

// What the environment says, or configure() said: the devices' compute capabilities ("8.0,9.0"), the driver's version, a limit of
// bytes (0: none), the schedule of threads.
void configure(const char* capabilities, int driver_version, size_t memory, unsigned schedule);
int device_count();
int driver_version();
unsigned schedule();
int current_device();
int set_device(int device);
Device& device(int index);

// Gives a device a clean slate: what failed is forgotten, nothing is queued.
void reset();
int sticky_status();

int allocate(size_t bytes, void** memory);
int deallocate(void* memory);
int allocate_host(size_t bytes, void** memory);
int deallocate_host(void* memory);
size_t memory_limit();
size_t memory_used();
long live_streams();
long live_events();
long live_graphs();

Stream* create_stream(bool waits_for_default);
int destroy_stream(Stream* stream);
bool is_living(const Stream* stream);
// The stream, or the device's default one for the handles 0, 1 and 2 that mean it.
Stream* stream_of(void* handle);
int enqueue(Stream* stream, Work work);
int synchronise(Stream* stream);
int synchronise_device();
int copy(void* to, const void* from, size_t bytes, Stream* stream);

Event* create_event();
int destroy_event(Event* event);
int record(Event* event, Stream* stream);
int wait_for(Stream* stream, Event* event);
int synchronise(Event* event);

int begin_capture(Stream* stream);
int end_capture(Stream* stream, Graph** graph);
Graph* copy_of(const Graph* graph);
void destroy_graph(Graph* graph);
int launch_graph(const Graph* graph, Stream* stream);
// Whether some stream is being captured: what would wait or allocate is an error then.
bool is_capturing();
// Ends the recording of all streams whose work goes into the graph.
void forget_capture(const Graph* graph);

}  // namespace sim
