// What a kernel that was compiled for the CPU asks of the runtime that runs it (../runtime). Plain C names, so that a kernel's
// shared library finds them in the runtime's when it is loaded.
#pragma once

struct sim_index {
  unsigned x, y, z;
};

// Every thread of the warp or block must come to the same call: the compiler may not copy such a call into both arms of a
// branch.
#define SIM_TOGETHER __attribute__((convergent))

extern "C" {
sim_index sim_thread_index() __attribute__((const));
sim_index sim_block_index() __attribute__((const));
sim_index sim_block_dim() __attribute__((const));
sim_index sim_grid_dim() __attribute__((const));
void* sim_dynamic_shared() __attribute__((const));

// Block barriers: what becomes of the predicates of all threads.
enum sim_barrier_kind { SIM_SYNC, SIM_SYNC_OR, SIM_SYNC_AND, SIM_SYNC_COUNT };
int sim_barrier(sim_barrier_kind kind, int predicate) SIM_TOGETHER;

void sim_warp_barrier(unsigned mask) SIM_TOGETHER;
enum sim_shuffle_kind { SIM_SHUFFLE, SIM_SHUFFLE_UP, SIM_SHUFFLE_DOWN, SIM_SHUFFLE_XOR };
unsigned long long sim_shuffle(sim_shuffle_kind kind, unsigned mask, unsigned long long value, int lane, int width) SIM_TOGETHER;
enum sim_vote_kind { SIM_BALLOT, SIM_ANY, SIM_ALL };
unsigned sim_vote(sim_vote_kind kind, unsigned mask, int predicate) SIM_TOGETHER;
enum sim_match_kind { SIM_MATCH_ANY, SIM_MATCH_ALL };
unsigned sim_match(sim_match_kind kind, unsigned mask, unsigned long long value, int* all_equal) SIM_TOGETHER;
enum sim_reduce_kind { SIM_ADD, SIM_MIN, SIM_MAX, SIM_UNSIGNED_MIN, SIM_UNSIGNED_MAX, SIM_AND, SIM_OR, SIM_XOR };
unsigned sim_reduce(sim_reduce_kind kind, unsigned mask, unsigned value) SIM_TOGETHER;
unsigned sim_active_mask();

// Checks an atomic access; the caller then reads and writes the place, as nothing runs beside it.
void sim_atomic(void* place, int bytes);
void sim_fence();
[[noreturn]] void sim_trap();

void sim_copy_async(void* shared, const void* global, int bytes, bool valid);
void sim_copy_commit();
void sim_copy_wait(int left);
unsigned sim_shared_address(const void* place);
void sim_load_matrix(unsigned* to, const void* row, int matrices, bool transposed) SIM_TOGETHER;
enum sim_product { SIM_F16, SIM_BF16, SIM_TF32, SIM_F32, SIM_S8S8, SIM_U8S8, SIM_S8U8, SIM_U8U8 };
void sim_mma(sim_product kind, void* sums, const unsigned* a, const unsigned* b) SIM_TOGETHER;
}
