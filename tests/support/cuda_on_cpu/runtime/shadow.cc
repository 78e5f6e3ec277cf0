#include "shadow.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "block.h"
#include "finding.h"

namespace sim {

bool checking = true;
int running_device = -1;

// A launch that accesses memory more often than this won't end.
constexpr long kMostAccesses = 20'000'000'000;
static long accesses_before;

static uint32_t epoch, block_start, launch_start;
// Where each block of the launch began, so that an epoch tells its block; and the blocks whose doings this one may know of.
static std::vector<uint32_t> block_starts;
static std::vector<bool> acquired;
static std::map<size_t, std::vector<bool>> released;  // by the address of an atomic
static bool has_fence;

void shadow_launch() {
  launch_start = ++epoch;
  accesses_before = counters.accesses;
  block_starts.clear();
  released.clear();
}

void shadow_block() {
  block_start = ++epoch;
  block_starts.push_back(epoch);
  acquired.clear();
  has_fence = false;
}

void shadow_barrier() { ++epoch; }

void shadow_fence() { has_fence = true; }

static size_t block_of(uint32_t when) {
  return std::upper_bound(block_starts.begin(), block_starts.end(), when) - block_starts.begin() - 1;
}

// An atomic access hands on what its block did before a fence, and learns what others handed on there.
static void synchronise_blocks(size_t address) {
  auto at = released.find(address);
  if (at != released.end()) {
    acquired.resize(std::max(acquired.size(), at->second.size()));
    for (size_t i = 0; i < at->second.size(); i++) acquired[i] = acquired[i] || at->second[i];
  }
  if (!has_fence) return;
  std::vector<bool>& given = released[address];
  given.resize(block_starts.size());
  for (size_t i = 0; i < acquired.size(); i++) given[i] = given[i] || acquired[i];
  given[block_starts.size() - 1] = true;
}

static bool is_of_unknown_block(uint32_t when) {
  if (when < launch_start || when >= block_start) return false;
  size_t other = block_of(when);
  return other >= acquired.size() || !acquired[other];
}

// The time before which the running thread knows what `lane` of its warp did.
static uint32_t known_until(const Warp& warp, int lane) {
  return warp.has_partial ? std::max(warp.full, warp.seen[self->lane][lane]) : warp.full;
}

struct Place {
  const Region* region;
  size_t address;
};

static void say_place(const Place& place, char* text, size_t size) {
  snprintf(text, size, "%s+%zu", place.region->name, place.address - place.region->base);
}

static void race(const Place& place, const char* mine, const char* theirs, int thread, bool other_block) {
  char where[300], who[60];
  say_place(place, where, sizeof(where));
  if (other_block) {
    snprintf(who, sizeof(who), "another block");
  } else if (thread < 0) {
    snprintf(who, sizeof(who), "threads of other warps");
  } else {
    snprintf(who, sizeof(who), "thread %d of the block", thread);
  }
  found("race", "%s %s, which %s %s without a barrier between them", mine, where, who, theirs);
}

static void check_write_before(const Cell& cell, const Place& place, Access access) {
  const char* verb = access == Access::kRead || access == Access::kWarpRead ? "reads" : "writes";
  if (access == Access::kAtomic && cell.by_atomic) return;
  if (cell.write_epoch == epoch) {
    if (cell.write_thread == self->number && access != Access::kWarpRead) return;
    bool same_warp = cell.write_thread / kLanes == self->warp;
    const Warp& warp = block.warps[self->warp];
    uint32_t known = access == Access::kWarpRead ? warp.full : known_until(warp, cell.write_thread % kLanes);
    if (!same_warp || cell.write_time >= known) race(place, verb, "writes", cell.write_thread, false);
  } else if (!place.region->is_shared && is_of_unknown_block(cell.write_epoch)) {
    race(place, verb, "writes", 0, true);
  }
}

static void check_reads_before(const Cell& cell, const Place& place) {
  if (cell.read_epoch == epoch) {
    if (cell.read_warp == kSeveralWarps) race(place, "writes", "read", -1, false);
    if (cell.read_warp != self->warp) {
      race(place, "writes", "reads", cell.read_warp * kLanes + __builtin_ctz(cell.read_lanes | 1u << 31), false);
    }
    const Warp& warp = block.warps[self->warp];
    for (unsigned left = cell.read_lanes & ~(1u << self->lane); left; left &= left - 1) {
      int lane = __builtin_ctz(left);
      if (cell.read_time < known_until(warp, lane)) continue;
      race(place, "writes", "reads", self->warp * kLanes + lane, false);
    }
  }
  if (!place.region->is_shared && is_of_unknown_block(cell.first_read)) race(place, "writes", "reads", 0, true);
}

static void remember_read(Cell& cell, unsigned lanes) {
  const Warp& warp = block.warps[self->warp];
  if (cell.first_read < launch_start) cell.first_read = epoch;
  if (cell.read_epoch != epoch) {
    cell.read_epoch = epoch;
    cell.read_warp = self->warp;
    cell.read_lanes = lanes;
  } else if (cell.read_warp != self->warp) {
    cell.read_warp = kSeveralWarps;
  } else {
    // what was read before a __syncwarp of the whole warp is ordered before all that it does from then on
    cell.read_lanes = cell.read_time < warp.full ? lanes : cell.read_lanes | lanes;
  }
  cell.read_time = warp.now;
}

// Whether a copy of this block will write the place: what an earlier block or launch didn't wait for is forgotten.
static bool is_pending(const Cell& cell) { return cell.pending && cell.write_epoch >= block_start; }

static void check_cell(Cell& cell, const Place& place, Access access) {
  if (access == Access::kRead || access == Access::kWarpRead) {
    if (__builtin_expect(is_pending(cell), 0)) {
      char where[300];
      say_place(place, where, sizeof(where));
      found("not-arrived", "reads %s, where an asynchronous copy of thread %d hasn't arrived", where, cell.pending - 1);
    }
    if (place.region->is_shared && cell.write_epoch < block_start) {
      char where[300];
      say_place(place, where, sizeof(where));
      found("uninitialised", "reads %s, shared memory that no thread of the block wrote", where);
    }
    check_write_before(cell, place, access);
    remember_read(cell, access == Access::kWarpRead ? kAllLanes : 1u << self->lane);
    return;
  }
  if (access != Access::kArrival) {
    if (is_pending(cell)) {
      char where[300];
      say_place(place, where, sizeof(where));
      found("race", "writes %s, where an asynchronous copy of thread %d hasn't arrived", where, cell.pending - 1);
    }
    check_write_before(cell, place, access);
    check_reads_before(cell, place);
  }
  cell.write_epoch = epoch;
  cell.write_time = block.warps[self->warp].now;
  cell.write_thread = self->number;
  cell.by_atomic = access == Access::kAtomic;
  cell.pending = access == Access::kCopyTo ? self->number + 1 : 0;
}

static void check_words(const Region& region, size_t address, size_t bytes, Access access) {
  Shadow& shadow = *region.shadow;
  for (size_t end = address + bytes; address < end;) {
    size_t offset = address - shadow.base, inside = offset & 3, part = std::min<size_t>(4 - inside, end - address);
    Cell& word = shadow.words[offset / 4];
    if (part == 4 && !word.is_split) {
      check_cell(word, {&region, address}, access);
    } else {
      Cell* cells = shadow.bytes + (offset - inside);
      if (!word.is_split) {
        std::fill(cells, cells + 4, word);
        word.is_split = true;
      }
      for (size_t i = 0; i < part; i++) check_cell(cells[inside + i], {&region, address + i}, access);
    }
    address += part;
  }
}

static void report_outside(size_t address, size_t bytes, Access access) {
  const char* verb = access == Access::kRead || access == Access::kWarpRead ? "reads" : "writes";
  if (shared.contains(address)) {
    const Region* nearest = nullptr;
    for (const Region& array : shared.arrays) {
      if (array.base <= address && (!nearest || array.base > nearest->base)) nearest = &array;
    }
    if (nearest) {
      found("bounds", "%s %zu bytes at %s+%zu, which has %zu bytes of shared memory", verb, bytes, nearest->name,
            address - nearest->base, nearest->size);
    }
    found("bounds", "%s %zu bytes of shared memory that no array of the kernel owns", verb, bytes);
  }
  const Region* nearest = allocations.nearest(address);
  if (!nearest) found("bounds", "%s %zu bytes at address 0x%zx, below all memory of the device", verb, bytes, address);
  found("bounds", "%s %zu bytes at %s+%zu, which has %zu bytes", verb, bytes, nearest->name, address - nearest->base, nearest->size);
}

void check(size_t address, size_t bytes, Access access, bool must_align) {
  if (!self || stacks.contains(address)) return;
  if (must_align && address & (bytes - 1)) {
    found("misaligned", "accesses %zu bytes at address 0x%zx, no multiple of their size", bytes, address);
  }
  if (++counters.accesses - accesses_before > kMostAccesses) found("endless", "more than %ld accesses", kMostAccesses);
  const Region* region = shared.contains(address) ? shared.find(address) : allocations.find(address);
  if (!region || !region->contains(address, bytes)) report_outside(address, bytes, access);
  if (region->device >= 0 && running_device >= 0 && region->device != running_device) {
    found("bounds", "accesses %s on device %d", region->name, running_device);
  }
  if (bytes == 16) counters.wide_accesses++;
  if (access == Access::kAtomic) synchronise_blocks(address);
  check_words(*region, address, bytes, access);
}

}  // namespace sim

using sim::Access;
using sim::check;

// What clang's -fsanitize=thread calls before every access; its own runtime isn't linked. An access that the compiler knows to be
// less aligned than its size is made of smaller ones on a GPU.
extern "C" {
#define SIM_ACCESS(SIZE)                                                                                                  \
  void __tsan_read##SIZE(void* place) { check(reinterpret_cast<size_t>(place), SIZE, Access::kRead, true); }              \
  void __tsan_write##SIZE(void* place) { check(reinterpret_cast<size_t>(place), SIZE, Access::kWrite, true); }            \
  void __tsan_unaligned_read##SIZE(void* place) { check(reinterpret_cast<size_t>(place), SIZE, Access::kRead, false); }   \
  void __tsan_unaligned_write##SIZE(void* place) { check(reinterpret_cast<size_t>(place), SIZE, Access::kWrite, false); }
SIM_ACCESS(1)
SIM_ACCESS(2)
SIM_ACCESS(4)
SIM_ACCESS(8)
SIM_ACCESS(16)
void __tsan_init() {}
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  if (bytes) {
    check(reinterpret_cast<size_t>(from), bytes, Access::kRead, false);
    check(reinterpret_cast<size_t>(to), bytes, Access::kWrite, false);
  }
  return __builtin_memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  if (bytes) {
    check(reinterpret_cast<size_t>(from), bytes, Access::kRead, false);
    check(reinterpret_cast<size_t>(to), bytes, Access::kWrite, false);
  }
  return __builtin_memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  if (bytes) check(reinterpret_cast<size_t>(to), bytes, Access::kWrite, false);
  return __builtin_memset(to, value, bytes);
}

void sim_atomic(void* place, int bytes) {
  if (sim::checking) check(reinterpret_cast<size_t>(place), bytes, Access::kAtomic, true);
}
void sim_fence() { sim::shadow_fence(); }
}
