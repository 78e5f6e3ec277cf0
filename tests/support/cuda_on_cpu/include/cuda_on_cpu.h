// CUDA C as a dialect of C++: put in front of a kernel's source, this file and those it includes make clang take it.
// The headers here stand alone (no C++ standard library), as those that NVRTC gives to kernels do.
#pragma once

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

#include "interface.h"

#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
// Blocks run one after the other, so one copy of shared memory is enough. It has a section of its own, whose bounds the runtime
// knows; `extern __shared__` arrays are rewritten to calls of sim_dynamic_shared before the source comes here.
#define __shared__ static __attribute__((section("sim_shared"), used))

#define threadIdx sim_thread_index()
#define blockIdx sim_block_index()
#define blockDim sim_block_dim()
#define gridDim sim_grid_dim()
#define warpSize 32

#include "vector_types.h"

#include "cuda_fp16.h"

#include "cuda_bf16.h"

#include "math_functions.h"

#include "warp_functions.h"

#include "atomic_functions.h"

// The runtime calls a kernel through a function that takes the addresses of its arguments, and learns their sizes.
template <class T>
struct sim_bare {
  typedef T type;
};
template <class... P>
struct sim_signature {
  static constexpr int sizes[sizeof...(P) + 1] = {int(sizeof(P))..., 0};
};
template <int... I>
struct sim_numbers {};
template <int N, int... I>
struct sim_count : sim_count<N - 1, N - 1, I...> {};
template <int... I>
struct sim_count<0, I...> {
  typedef sim_numbers<I...> type;
};
template <class... P, int... I>
__attribute__((no_sanitize("thread"))) static void sim_call(void (*kernel)(P...), void** arguments, sim_numbers<I...>) {
  kernel(*(P*)arguments[I]...);
}
template <class... P>
static void sim_call(void (*kernel)(P...), void** arguments) {
  sim_call(kernel, arguments, typename sim_count<sizeof...(P)>::type());
}
template <class... P>
static const int* sim_sizes(void (*)(P...)) {
  return sim_signature<P...>::sizes;
}
// THREADS is what __launch_bounds__ promised, 0 without it.
#define SIM_KERNEL(NAME, THREADS)                                                         \
  extern "C" void sim_call_##NAME(void** arguments) { sim_call(NAME, arguments); }        \
  extern "C" const int* sim_sizes_##NAME() { return sim_sizes(NAME); }                    \
  extern "C" int sim_threads_##NAME() { return THREADS; }
