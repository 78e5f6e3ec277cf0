// Values that the threads of a warp or of a block have in common. No PTX.
#pragma once

// How two values are combined, and a value that changes nothing.
struct gopt_sum {
  template <typename T> static __device__ __forceinline__ T of(T a, T b) { return a + b; }
};
struct gopt_prod {
  template <typename T> static __device__ __forceinline__ T of(T a, T b) { return a * b; }
};
// NaN where either is
struct gopt_maximum {
  template <typename T> static __device__ __forceinline__ T of(T a, T b) { return gopt_max<T>(a, b); }
};
struct gopt_minimum {
  template <typename T> static __device__ __forceinline__ T of(T a, T b) { return gopt_min<T>(a, b); }
};
struct gopt_any {
  template <typename T> static __device__ __forceinline__ T of(T a, T b) { return a || b; }
};
struct gopt_every {
  template <typename T> static __device__ __forceinline__ T of(T a, T b) { return a && b; }
};

// What a value is exchanged as between the threads of a warp: there is nothing narrower than 32 bits for integers.
template <typename T> struct gopt_exchanged { typedef T type; };
template <> struct gopt_exchanged<bool> { typedef int type; };
template <> struct gopt_exchanged<signed char> { typedef int type; };
template <> struct gopt_exchanged<unsigned char> { typedef int type; };
template <> struct gopt_exchanged<short> { typedef int type; };
template <> struct gopt_exchanged<unsigned short> { typedef int type; };

// What COUNT neighbouring threads of a warp (1, 2, 4, ... 32) have, combined; all of them get it. All threads of the warp call it.
template <typename KIND, int COUNT, typename T>
__device__ __forceinline__ T gopt_of_lanes(T x) {
#pragma unroll
  for (int step = COUNT / 2; step > 0; step /= 2) {
    x = KIND::of(x, (T)__shfl_xor_sync(0xffffffffu, (typename gopt_exchanged<T>::type)x, step));
  }
  return x;
}

// What all THREADS of a block (a multiple of 32) have, combined; all of them get it. `shared` has room for 32 values and may be used
// again at once. Sums are added up in the same order whatever the threads do first.
template <typename KIND, int THREADS, typename T>
__device__ __forceinline__ T gopt_of_block(T x, T* shared) {
  x = gopt_of_lanes<KIND, 32>(x);
  if (THREADS == 32) return x;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[0];
#pragma unroll
  for (int warp = 1; warp < THREADS / 32; warp++) x = KIND::of(x, shared[warp]);
  __syncthreads();
  return x;
}

// The same of COUNT neighbouring threads: part of a warp, or the whole block.
template <typename KIND, int COUNT, typename T>
__device__ __forceinline__ T gopt_of_threads(T x, T* shared) {
  return COUNT > 32 ? gopt_of_block<KIND, COUNT>(x, shared) : gopt_of_lanes<KIND, (COUNT < 32 ? COUNT : 32)>(x);
}
