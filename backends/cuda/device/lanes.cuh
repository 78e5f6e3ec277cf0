// Products of fragments by the lanes themselves, where there are no tensor cores for a type: each lane fetches what the others hold. The
// fragments are those of primitives.cuh.
#pragma once
#define GOPT_LANES_MULTIPLY 1

__device__ __forceinline__ void gopt_lanes_mma_bf16(float* d, const unsigned int* a, const unsigned int* b) {
  int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
#pragma unroll
  for (int word = 0; word < 8; word++) {
    int from = word % 4, register_ = word / 4;
    unsigned int rows[2], columns[2];
    for (int i = 0; i < 2; i++) {
      rows[i] = __shfl_sync(0xffffffffu, a[2 * register_ + i], 4 * g + from);
      columns[i] = __shfl_sync(0xffffffffu, b[register_], 4 * (2 * q + i) + from);
    }
    for (int i = 0; i < 4; i++) {
      unsigned int x = rows[i / 2], y = columns[i % 2];
      d[i] += __uint_as_float(x << 16) * __uint_as_float(y << 16);
      d[i] += __uint_as_float(x & 0xffff0000u) * __uint_as_float(y & 0xffff0000u);
    }
  }
}

__device__ __forceinline__ void gopt_lanes_mma_tf32(float* d, const unsigned int* a, const unsigned int* b) {
  int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
#pragma unroll
  for (int k = 0; k < 8; k++) {
    int from = k % 4, register_ = k / 4;
    float rows[2], columns[2];
    for (int i = 0; i < 2; i++) {
      rows[i] = __uint_as_float(__shfl_sync(0xffffffffu, a[2 * register_ + i], 4 * g + from));
      columns[i] = __uint_as_float(__shfl_sync(0xffffffffu, b[register_], 4 * (2 * q + i) + from));
    }
    for (int i = 0; i < 4; i++) d[i] += rows[i / 2] * columns[i % 2];
  }
}
