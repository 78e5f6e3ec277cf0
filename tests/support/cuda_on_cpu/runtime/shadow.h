// Who accessed which bytes since when: bounds, alignment, uninitialised reads and races.
//
// Time is counted in epochs, a new one at every start of a block and every barrier of one: what happened in another epoch of the
// same block is ordered. Within an epoch accesses of a warp are ordered by its __syncwarp (Warp in block.h), others not at all.
// Blocks of a launch aren't ordered among each other, unless by a fence and an atomic access to the same place.
#pragma once
#include <cstdint>

#include "memory.h"

namespace sim {

struct Cell {
  uint32_t write_epoch, write_time;
  uint32_t read_epoch, read_time, read_lanes;
  uint32_t first_read;  // the first epoch of the launch in which it was read
  uint16_t write_thread, read_warp;
  uint16_t pending;  // the thread, plus one, whose asynchronous copy will write it
  bool is_split;     // the bytes have cells of their own
  bool by_atomic;
};

constexpr uint16_t kSeveralWarps = 0xffff;

// Whether accesses are checked: kernels compiled without instrumentation skip it everywhere.
extern bool checking;
// The device that the kernel runs on; -1 where there is none.
extern int running_device;

enum class Access { kRead, kWrite, kAtomic, kWarpRead, kCopyTo, kArrival };

// Checks an access of the running thread and remembers it. kWarpRead stands for all lanes of its warp; kCopyTo begins an
// asynchronous copy to the place, kArrival ends it.
void check(size_t address, size_t bytes, Access access, bool must_align);

void shadow_launch();
void shadow_block();
void shadow_barrier();
void shadow_fence();

}  // namespace sim
