// Collectives of a warp: the last lane to arrive does the work of all.
#include <cstring>

#include "block.h"
#include "finding.h"

namespace sim {
namespace {

struct Exchange {
  unsigned long long value;  // given, then received
  int lane, width;
  int* all_equal;
};

Exchange& exchange_of(int lane) { return *static_cast<Exchange*>(lane_of_mine(lane).arguments); }

template <class F>
void for_lanes(unsigned mask, F f) {
  for (unsigned left = mask & existing_lanes(); left; left &= left - 1) f(__builtin_ctz(left));
}

// The lane that a shuffle reads, its own where the request leaves the segment of `width` lanes.
int source_lane(sim_shuffle_kind kind, int lane, const Exchange& exchange) {
  int width = exchange.width, base = lane / width * width, from = lane;
  switch (kind) {
    case SIM_SHUFFLE:
      return base + (exchange.lane & (width - 1));
    case SIM_SHUFFLE_UP:
      from = lane - exchange.lane;
      return from < base ? lane : from;
    case SIM_SHUFFLE_DOWN:
      from = lane + exchange.lane;
      return from >= base + width ? lane : from;
    case SIM_SHUFFLE_XOR:
      from = lane ^ exchange.lane;
      return from >= base + width ? lane : from;
  }
  return lane;
}

void shuffle_all(sim_shuffle_kind kind, unsigned mask) {
  unsigned long long values[kLanes];
  for_lanes(mask, [&](int lane) { values[lane] = exchange_of(lane).value; });
  for_lanes(mask, [&](int lane) {
    Exchange& mine = exchange_of(lane);
    int from = source_lane(kind, lane, mine);
    if (!(mask & existing_lanes() & (1u << from))) {
      found("mask", "lane %d shuffles from lane %d, which isn't in the mask 0x%08x", lane, from, mask);
      return;
    }
    mine.value = values[from];
  });
}

unsigned combined(sim_reduce_kind kind, unsigned x, unsigned y) {
  switch (kind) {
    case SIM_ADD: return x + y;
    case SIM_MIN: return int(x) < int(y) ? x : y;
    case SIM_MAX: return int(x) > int(y) ? x : y;
    case SIM_UNSIGNED_MIN: return x < y ? x : y;
    case SIM_UNSIGNED_MAX: return x > y ? x : y;
    case SIM_AND: return x & y;
    case SIM_OR: return x | y;
    case SIM_XOR: return x ^ y;
  }
  return 0;
}

// What lanes did before a __syncwarp is known to all its lanes from then on.
void order_lanes(unsigned mask) {
  Warp& warp = block.warps[self->warp];
  counters.warp_barriers++;
  warp.now++;
  if ((mask & existing_lanes()) == existing_lanes()) {
    warp.full = warp.now;
    return;
  }
  if (!warp.has_partial) {
    memset(warp.seen, 0, sizeof(warp.seen));
    warp.has_partial = true;
  }
  uint32_t known[kLanes] = {};
  for_lanes(mask, [&](int lane) {
    for (int other = 0; other < kLanes; other++) known[other] = std::max(known[other], warp.seen[lane][other]);
  });
  for_lanes(mask, [&](int lane) { known[lane] = warp.now; });
  for_lanes(mask, [&](int lane) { memcpy(warp.seen[lane], known, sizeof(known)); });
}

}  // namespace
}  // namespace sim

using namespace sim;

extern "C" {
void sim_warp_barrier(unsigned mask) {
  if (!last_to_arrive("__syncwarp", mask, nullptr, false)) return;
  order_lanes(mask);
  release(mask);
}

unsigned long long sim_shuffle(sim_shuffle_kind kind, unsigned mask, unsigned long long value, int lane, int width) {
  static const char* const names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
  if (width < 1 || width > kLanes || (width & (width - 1))) found("mask", "%s of width %d", names[kind], width);
  Exchange exchange{value, lane, width, nullptr};
  if (last_to_arrive(names[kind], mask, &exchange, false)) {
    shuffle_all(kind, mask);
    release(mask);
  }
  return exchange.value;
}

unsigned sim_vote(sim_vote_kind kind, unsigned mask, int predicate) {
  static const char* const names[] = {"__ballot_sync", "__any_sync", "__all_sync"};
  Exchange exchange{predicate != 0, 0, 0, nullptr};
  if (last_to_arrive(names[kind], mask, &exchange, false)) {
    unsigned votes = 0;
    for_lanes(mask, [&](int lane) { votes |= unsigned(exchange_of(lane).value) << lane; });
    unsigned all = mask & existing_lanes(), result = kind == SIM_BALLOT ? votes : kind == SIM_ANY ? votes != 0 : votes == all;
    for_lanes(mask, [&](int lane) { exchange_of(lane).value = result; });
    release(mask);
  }
  return unsigned(exchange.value);
}

unsigned sim_match(sim_match_kind kind, unsigned mask, unsigned long long value, int* all_equal) {
  Exchange exchange{value, 0, 0, all_equal};
  if (last_to_arrive(kind == SIM_MATCH_ANY ? "__match_any_sync" : "__match_all_sync", mask, &exchange, false)) {
    unsigned same[kLanes] = {}, all = mask & existing_lanes();
    for_lanes(mask, [&](int lane) {
      for_lanes(mask, [&](int other) {
        if (exchange_of(lane).value == exchange_of(other).value) same[lane] |= 1u << other;
      });
    });
    for_lanes(mask, [&](int lane) {
      Exchange& mine = exchange_of(lane);
      bool equal = same[lane] == all;
      mine.value = kind == SIM_MATCH_ANY ? same[lane] : equal ? all : 0;
      if (mine.all_equal) *mine.all_equal = equal;
    });
    release(mask);
  }
  return unsigned(exchange.value);
}

unsigned sim_reduce(sim_reduce_kind kind, unsigned mask, unsigned value) {
  static const char* const names[] = {"__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync",
                                      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",  "__reduce_xor_sync"};
  Exchange exchange{value, 0, 0, nullptr};
  if (last_to_arrive(names[kind], mask, &exchange, false)) {
    bool first = true;
    unsigned result = 0;
    for_lanes(mask, [&](int lane) {
      unsigned given = unsigned(exchange_of(lane).value);
      result = first ? given : combined(kind, result, given);
      first = false;
    });
    for_lanes(mask, [&](int lane) { exchange_of(lane).value = result; });
    release(mask);
  }
  return unsigned(exchange.value);
}

// The lanes that are at work: a GPU promises no more than that the caller is among them.
unsigned sim_active_mask() { return 1u << self->lane; }
}
