#include "block.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "finding.h"
#include "order.h"
#include "shadow.h"

namespace sim {

Block block;
Thread* self;
Counters counters;
Stacks stacks;
char* dynamic_shared;

static Context scheduler;
static bool abandoned;
static void (*entry)(void**);
static void** entry_arguments;

static void thread_main() {
  entry(entry_arguments);
  self->state = State::kDone;
  block.warps[self->warp].left |= 1u << self->lane;
  switch_context(self->context, scheduler);
  abort();  // a thread that ended isn't continued
}

void give_up() {
  abandoned = true;
  switch_context(self->context, scheduler);
  abort();
}

static void wait_as(State state) {
  self->state = state;
  switch_context(self->context, scheduler);
}

static void run(Thread& thread) {
  if (thread.state == State::kNew) {
    thread.stack = stacks.take();
    prepare(thread.context, thread.stack, Stacks::size, thread_main);
  }
  thread.state = State::kReady;
  self = &thread;
  switch_context(scheduler, thread.context);
  self = nullptr;
  if (thread.state == State::kDone) stacks.give_back(thread.stack);
}

static bool can_run(const Thread& thread) { return thread.state == State::kNew || thread.state == State::kReady; }

unsigned existing_lanes() {
  int size = std::min(kLanes, block.threads - self->warp * kLanes);
  return size == kLanes ? kAllLanes : (1u << size) - 1;
}

Thread& lane_of_mine(int lane) { return block.all[self->warp * kLanes + lane]; }

bool last_to_arrive(const char* operation, unsigned mask, void* arguments, bool whole_warp) {
  if (!(mask >> self->lane & 1)) {
    found("mask", "%s with mask 0x%08x, of which the calling lane %d isn't a part", operation, mask, self->lane);
  }
  unsigned exist = existing_lanes();
  if (whole_warp && exist != kAllLanes) found("divergence", "%s in a warp of fewer than 32 threads", operation);
  mask &= exist;
  self->operation = operation;
  self->mask = mask;
  self->arguments = arguments;
  Warp& warp = block.warps[self->warp];
  if (unsigned gone = warp.left & mask) {
    const Thread& other = lane_of_mine(__builtin_ctz(gone));
    found("left-early", "%s waits for lane %d, thread (%u,%u,%u), which has left the kernel", operation, other.lane,
          other.index.x, other.index.y, other.index.z);
  }
  unsigned others = mask & ~(1u << self->lane);
  bool complete = (warp.waiting & others) == others;
  for (unsigned left = complete ? others : 0; left; left &= left - 1) {
    const Thread& other = lane_of_mine(__builtin_ctz(left));
    complete &= other.operation == operation && other.mask == mask;
  }
  if (complete) return true;
  warp.waiting |= 1u << self->lane;
  wait_as(State::kAtWarp);
  return false;
}

void release(unsigned mask) {
  mask &= existing_lanes() & ~(1u << self->lane);
  block.warps[self->warp].waiting &= ~mask;
  for (; mask; mask &= mask - 1) lane_of_mine(__builtin_ctz(mask)).state = State::kReady;
}

// Lets a warp go as far as it can without the others: the greatest skew that hardware could show.
static bool drive(int warp, const int* lanes) {
  int first = warp * kLanes, size = std::min(kLanes, block.threads - first);
  bool progress = false;
  for (bool again = true; again && !abandoned;) {
    again = false;
    for (int i = 0; i < kLanes && !abandoned; i++) {
      if (lanes[i] < size && can_run(block.all[first + lanes[i]])) {
        run(block.all[first + lanes[i]]);
        again = progress = true;
      }
    }
  }
  return progress;
}

static void explain_deadlock() {
  const Thread *at_barrier = nullptr, *at_warp = nullptr, *done = nullptr;
  for (const Thread& thread : block.all) {
    if (thread.state == State::kAtBlock) at_barrier = &thread;
    if (thread.state == State::kAtWarp) at_warp = &thread;
    if (thread.state == State::kDone) done = &thread;
  }
  if (at_warp) {
    const Thread* first = &block.all[at_warp->warp * kLanes];
    for (unsigned left = at_warp->mask; left; left &= left - 1) {
      const Thread& other = first[__builtin_ctz(left)];
      if (other.state == State::kDone) {
        found("left-early", "thread (%u,%u,%u) waits in %s for lane %d, which has left the kernel", at_warp->index.x,
              at_warp->index.y, at_warp->index.z, at_warp->operation, other.lane);
      } else if (other.state == State::kAtBlock) {
        found("divergence", "thread (%u,%u,%u) waits in %s for lane %d, which waits at a barrier of the block",
              at_warp->index.x, at_warp->index.y, at_warp->index.z, at_warp->operation, other.lane);
      } else if (other.operation != at_warp->operation || other.mask != at_warp->mask) {
        found("divergence", "lanes of warp %d wait for each other: one in %s with mask 0x%08x, another in %s with mask 0x%08x",
              at_warp->warp, at_warp->operation, at_warp->mask, other.operation, other.mask);
      }
    }
  } else if (at_barrier && done) {
    found("left-early", "thread (%u,%u,%u) waits at a barrier of the block that thread (%u,%u,%u) left without",
          at_barrier->index.x, at_barrier->index.y, at_barrier->index.z, done->index.x, done->index.y, done->index.z);
  }
  found("divergence", "the threads of the block wait for each other");
}

// Opens the barrier that all threads wait at.
static void pass_barrier() {
  const Thread& first = block.all[0];
  int count = 0;
  for (const Thread& thread : block.all) {
    if (thread.site != first.site || thread.barrier != first.barrier) {
      found("divergence", "threads (%u,%u,%u) and (%u,%u,%u) wait at different barriers of the block", first.index.x,
            first.index.y, first.index.z, thread.index.x, thread.index.y, thread.index.z);
      return;
    }
    count += thread.predicate != 0;
  }
  int value = 0;
  if (first.barrier == SIM_SYNC_OR) value = count != 0;
  if (first.barrier == SIM_SYNC_AND) value = count == block.threads;
  if (first.barrier == SIM_SYNC_COUNT) value = count;
  for (Thread& thread : block.all) {
    thread.predicate = value;
    thread.state = State::kReady;
  }
  counters.barriers++;
  shadow_barrier();
}

static void begin(unsigned warps) {
  block.warps.resize(warps);
  for (Warp& warp : block.warps) {
    warp.now = 1;
    warp.full = 0;
    warp.waiting = warp.left = 0;
    warp.has_partial = false;
  }
  block.all.resize(block.threads);
  for (int i = 0; i < block.threads; i++) {
    Thread& thread = block.all[i];
    thread.state = State::kNew;
    thread.number = uint16_t(i);
    thread.lane = uint8_t(i % kLanes);
    thread.warp = uint16_t(i / kLanes);
    unsigned x = block.size.x, y = block.size.y;
    thread.index = {i % x, i / x % y, i / (x * y)};
    thread.open.clear();
    thread.committed.clear();
    thread.groups.clear();
  }
}

bool run_block(void (*kernel)(void**), void** arguments, unsigned schedule) {
  int warps = (block.threads + kLanes - 1) / kLanes;
  begin(warps);
  entry = kernel;
  entry_arguments = arguments;
  abandoned = false;
  counters.blocks++;
  Order order(schedule, warps);
  for (;;) {
    order.next();
    bool progress = false;
    for (int i = 0; i < warps && !abandoned; i++) progress |= drive(order.warps[i], order.lanes);
    if (abandoned) break;
    int done = 0, waiting = 0;
    for (const Thread& thread : block.all) {
      done += thread.state == State::kDone;
      waiting += thread.state == State::kAtBlock;
    }
    if (done == block.threads) return true;
    if (waiting == block.threads) {
      pass_barrier();
    } else if (!progress) {
      explain_deadlock();
    }
    if (has_finding()) break;
  }
  stacks.give_all_back();
  return false;
}

}  // namespace sim

using sim::block;
using sim::self;

extern "C" {
sim_index sim_thread_index() { return self->index; }
sim_index sim_block_index() { return block.index; }
sim_index sim_block_dim() { return block.size; }
sim_index sim_grid_dim() { return block.grid; }
void* sim_dynamic_shared() { return sim::dynamic_shared; }

int sim_barrier(sim_barrier_kind kind, int predicate) {
  self->site = __builtin_return_address(0);
  self->barrier = kind;
  self->predicate = predicate;
  sim::wait_as(sim::State::kAtBlock);
  return self->predicate;
}

void sim_trap() {
  sim::found("trap", "__trap()");
  sim::give_up();
}
}
