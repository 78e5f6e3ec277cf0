// float16: clang's own type, which rounds after every operation (the build asks for no excess precision).
#pragma once

typedef _Float16 half;
typedef half __half;
SIM_WIDE2(half2, half, unsigned)
typedef half2 __half2;
struct __half_raw {
  unsigned short x;
};

static inline float __half2float(half x) { return float(x); }
static inline half __float2half(float x) { return half(x); }
static inline half __float2half_rn(float x) { return half(x); }
static inline half __double2half(double x) { return half(x); }
static inline half __int2half_rn(int x) { return half(x); }
static inline half __ushort_as_half(unsigned short x) { return __builtin_bit_cast(half, x); }
static inline half __short_as_half(short x) { return __builtin_bit_cast(half, x); }
static inline unsigned short __half_as_ushort(half x) { return __builtin_bit_cast(unsigned short, x); }
static inline short __half_as_short(half x) { return __builtin_bit_cast(short, x); }
static inline half2 __halves2half2(half x, half y) { return half2(x, y); }
static inline half2 __half2half2(half x) { return half2(x, x); }
static inline half2 __floats2half2_rn(float x, float y) { return half2(half(x), half(y)); }
static inline half2 __float2half2_rn(float x) { return half2(half(x), half(x)); }
static inline half2 __float22half2_rn(float2 x) { return half2(half(x.x), half(x.y)); }
static inline float2 __half22float2(half2 x) { return float2(float(x.x), float(x.y)); }
static inline half __low2half(half2 x) { return x.x; }
static inline half __high2half(half2 x) { return x.y; }
static inline float __low2float(half2 x) { return float(x.x); }
static inline float __high2float(half2 x) { return float(x.y); }

static inline bool __hisnan(half x) { return x != x; }
static inline bool __hisinf(half x) { return __builtin_isinf(float(x)); }
static inline bool __hgt(half a, half b) { return a > b; }
static inline bool __hge(half a, half b) { return a >= b; }
static inline bool __hlt(half a, half b) { return a < b; }
static inline bool __hle(half a, half b) { return a <= b; }
static inline bool __heq(half a, half b) { return a == b; }
static inline bool __hne(half a, half b) { return a != b; }
static inline half __hadd(half a, half b) { return a + b; }
static inline half __hsub(half a, half b) { return a - b; }
static inline half __hmul(half a, half b) { return a * b; }
static inline half __hdiv(half a, half b) { return a / b; }
static inline half __hneg(half a) { return -a; }
static inline half __habs(half a) { return __ushort_as_half(__half_as_ushort(a) & 0x7fff); }
static inline half __hfma(half a, half b, half c) { return half(float(a) * float(b) + float(c)); }
static inline half __hmax(half a, half b) { return b != b || a > b ? a : b; }
static inline half __hmin(half a, half b) { return b != b || a < b ? a : b; }
static inline half __hmax_nan(half a, half b) { return a != a || a > b ? a : b; }
static inline half __hmin_nan(half a, half b) { return a != a || a < b ? a : b; }

#define SIM_PAIRS(NAME, EACH)                                                                             \
  static inline half2 NAME(half2 a, half2 b) { return half2(EACH(a.x, b.x), EACH(a.y, b.y)); }
SIM_PAIRS(__hadd2, __hadd)
SIM_PAIRS(__hsub2, __hsub)
SIM_PAIRS(__hmul2, __hmul)
SIM_PAIRS(__h2div, __hdiv)
SIM_PAIRS(__hmax2, __hmax)
SIM_PAIRS(__hmin2, __hmin)
SIM_PAIRS(__hmax2_nan, __hmax_nan)
SIM_PAIRS(__hmin2_nan, __hmin_nan)
SIM_PAIRS(operator+, __hadd)
SIM_PAIRS(operator-, __hsub)
SIM_PAIRS(operator*, __hmul)
SIM_PAIRS(operator/, __hdiv)
#undef SIM_PAIRS
static inline half2 __hfma2(half2 a, half2 b, half2 c) { return half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)); }
static inline half2 __hneg2(half2 a) { return half2(-a.x, -a.y); }
static inline half2 __habs2(half2 a) { return half2(__habs(a.x), __habs(a.y)); }
