// Sums of which several blocks have each a part. Blocks write their parts to memory; the last one to arrive adds them up, in the order
// of the parts, so that results don't depend on which one that is.
#pragma once

// Whether this block is the last of `parts` at a counter, which is 0 before the first and after the last one. What all of them wrote
// before is visible to the last one behind it. For all threads of a block.
__device__ __forceinline__ bool gopt_arrives_last(int* counter, int parts) {
  __shared__ int arrived;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    arrived = atomicAdd(counter, 1);
  }
  __syncthreads();
  if (arrived != parts - 1) {
    return false;
  }
  __threadfence();
  if (threadIdx.x == 0) {
    *counter = 0;
  }
  return true;
}

// Adds four numbers that another block may have written.
__device__ __forceinline__ void gopt_add_float32(float* sums, const float* part) {
  float4 four = __ldcg((const float4*)part);
  sums[0] += four.x;
  sums[1] += four.y;
  sums[2] += four.z;
  sums[3] += four.w;
}
__device__ __forceinline__ void gopt_add_int32(int* sums, const int* part) {
  int4 four = __ldcg((const int4*)part);
  sums[0] += four.x;
  sums[1] += four.y;
  sums[2] += four.z;
  sums[3] += four.w;
}
