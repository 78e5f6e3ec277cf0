"""What NVRTC reads in place of headers of CUDA's C++ library that TVM's sources include.

The real ones bring every small float type along, and take five times as long to read as a small model's kernels to compile; a lock
that NVRTC holds meanwhile keeps two threads from compiling at once.
"""

from __future__ import annotations

PREAMBLE = """\
#define INFINITY (__int_as_float(0x7f800000))
#define NAN (__int_as_float(0x7fffffff))
"""
"""In front of every source: what it takes from headers of the host's C library, which NVRTC doesn't read."""

_INTEGERS = """\
#pragma once
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
namespace cuda { namespace std {
using ::int8_t; using ::int16_t; using ::int32_t; using ::int64_t;
using ::uint8_t; using ::uint16_t; using ::uint32_t; using ::uint64_t;
} }
"""

_TRAITS = """\
#pragma once
namespace cuda { namespace std {
template <bool B> struct graphopt_truth { static constexpr bool value = B; };
template <class A, class B> inline constexpr bool is_same_v = false;
template <class A> inline constexpr bool is_same_v<A, A> = true;
template <class A, class B> struct is_same : graphopt_truth<is_same_v<A, B>> {};
template <class A, class... Bs> inline constexpr bool graphopt_any = (is_same_v<A, Bs> || ...);
template <class T> inline constexpr bool graphopt_signed =
    graphopt_any<T, signed char, short, int, long, long long> || (is_same_v<T, char> && char(-1) < 0);
template <class T> inline constexpr bool graphopt_unsigned =
    graphopt_any<T, bool, unsigned char, unsigned short, unsigned, unsigned long, unsigned long long> ||
    (is_same_v<T, char> && char(-1) > 0);
template <class T> struct is_integral : graphopt_truth<graphopt_signed<T> || graphopt_unsigned<T>> {};
template <class T> struct is_floating_point : graphopt_truth<graphopt_any<T, float, double>> {};
template <class T> struct is_signed : graphopt_truth<graphopt_signed<T> || is_floating_point<T>::value> {};
template <class T> struct is_unsigned : graphopt_truth<graphopt_unsigned<T>> {};
template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { using type = T; };
template <bool B, class T, class F> struct conditional { using type = T; };
template <class T, class F> struct conditional<false, T, F> { using type = F; };
} }
"""

HEADERS = {"cuda/std/cstdint": _INTEGERS, "cuda/std/type_traits": _TRAITS}
"""By the name that sources include them under."""
