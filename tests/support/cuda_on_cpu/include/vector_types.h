// CUDA's small vectors. Those of 8 and 16 bytes are read and written by one access, as on a GPU: the checks then see its size.
#pragma once

#define SIM_VECTOR2(NAME, T, ALIGN)                                            \
  struct alignas(ALIGN) NAME {                                                 \
    T x, y;                                                                    \
  };                                                                           \
  static inline NAME make_##NAME(T x, T y) { return {x, y}; }
#define SIM_VECTOR3(NAME, T)                                                   \
  struct NAME {                                                                \
    T x, y, z;                                                                 \
  };                                                                           \
  static inline NAME make_##NAME(T x, T y, T z) { return {x, y, z}; }
#define SIM_VECTOR4(NAME, T, ALIGN)                                            \
  struct alignas(ALIGN) NAME {                                                 \
    T x, y, z, w;                                                              \
  };                                                                           \
  static inline NAME make_##NAME(T x, T y, T z, T w) { return {x, y, z, w}; }
typedef unsigned sim_word16 __attribute__((ext_vector_type(4), aligned(16)));
// Keeps the compiler from splitting the access that a word comes from or goes to.
#define SIM_WHOLE(WORD, REGISTER)                                              \
  __attribute__((always_inline)) static inline WORD sim_whole(WORD word) {     \
    __asm__("" : "+" REGISTER(word));                                          \
    return word;                                                               \
  }
#if defined(__x86_64__)
SIM_WHOLE(sim_word16, "x")
#else
SIM_WHOLE(sim_word16, "w")
#endif
SIM_WHOLE(unsigned long, "r")
SIM_WHOLE(unsigned, "r")
SIM_WHOLE(unsigned short, "r")
#undef SIM_WHOLE

// A copy constructor over one machine word: without it a struct's copy is a memcpy, of which nothing tells the alignment.
#define SIM_WIDE2(NAME, T, WORD)                                               \
  struct alignas(sizeof(WORD)) NAME {                                          \
    union {                                                                    \
      struct {                                                                 \
        T x, y;                                                                \
      };                                                                       \
      WORD word;                                                               \
    };                                                                         \
    NAME() = default;                                                          \
    NAME(T x, T y) : x(x), y(y) {}                                             \
    NAME(const NAME& other) : word(sim_whole(other.word)) {}                   \
    NAME& operator=(const NAME& other) {                                       \
      word = sim_whole(other.word);                                            \
      return *this;                                                            \
    }                                                                          \
  };                                                                           \
  static inline NAME make_##NAME(T x, T y) { return NAME(x, y); }
#define SIM_WIDE4(NAME, T, WORD)                                               \
  struct alignas(sizeof(WORD)) NAME {                                          \
    union {                                                                    \
      struct {                                                                 \
        T x, y, z, w;                                                          \
      };                                                                       \
      WORD word;                                                               \
    };                                                                         \
    NAME() = default;                                                          \
    NAME(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}                       \
    NAME(const NAME& other) : word(sim_whole(other.word)) {}                   \
    NAME& operator=(const NAME& other) {                                       \
      word = sim_whole(other.word);                                            \
      return *this;                                                            \
    }                                                                          \
  };                                                                           \
  static inline NAME make_##NAME(T x, T y, T z, T w) { return NAME(x, y, z, w); }

SIM_WIDE4(float4, float, sim_word16)
SIM_WIDE4(int4, int, sim_word16)
SIM_WIDE4(uint4, unsigned, sim_word16)
SIM_WIDE2(double2, double, sim_word16)
SIM_WIDE2(longlong2, long, sim_word16)
SIM_WIDE2(ulonglong2, unsigned long, sim_word16)
SIM_WIDE2(float2, float, unsigned long)
SIM_WIDE2(int2, int, unsigned long)
SIM_WIDE2(uint2, unsigned, unsigned long)
SIM_WIDE4(short4, short, unsigned long)
SIM_WIDE4(ushort4, unsigned short, unsigned long)
SIM_WIDE2(short2, short, unsigned)
SIM_WIDE2(ushort2, unsigned short, unsigned)
SIM_WIDE4(char4, signed char, unsigned)
SIM_WIDE4(uchar4, unsigned char, unsigned)
SIM_WIDE2(char2, signed char, unsigned short)
SIM_WIDE2(uchar2, unsigned char, unsigned short)
SIM_VECTOR3(float3, float)
SIM_VECTOR3(int3, int)
SIM_VECTOR3(uint3, unsigned)
SIM_VECTOR4(longlong4, long, 16)
SIM_VECTOR4(ulonglong4, unsigned long, 16)
SIM_VECTOR4(double4, double, 16)
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
#undef SIM_VECTOR2
#undef SIM_VECTOR3
#undef SIM_VECTOR4
