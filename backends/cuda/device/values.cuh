// Functions of single values, which kernels call in place of what they write out as arithmetic for CPUs. No PTX.
//
// Elementary functions are CUDA's accurate ones, of at most 2 units in the last place; NaN, infinities and results below the normal
// numbers are as in C.
#pragma once

// Its argument. TVM takes the result for something that it knows nothing of.
template <typename T>
__device__ __forceinline__ T gopt_value(T x) {
  return x;
}

// -x; of 0 what C writes as -0.0, which TVM takes for 0.
template <typename T>
__device__ __forceinline__ T gopt_negated(T x) {
  return -x;
}

template <typename T>
__device__ __forceinline__ bool gopt_is_nan(T x) {
  return !(x == x);
}

// The larger or smaller of two, NaN if either is.
template <typename T>
__device__ __forceinline__ T gopt_max(T a, T b) {
  return a > b || a != a ? a : b;
}
template <typename T>
__device__ __forceinline__ T gopt_min(T a, T b) {
  return a < b || a != a ? a : b;
}

#define GOPT_FUNCTION(NAME, SINGLE, DOUBLE)                                    \
  __device__ __forceinline__ float NAME(float x) { return SINGLE(x); }         \
  __device__ __forceinline__ double NAME(double x) { return DOUBLE(x); }
GOPT_FUNCTION(gopt_exp, expf, exp)
GOPT_FUNCTION(gopt_expm1, expm1f, expm1)
GOPT_FUNCTION(gopt_log, logf, log)
GOPT_FUNCTION(gopt_log1p, log1pf, log1p)
GOPT_FUNCTION(gopt_tanh, tanhf, tanh)
GOPT_FUNCTION(gopt_erf, erff, erf)
#undef GOPT_FUNCTION

// a / b for 1 <= b <= 2, within 1 unit in the last place and without the branches that a division has for other numbers.
__device__ __forceinline__ float gopt_quotient(float a, float b) {
  float inverse = __fdividef(1.0f, b);
  return a * __fmaf_rn(__fmaf_rn(-b, inverse, 1.0f), inverse, inverse);
}
__device__ __forceinline__ double gopt_quotient(double a, double b) { return a / b; }

// 1 / (1 + e**-x); the exponential never overflows.
template <typename T>
__device__ __forceinline__ T gopt_sigmoid(T x) {
  T e = gopt_exp(x < T(0) ? x : -x);
  return gopt_quotient(x < T(0) ? e : T(1), T(1) + e);
}

// log(1 + e**x) without overflow.
template <typename T>
__device__ __forceinline__ T gopt_softplus(T x) {
  return (x < T(0) ? T(0) : x) + gopt_log1p(gopt_exp(x < T(0) ? x : -x));
}

// A product that no addition behind it is fused with.
__device__ __forceinline__ float gopt_product(float a, float b) { return __fmul_rn(a, b); }

// a * b + c, rounded once.
__device__ __forceinline__ float gopt_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// A float32 rounded to bfloat16, to even in the middle, as its bits; a NaN becomes the one of all ones, which is quiet.
__device__ __forceinline__ unsigned short gopt_bfloat16(float x) {
  unsigned bits = __float_as_uint(x);
  return x != x ? (unsigned short)0xffff : (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// A bfloat16 given as its bits.
__device__ __forceinline__ float gopt_from_bfloat16(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }

// Sums, differences and products of integers modulo their width.
template <typename T> struct gopt_unsigned;
template <> struct gopt_unsigned<int> { typedef unsigned type; };
template <> struct gopt_unsigned<unsigned> { typedef unsigned type; };
template <> struct gopt_unsigned<long> { typedef unsigned long type; };
template <> struct gopt_unsigned<unsigned long> { typedef unsigned long type; };
template <> struct gopt_unsigned<long long> { typedef unsigned long long type; };
template <> struct gopt_unsigned<unsigned long long> { typedef unsigned long long type; };
template <typename T>
__device__ __forceinline__ T gopt_add(T a, T b) {
  typedef typename gopt_unsigned<T>::type U;
  return (T)((U)a + (U)b);
}
template <typename T>
__device__ __forceinline__ T gopt_subtract(T a, T b) {
  typedef typename gopt_unsigned<T>::type U;
  return (T)((U)a - (U)b);
}
template <typename T>
__device__ __forceinline__ T gopt_multiply(T a, T b) {
  typedef typename gopt_unsigned<T>::type U;
  return (T)((U)a * (U)b);
}
