// Events and graphs.
#include <time.h>

#include "device.h"

namespace sim {

static long events, graphs, records;

static double now_in_milliseconds() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec * 1e-6;
}

Event* create_event() {
  events++;
  return new Event;
}

int destroy_event(Event*) {
  events--;  // the object stays, as work may still name it
  return kSuccess;
}

long live_events() { return events; }

int record(Event* event, Stream* stream) {
  event->is_recorded = true;
  event->capture = stream->capture;
  event->stream = stream;
  event->has_passed = event->capture != nullptr;  // in a graph it only says what comes after what
  if (event->capture) return kSuccess;
  long number = event->record = ++records;
  return enqueue(stream, [=] {
    if (event->record == number) {
      event->has_passed = true;
      event->milliseconds = now_in_milliseconds();
    }
    return int(kSuccess);
  });
}

int wait_for(Stream* stream, Event* event) {
  if (!event->is_recorded || event->stream == stream || !is_living(event->stream)) return kSuccess;
  if (event->capture) {
    // the work of the two streams becomes one sequence of the graph
    if (event->stream->capture == event->capture) stream->capture = event->capture;
    return kSuccess;
  }
  // what counts is where the event is now, wherever it is recorded next
  long number = event->record;
  Stream* other = event->stream;
  return enqueue(stream, [=] {
    if ((event->record == number && event->has_passed) || !is_living(other)) return int(kSuccess);
    return synchronise(other);
  });
}

int synchronise(Event* event) {
  if (!event->is_recorded || event->has_passed || !is_living(event->stream)) return kSuccess;
  return synchronise(event->stream);
}

int begin_capture(Stream* stream) {
  if (stream->capture || stream == device(stream->device).default_stream) return kCaptureUnsupported;
  stream->capture = new Graph;
  graphs++;
  return kSuccess;
}

int end_capture(Stream* stream, Graph** graph) {
  if (!stream->capture) return kInvalidValue;
  *graph = stream->capture;
  forget_capture(*graph);
  return kSuccess;
}

Graph* copy_of(const Graph* graph) {
  graphs++;
  return new Graph(*graph);
}

void destroy_graph(Graph* graph) {
  graphs--;
  delete graph;
}

long live_graphs() { return graphs; }

int launch_graph(const Graph* graph, Stream* stream) {
  for (const Work& work : graph->work) {
    if (int status = enqueue(stream, work)) return status;
  }
  return kSuccess;
}

}  // namespace sim
