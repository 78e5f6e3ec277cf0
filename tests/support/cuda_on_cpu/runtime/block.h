// A block of threads in execution: who runs, who waits for what.
#pragma once
#include <cstdint>
#include <vector>

#include "../include/interface.h"
#include "fiber.h"

namespace sim {

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

enum class State : uint8_t { kNew, kReady, kAtWarp, kAtBlock, kDone };

// An asynchronous copy that hasn't arrived.
struct Copy {
  char* to;
  const char* from;  // nullptr: zeros
  int bytes;
};

struct Thread {
  Context context;
  char* stack;
  State state;
  uint16_t number;  // within the block
  uint8_t lane;
  uint16_t warp;
  sim_index index;
  // The collective that the thread waits for.
  const char* operation;
  unsigned mask;
  void* arguments;
  // The barrier that it waits for.
  const void* site;
  sim_barrier_kind barrier;
  int predicate;
  std::vector<Copy> open, committed;
  std::vector<int> groups;  // sizes of the committed groups, the oldest first
};

// The order of a warp's accesses, which __syncwarp gives. `now` grows with every one. A full one orders everything before
// `full`, one of some lanes what `seen[a][b]` says: lane a knows of what lane b did before that time.
struct Warp {
  uint32_t now, full;
  unsigned waiting, left;  // lanes at a collective, and those that have left the kernel
  bool has_partial;
  uint32_t seen[kLanes][kLanes];
};

struct Block {
  sim_index index, size, grid;
  int threads;
  std::vector<Thread> all;
  std::vector<Warp> warps;
};

struct Counters {
  long blocks, barriers, warp_barriers, products, matrix_loads, matrix_conflicts, copies, accesses, wide_accesses;
};

extern Block block;
extern Thread* self;  // the thread that runs, nullptr outside of kernels
extern Counters counters;
extern Stacks stacks;
extern char* dynamic_shared;

// Runs one block to its end; false after a finding.
bool run_block(void (*kernel)(void**), void** arguments, unsigned schedule);

// Waits until every lane of the mask is here with the same operation, or returns true in the last one that comes, which then does
// the work for all of them (`Thread::arguments` of each) and calls `release`.
bool last_to_arrive(const char* operation, unsigned mask, void* arguments, bool whole_warp);
void release(unsigned mask);
Thread& lane_of_mine(int lane);

// The mask of lanes that exist in the warp of the running thread.
unsigned existing_lanes();

}  // namespace sim
