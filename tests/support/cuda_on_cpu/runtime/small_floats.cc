// Rounding to 16 bits where CPUs have no instruction for it: clang calls these functions, which are of a support library that isn't
// linked.
#include <cstdint>

// A float32 that keeps in its last bit whether anything was cut off, so that rounding it once more gives what rounding the double
// would have given.
static float to_odd(double value) {
  float narrow = float(value);
  uint32_t bits = __builtin_bit_cast(uint32_t, narrow);
  if (double(narrow) == value || value != value || (bits & 0x7f800000u) == 0x7f800000u) return narrow;
  double magnitude = value < 0 ? -value : value, kept = narrow < 0 ? -double(narrow) : double(narrow);
  if (kept > magnitude) bits--;  // towards zero
  return __builtin_bit_cast(float, bits | 1);
}

static __bf16 rounded(uint32_t bits) {
  bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  uint32_t even = bits + 0x7fffu + (bits >> 16 & 1);  // to nearest, ties to even
  return __builtin_bit_cast(__bf16, uint16_t((is_nan ? bits | 0x400000u : even) >> 16));
}

extern "C" {
__bf16 __truncsfbf2(float value) { return rounded(__builtin_bit_cast(uint32_t, value)); }
__bf16 __truncdfbf2(double value) { return rounded(__builtin_bit_cast(uint32_t, to_odd(value))); }
_Float16 __truncdfhf2(double value) { return _Float16(to_odd(value)); }
}
