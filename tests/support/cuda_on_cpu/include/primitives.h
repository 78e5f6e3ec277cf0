// The functions of backends/cuda/device/primitives.cuh for a CPU: the same names and arguments, the PTX left to the runtime.
#pragma once

typedef unsigned int gopt_word;

static inline unsigned gopt_shared_address(const void* pointer) { return sim_shared_address(pointer); }

template <int BYTES>
static inline void gopt_copy_async(void* shared, const void* global, bool valid) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
#if __CUDA_ARCH__ >= 800
  sim_copy_async(shared, global, BYTES, valid);
#else
  if constexpr (BYTES == 16) {
    *(uint4*)shared = valid ? *(const uint4*)global : make_uint4(0, 0, 0, 0);
  } else if constexpr (BYTES == 8) {
    *(uint2*)shared = valid ? *(const uint2*)global : make_uint2(0, 0);
  } else {
    *(gopt_word*)shared = valid ? *(const gopt_word*)global : 0;
  }
#endif
}
#define gopt_copy_async4 gopt_copy_async<4>
#define gopt_copy_async8 gopt_copy_async<8>
#define gopt_copy_async16 gopt_copy_async<16>

static inline void gopt_copy_commit() { sim_copy_commit(); }

template <int LEFT>
static inline void gopt_copy_wait_for() {
  static_assert(LEFT >= 0 && LEFT < 8, "the groups that may be left are a small constant");
  sim_copy_wait(LEFT);
}
#define gopt_copy_wait(left) gopt_copy_wait_for<left>()

static inline SIM_TOGETHER void gopt_load_matrix4(gopt_word* to, const void* row) { sim_load_matrix(to, row, 4, false); }
static inline SIM_TOGETHER void gopt_load_matrix2(gopt_word* to, const void* row) { sim_load_matrix(to, row, 2, false); }
static inline SIM_TOGETHER void gopt_load_matrix4_transposed(gopt_word* to, const void* row) {
  sim_load_matrix(to, row, 4, true);
}

static inline gopt_word gopt_tf32(gopt_word bits) {
#if __CUDA_ARCH__ >= 800
  bool is_finite = (bits & 0x7f800000u) != 0x7f800000u;
  return is_finite ? (bits + 0x1000u) & 0xffffe000u : bits;  // half of a tf32's last place, then cut off: ties go away from zero
#else
  return bits;
#endif
}

#define SIM_PRODUCT(NAME, SUM, KIND)                                                            \
  static inline SIM_TOGETHER void NAME(SUM* d, const gopt_word* a, const gopt_word* b) {        \
    sim_mma(KIND, d, a, b);                                                                     \
  }
SIM_PRODUCT(gopt_mma_f16, float, SIM_F16)
#if __CUDA_ARCH__ < 800 && defined(GOPT_LANES_MULTIPLY)
static inline void gopt_mma_bf16(float* d, const gopt_word* a, const gopt_word* b) { gopt_lanes_mma_bf16(d, a, b); }
static inline void gopt_mma_tf32(float* d, const gopt_word* a, const gopt_word* b) { gopt_lanes_mma_tf32(d, a, b); }
#else
SIM_PRODUCT(gopt_mma_bf16, float, SIM_BF16)
SIM_PRODUCT(gopt_mma_tf32, float, __CUDA_ARCH__ >= 800 ? SIM_TF32 : SIM_F32)
#endif
SIM_PRODUCT(gopt_mma_s8s8, int, SIM_S8S8)
SIM_PRODUCT(gopt_mma_u8s8, int, SIM_U8S8)
SIM_PRODUCT(gopt_mma_s8u8, int, SIM_S8U8)
SIM_PRODUCT(gopt_mma_u8u8, int, SIM_U8U8)
#undef SIM_PRODUCT
