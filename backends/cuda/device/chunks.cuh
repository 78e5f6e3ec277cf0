// Several elements at once between memory and registers. Both places are aligned to as many bytes.
#pragma once

__device__ __forceinline__ void gopt_move4(void* to, const void* from) { *(unsigned int*)to = *(const unsigned int*)from; }
__device__ __forceinline__ void gopt_move8(void* to, const void* from) { *(uint2*)to = *(const uint2*)from; }
__device__ __forceinline__ void gopt_move16(void* to, const void* from) { *(uint4*)to = *(const uint4*)from; }

// Whether 0 <= at < extent.
__device__ __forceinline__ bool gopt_inside(int at, int extent) { return (unsigned int)at < (unsigned int)extent; }
