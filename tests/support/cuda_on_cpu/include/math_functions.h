// CUDA's math functions: the C library's. The approximate ones (__expf ...) are given the exact functions' values, which differ
// from a GPU's by less than tests that use them have to allow.
#pragma once

#define SIM_MATH1(NAME)                                                        \
  extern "C" double NAME(double) noexcept;                                     \
  extern "C" float NAME##f(float) noexcept;                                    \
  static inline float NAME(float x) { return NAME##f(x); }
#define SIM_MATH2(NAME)                                                        \
  extern "C" double NAME(double, double) noexcept;                             \
  extern "C" float NAME##f(float, float) noexcept;                             \
  static inline float NAME(float x, float y) { return NAME##f(x, y); }
SIM_MATH1(exp)
SIM_MATH1(exp2)
SIM_MATH1(expm1)
SIM_MATH1(log)
SIM_MATH1(log2)
SIM_MATH1(log10)
SIM_MATH1(log1p)
SIM_MATH1(sin)
SIM_MATH1(cos)
SIM_MATH1(tan)
SIM_MATH1(asin)
SIM_MATH1(acos)
SIM_MATH1(atan)
SIM_MATH1(sinh)
SIM_MATH1(cosh)
SIM_MATH1(tanh)
SIM_MATH1(asinh)
SIM_MATH1(acosh)
SIM_MATH1(atanh)
SIM_MATH1(sqrt)
SIM_MATH1(cbrt)
SIM_MATH1(floor)
SIM_MATH1(ceil)
SIM_MATH1(trunc)
SIM_MATH1(round)
SIM_MATH1(rint)
SIM_MATH1(nearbyint)
SIM_MATH1(fabs)
SIM_MATH1(erf)
SIM_MATH1(erfc)
SIM_MATH1(lgamma)
SIM_MATH1(tgamma)
SIM_MATH2(pow)
SIM_MATH2(fmod)
SIM_MATH2(atan2)
SIM_MATH2(fmin)
SIM_MATH2(fmax)
SIM_MATH2(copysign)
SIM_MATH2(hypot)
SIM_MATH2(remainder)
SIM_MATH2(fdim)
#undef SIM_MATH1
#undef SIM_MATH2
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
extern "C" float ldexpf(float, int) noexcept;
extern "C" float frexpf(float, int*) noexcept;
extern "C" float modff(float, float*) noexcept;
extern "C" float scalbnf(float, int) noexcept;
extern "C" long lrintf(float) noexcept;
extern "C" long lroundf(float) noexcept;
extern "C" void* memcpy(void*, const void*, size_t) noexcept;
extern "C" void* memset(void*, int, size_t) noexcept;
static inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
static inline float exp10f(float x) { return float(pow(10.0, double(x))); }
static inline float rsqrtf(float x) { return float(1.0 / sqrt(double(x))); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float normcdff(float x) { return float(0.5 * erfc(-double(x) * 0.70710678118654752)); }
static inline float fdividef(float x, float y) { return x / y; }
static inline void sincosf(float x, float* s, float* c) {
  *s = sinf(x);
  *c = cosf(x);
}
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
static inline int abs(int x) { return x < 0 ? -x : x; }
static inline long abs(long x) { return x < 0 ? -x : x; }
static inline bool isnan(float x) { return x != x; }
static inline bool isnan(double x) { return x != x; }
static inline bool isinf(float x) { return __builtin_isinf(x); }
static inline bool isinf(double x) { return __builtin_isinf(x); }
static inline bool isfinite(float x) { return __builtin_isfinite(x); }
static inline bool isfinite(double x) { return __builtin_isfinite(x); }
static inline bool signbit(float x) { return __builtin_signbit(x); }

#define SIM_EXTREMES(T)                                                        \
  static inline T min(T x, T y) { return y < x ? y : x; }                      \
  static inline T max(T x, T y) { return x < y ? y : x; }
SIM_EXTREMES(int)
SIM_EXTREMES(unsigned)
SIM_EXTREMES(long)
SIM_EXTREMES(unsigned long)
SIM_EXTREMES(long long)
SIM_EXTREMES(unsigned long long)
#undef SIM_EXTREMES
// CUDA's min and max of floats are fmin and fmax: a NaN gives the other operand.
static inline float min(float x, float y) { return fminf(x, y); }
static inline float max(float x, float y) { return fmaxf(x, y); }
static inline double min(double x, double y) { return fmin(x, y); }
static inline double max(double x, double y) { return fmax(x, y); }

static inline float __expf(float x) { return expf(x); }
static inline float __exp10f(float x) { return exp10f(x); }
static inline float __logf(float x) { return logf(x); }
static inline float __log2f(float x) { return log2f(x); }
static inline float __log10f(float x) { return log10f(x); }
static inline float __sinf(float x) { return sinf(x); }
static inline float __cosf(float x) { return cosf(x); }
static inline float __tanf(float x) { return tanf(x); }
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return rsqrtf(x); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }

// Rounded for sure, whatever the compiler may contract: the barrier keeps a product from becoming part of an fma.
static inline float __fmul_rn(float x, float y) {
  float product = x * y;
  __asm__("" : "+x"(product));
  return product;
}
static inline float __fadd_rn(float x, float y) {
  __asm__("" : "+x"(x), "+x"(y));
  return x + y;
}
static inline float __fsub_rn(float x, float y) {
  __asm__("" : "+x"(x), "+x"(y));
  return x - y;
}
static inline float __fdiv_rn(float x, float y) { return x / y; }

static inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
static inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
static inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
static inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
static inline long __double_as_longlong(double x) { return __builtin_bit_cast(long, x); }
static inline double __longlong_as_double(long x) { return __builtin_bit_cast(double, x); }
// Conversions to integers saturate on a GPU, and NaN gives 0.
static inline int sim_to_int(double x) {
  return x != x ? 0 : x >= 2147483647.0 ? 2147483647 : x <= -2147483648.0 ? -2147483647 - 1 : int(x);
}
static inline unsigned sim_to_unsigned(double x) { return !(x > 0) ? 0u : x >= 4294967295.0 ? 0xffffffffu : unsigned(x); }
static inline int __float2int_rn(float x) { return sim_to_int(rintf(x)); }
static inline int __float2int_rz(float x) { return sim_to_int(truncf(x)); }
static inline int __float2int_rd(float x) { return sim_to_int(floorf(x)); }
static inline int __float2int_ru(float x) { return sim_to_int(ceilf(x)); }
static inline unsigned __float2uint_rn(float x) { return sim_to_unsigned(rintf(x)); }
static inline unsigned __float2uint_rz(float x) { return sim_to_unsigned(truncf(x)); }
static inline float __int2float_rn(int x) { return float(x); }
static inline float __uint2float_rn(unsigned x) { return float(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __brev(unsigned x) { return __builtin_bitreverse32(x); }
static inline int __mulhi(int x, int y) { return int((long(x) * y) >> 32); }
static inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((uint64_t(x) * y) >> 32); }
static inline long __mul64hi(long x, long y) { return long((__int128(x) * y) >> 64); }
static inline uint64_t __umul64hi(uint64_t x, uint64_t y) { return uint64_t((unsigned __int128)(x) * y >> 64); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  uint64_t both = (uint64_t(y) << 32) | x;
  unsigned out = 0;
  for (int i = 0; i < 4; i++) {
    unsigned nibble = (selector >> (4 * i)) & 15, byte = unsigned(both >> (8 * (nibble & 7))) & 255;
    out |= (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
  }
  return out;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((uint64_t(high) << 32) | low) >> (shift & 31));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((((uint64_t(high) << 32) | low) << (shift & 31)) >> 32);
}
static inline int __dp4a(int x, int y, int sum) {
  for (int i = 0; i < 4; i++) sum += int(int8_t(x >> (8 * i))) * int(int8_t(y >> (8 * i)));
  return sum;
}
static inline unsigned __dp4a(unsigned x, unsigned y, unsigned sum) {
  for (int i = 0; i < 4; i++) sum += ((x >> (8 * i)) & 255) * ((y >> (8 * i)) & 255);
  return sum;
}
template <class T>
static inline T __ldg(const T* place) { return *place; }
template <class T>
static inline T __ldcg(const T* place) { return *place; }
template <class T>
static inline T __ldcs(const T* place) { return *place; }
template <class T>
static inline void __stcs(T* place, T value) { *place = value; }
template <class T>
static inline void __stcg(T* place, T value) { *place = value; }
static inline size_t __cvta_generic_to_shared(const void* place) { return sim_shared_address(place); }

// What CUDA has for both 16-bit types is computed in float32 and rounded, as it is there.
#define SIM_SMALL(NAME, OF)                                                    \
  static inline half NAME(half x) { return half(OF(float(x))); }               \
  static inline nv_bfloat16 NAME(nv_bfloat16 x) { return nv_bfloat16(OF(float(x))); }
SIM_SMALL(hexp, expf)
SIM_SMALL(hexp2, exp2f)
SIM_SMALL(hexp10, exp10f)
SIM_SMALL(hlog, logf)
SIM_SMALL(hlog2, log2f)
SIM_SMALL(hlog10, log10f)
SIM_SMALL(hsin, sinf)
SIM_SMALL(hcos, cosf)
SIM_SMALL(hsqrt, sqrtf)
SIM_SMALL(hrsqrt, rsqrtf)
SIM_SMALL(hfloor, floorf)
SIM_SMALL(hceil, ceilf)
SIM_SMALL(htrunc, truncf)
SIM_SMALL(hrint, rintf)
SIM_SMALL(htanh, tanhf)
#undef SIM_SMALL
static inline half hrcp(half x) { return half(1.0f / float(x)); }
