// What kernels ask of a multiprocessor beyond CUDA C: copies to shared memory that run beside the arithmetic, matrices of shared
// memory into registers, products on tensor cores. Whatever holds PTX is in this file and nowhere else, so that tests can put
// functions of the same names in its place that run on a CPU.
//
// Shapes of fragments are those of the PTX ISA, "Matrix fragments for mma": lane = 4 g + q holds of a 16 x 32-byte tile of A the
// words (g, q), (g + 8, q), (g, q + 4), (g + 8, q + 4), of an 8-column tile of B the words (q, g), (q + 4, g) along k, and of the sums
// (g, 2 q), (g, 2 q + 1), (g + 8, 2 q), (g + 8, 2 q + 1). What an architecture lacks is computed otherwise, with the same result up
// to rounding: bfloat16 and tf32 products before sm_80 in float32, copies before sm_80 through registers.
#pragma once

typedef unsigned int gopt_word;

__device__ __forceinline__ unsigned gopt_shared_address(const void* pointer) {
  return (unsigned)__cvta_generic_to_shared(pointer);
}

// Copies BYTES (4, 8 or 16, both places aligned to them) to shared memory, or fills with zeros where `valid` is false; nothing is
// read then. The bytes are there after the gopt_copy_wait that covers them.
template <int BYTES>
__device__ __forceinline__ void gopt_copy_async(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  unsigned to = gopt_shared_address(shared);
  int size = valid ? BYTES : 0;
  if (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(size) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES), "r"(size) : "memory");
  }
#else
  gopt_word words[BYTES / 4] = {};
  if (valid) {
    if (BYTES == 16) {
      *(uint4*)words = *(const uint4*)global;
    } else if (BYTES == 8) {
      *(uint2*)words = *(const uint2*)global;
    } else {
      words[0] = *(const gopt_word*)global;
    }
  }
  if (BYTES == 16) {
    *(uint4*)shared = *(uint4*)words;
  } else if (BYTES == 8) {
    *(uint2*)shared = *(uint2*)words;
  } else {
    *(gopt_word*)shared = words[0];
  }
#endif
}
#define gopt_copy_async4 gopt_copy_async<4>
#define gopt_copy_async8 gopt_copy_async<8>
#define gopt_copy_async16 gopt_copy_async<16>

// Ends a group of copies.
__device__ __forceinline__ void gopt_copy_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all of this thread's groups but the last `left` (a constant below 8) have arrived.
template <int LEFT>
__device__ __forceinline__ void gopt_copy_wait_for() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}
#define gopt_copy_wait(left) gopt_copy_wait_for<left>()

// Four 8 x 16-byte matrices; lane 8 i + r gives the address of row r of matrix i (aligned to 16 bytes), and gets word q of row g.
__device__ __forceinline__ void gopt_load_matrix4(gopt_word* to, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(gopt_shared_address(row))
               : "memory");
}

// Two of them; lanes 16 and above give no address.
__device__ __forceinline__ void gopt_load_matrix2(gopt_word* to, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(gopt_shared_address(row))
               : "memory");
}

// Four 8 x 8 matrices of 16-bit elements, each transposed: a lane gets elements 2 q and 2 q + 1 of column g.
__device__ __forceinline__ void gopt_load_matrix4_transposed(gopt_word* to, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(gopt_shared_address(row))
               : "memory");
}

// float32 to the nearest tf32, ties away from zero, as the bits of a float32.
__device__ __forceinline__ gopt_word gopt_tf32(gopt_word bits) {
#if __CUDA_ARCH__ >= 800
  gopt_word rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
#else
  return bits;
#endif
}

// d += a b of float16, 16 x 8 x 16, sums in float32.
__device__ __forceinline__ void gopt_mma_f16(float* d, const gopt_word* a, const gopt_word* b) {
#if __CUDA_ARCH__ >= 800
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int half = 0; half < 2; half++) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}

// d += a b of bfloat16, 16 x 8 x 16, sums in float32.
__device__ __forceinline__ void gopt_mma_bf16(float* d, const gopt_word* a, const gopt_word* b) {
#if __CUDA_ARCH__ >= 800
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  gopt_lanes_mma_bf16(d, a, b);
#endif
}

// d += a b of tf32 (the upper 19 bits of a float32), 16 x 8 x 8, sums in float32.
__device__ __forceinline__ void gopt_mma_tf32(float* d, const gopt_word* a, const gopt_word* b) {
#if __CUDA_ARCH__ >= 800
  asm(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  gopt_lanes_mma_tf32(d, a, b);
#endif
}

// d += a b of bytes, 16 x 8 x 32, sums in int32 (modulo 2^32). A and B name the types of the operands, s8 or u8.
#if __CUDA_ARCH__ >= 800
#define GOPT_MMA_BYTES(NAME, A, B)                                                                                   \
  __device__ __forceinline__ void NAME(int* d, const gopt_word* a, const gopt_word* b) {                             \
    asm("mma.sync.aligned.m16n8k32.row.col.s32." A "." B                                                    \
                 ".s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"                                           \
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                \
  }
#else
#define GOPT_MMA_BYTES(NAME, A, B)                                                                                   \
  __device__ __forceinline__ void NAME(int* d, const gopt_word* a, const gopt_word* b) {                             \
    for (int i = 0; i < 4; i++) {                                                                                    \
      asm("mma.sync.aligned.m8n8k16.row.col.s32." A "." B ".s32 {%0,%1},{%2},{%3},{%0,%1};"                 \
                   : "+r"(d[2 * (i % 2)]), "+r"(d[2 * (i % 2) + 1])                                                  \
                   : "r"(a[i]), "r"(b[i / 2]));                                                                      \
    }                                                                                                                \
  }
#endif
GOPT_MMA_BYTES(gopt_mma_s8s8, "s8", "s8")
GOPT_MMA_BYTES(gopt_mma_u8s8, "u8", "s8")
GOPT_MMA_BYTES(gopt_mma_s8u8, "s8", "u8")
GOPT_MMA_BYTES(gopt_mma_u8u8, "u8", "u8")
