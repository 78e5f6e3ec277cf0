// Barriers, shuffles, votes.
#pragma once

// Macros, so that the runtime sees by the return address which barrier of the source a thread is at.
#define __syncthreads() sim_barrier(SIM_SYNC, 0)
#define __syncthreads_or(x) sim_barrier(SIM_SYNC_OR, x)
#define __syncthreads_and(x) sim_barrier(SIM_SYNC_AND, x)
#define __syncthreads_count(x) sim_barrier(SIM_SYNC_COUNT, x)
static inline SIM_TOGETHER void __syncwarp(unsigned mask = 0xffffffffu) { sim_warp_barrier(mask); }

template <int BYTES>
struct sim_bits;
template <>
struct sim_bits<2> {
  typedef unsigned short type;
};
template <>
struct sim_bits<4> {
  typedef unsigned type;
};
template <>
struct sim_bits<8> {
  typedef unsigned long type;
};
template <class T>
static inline SIM_TOGETHER T sim_shuffled(sim_shuffle_kind kind, unsigned mask, T value, int lane, int width) {
  typedef typename sim_bits<sizeof(T)>::type Bits;
  Bits bits;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = Bits(sim_shuffle(kind, mask, bits, lane, width));
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}
#define SIM_SHUFFLES(NAME, KIND)                                                                      \
  template <class T>                                                                                  \
  static inline SIM_TOGETHER T NAME(unsigned mask, T value, int lane, int width = 32) {               \
    return sim_shuffled(KIND, mask, value, lane, width);                                              \
  }
SIM_SHUFFLES(__shfl_sync, SIM_SHUFFLE)
SIM_SHUFFLES(__shfl_up_sync, SIM_SHUFFLE_UP)
SIM_SHUFFLES(__shfl_down_sync, SIM_SHUFFLE_DOWN)
SIM_SHUFFLES(__shfl_xor_sync, SIM_SHUFFLE_XOR)
#undef SIM_SHUFFLES

static inline SIM_TOGETHER unsigned __ballot_sync(unsigned mask, int x) { return sim_vote(SIM_BALLOT, mask, x); }
static inline SIM_TOGETHER int __any_sync(unsigned mask, int x) { return sim_vote(SIM_ANY, mask, x); }
static inline SIM_TOGETHER int __all_sync(unsigned mask, int x) { return sim_vote(SIM_ALL, mask, x); }
template <class T>
static inline SIM_TOGETHER unsigned __match_any_sync(unsigned mask, T value) {
  typename sim_bits<sizeof(T)>::type bits;
  __builtin_memcpy(&bits, &value, sizeof(T));
  return sim_match(SIM_MATCH_ANY, mask, bits, nullptr);
}
template <class T>
static inline SIM_TOGETHER unsigned __match_all_sync(unsigned mask, T value, int* all_equal) {
  typename sim_bits<sizeof(T)>::type bits;
  __builtin_memcpy(&bits, &value, sizeof(T));
  return sim_match(SIM_MATCH_ALL, mask, bits, all_equal);
}
static inline SIM_TOGETHER int __reduce_add_sync(unsigned mask, int x) { return sim_reduce(SIM_ADD, mask, x); }
static inline SIM_TOGETHER unsigned __reduce_add_sync(unsigned mask, unsigned x) { return sim_reduce(SIM_ADD, mask, x); }
static inline SIM_TOGETHER int __reduce_min_sync(unsigned mask, int x) { return sim_reduce(SIM_MIN, mask, x); }
static inline SIM_TOGETHER int __reduce_max_sync(unsigned mask, int x) { return sim_reduce(SIM_MAX, mask, x); }
static inline SIM_TOGETHER unsigned __reduce_min_sync(unsigned m, unsigned x) { return sim_reduce(SIM_UNSIGNED_MIN, m, x); }
static inline SIM_TOGETHER unsigned __reduce_max_sync(unsigned m, unsigned x) { return sim_reduce(SIM_UNSIGNED_MAX, m, x); }
static inline SIM_TOGETHER unsigned __reduce_and_sync(unsigned mask, unsigned x) { return sim_reduce(SIM_AND, mask, x); }
static inline SIM_TOGETHER unsigned __reduce_or_sync(unsigned mask, unsigned x) { return sim_reduce(SIM_OR, mask, x); }
static inline SIM_TOGETHER unsigned __reduce_xor_sync(unsigned mask, unsigned x) { return sim_reduce(SIM_XOR, mask, x); }
static inline unsigned __activemask() { return sim_active_mask(); }
