// bfloat16: clang's own type.
#pragma once

typedef __bf16 nv_bfloat16;
typedef nv_bfloat16 __nv_bfloat16;
SIM_WIDE2(nv_bfloat162, nv_bfloat16, unsigned)
typedef nv_bfloat162 __nv_bfloat162;

static inline float __bfloat162float(nv_bfloat16 x) { return float(x); }
static inline nv_bfloat16 __float2bfloat16(float x) { return nv_bfloat16(x); }
static inline nv_bfloat16 __float2bfloat16_rn(float x) { return nv_bfloat16(x); }
static inline nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return __builtin_bit_cast(nv_bfloat16, x); }
static inline unsigned short __bfloat16_as_ushort(nv_bfloat16 x) { return __builtin_bit_cast(unsigned short, x); }
static inline nv_bfloat162 __halves2bfloat162(nv_bfloat16 x, nv_bfloat16 y) { return nv_bfloat162(x, y); }
static inline nv_bfloat162 __bfloat162bfloat162(nv_bfloat16 x) { return nv_bfloat162(x, x); }
static inline nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return nv_bfloat162(nv_bfloat16(x), nv_bfloat16(y)); }
static inline nv_bfloat162 __float22bfloat162_rn(float2 x) { return __floats2bfloat162_rn(x.x, x.y); }
static inline float2 __bfloat1622float2(nv_bfloat162 x) { return float2(float(x.x), float(x.y)); }
static inline float __low2float(nv_bfloat162 x) { return float(x.x); }
static inline float __high2float(nv_bfloat162 x) { return float(x.y); }
static inline bool __hisnan(nv_bfloat16 x) { return x != x; }
static inline bool __hgt(nv_bfloat16 a, nv_bfloat16 b) { return a > b; }
static inline bool __hge(nv_bfloat16 a, nv_bfloat16 b) { return a >= b; }
static inline bool __hlt(nv_bfloat16 a, nv_bfloat16 b) { return a < b; }
static inline bool __hle(nv_bfloat16 a, nv_bfloat16 b) { return a <= b; }
static inline nv_bfloat16 __hadd(nv_bfloat16 a, nv_bfloat16 b) { return a + b; }
static inline nv_bfloat16 __hsub(nv_bfloat16 a, nv_bfloat16 b) { return a - b; }
static inline nv_bfloat16 __hmul(nv_bfloat16 a, nv_bfloat16 b) { return a * b; }
static inline nv_bfloat16 __hdiv(nv_bfloat16 a, nv_bfloat16 b) { return a / b; }
static inline nv_bfloat16 __hneg(nv_bfloat16 a) { return -a; }
static inline nv_bfloat16 __hmax(nv_bfloat16 a, nv_bfloat16 b) { return b != b || a > b ? a : b; }
static inline nv_bfloat16 __hmin(nv_bfloat16 a, nv_bfloat16 b) { return b != b || a < b ? a : b; }
static inline nv_bfloat16 __habs(nv_bfloat16 a) { return __ushort_as_bfloat16(__bfloat16_as_ushort(a) & 0x7fff); }
