// Several neighbouring elements with one access to memory. No PTX.
#pragma once

template <int BYTES> struct gopt_words;
template <> struct gopt_words<1> { typedef unsigned char type; };
template <> struct gopt_words<2> { typedef unsigned short type; };
template <> struct gopt_words<4> { typedef unsigned int type; };
template <> struct gopt_words<8> { typedef uint2 type; };
template <> struct gopt_words<16> { typedef uint4 type; };

// Copies BYTES (1, 2, 4, 8 or 16) from one place to another, both aligned to so many bytes. One of them is an array of the thread's
// own, which becomes registers.
template <int BYTES>
__device__ __forceinline__ void gopt_move(void* to, const void* from) {
  typedef typename gopt_words<BYTES>::type Words;
  *(Words*)to = *(const Words*)from;
}
