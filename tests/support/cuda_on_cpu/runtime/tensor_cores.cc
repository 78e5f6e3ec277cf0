// Products of fragments and matrices of shared memory, by the layouts of the PTX ISA, "Matrix fragments for mma" and "ldmatrix":
// lane = 4 g + q; a word of a fragment holds the elements that follow each other along k.
//
// Products are exact and added one after the other in float32. A tensor core adds several at once with a few more bits, in an order
// that nobody documents, so that results agree up to the rounding of such sums; integers agree to the bit.
#include <cstring>

#include "block.h"
#include "finding.h"
#include "shadow.h"

namespace sim {
namespace {

struct Product {
  void* sums;
  const unsigned *a, *b;
};

struct MatrixLoad {
  unsigned* to;
  const char* row;
};

float value_of(unsigned word, int half, sim_product kind) {
  unsigned short bits = (unsigned short)(word >> (16 * half));
  if (kind == SIM_F16) return float(__builtin_bit_cast(_Float16, bits));
  return __builtin_bit_cast(float, unsigned(bits) << 16);
}

// Calls f(g, q, lane of the warp) for every lane.
template <class F>
void for_fragments(F f) {
  for (int lane = 0; lane < kLanes; lane++) f(lane / 4, lane % 4, *static_cast<Product*>(lane_of_mine(lane).arguments));
}

// The sums of a 16 x 8 tile, in the lanes' registers.
template <class T, int K>
void multiply(const T (&a)[16][K], const T (&b)[K][8]) {
  T sums[16][8];
  for_fragments([&](int g, int q, const Product& mine) {
    const T* held = static_cast<const T*>(mine.sums);
    for (int i = 0; i < 4; i++) sums[g + 8 * (i / 2)][2 * q + i % 2] = held[i];
  });
  for (int row = 0; row < 16; row++) {
    for (int k = 0; k < K; k++) {
      for (int column = 0; column < 8; column++) sums[row][column] += a[row][k] * b[k][column];
    }
  }
  for_fragments([&](int g, int q, const Product& mine) {
    T* held = static_cast<T*>(mine.sums);
    for (int i = 0; i < 4; i++) held[i] = sums[g + 8 * (i / 2)][2 * q + i % 2];
  });
}

void multiply_halves(sim_product kind) {
  float a[16][16], b[16][8];
  for_fragments([&](int g, int q, const Product& mine) {
    for (int half = 0; half < 2; half++) {
      for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][2 * q + 8 * (i / 2) + half] = value_of(mine.a[i], half, kind);
      for (int i = 0; i < 2; i++) b[2 * q + 8 * i + half][g] = value_of(mine.b[i], half, kind);
    }
  });
  multiply(a, b);
}

void multiply_words(sim_product kind) {
  // of a tf32 operand a tensor core reads the upper 19 bits
  unsigned read = kind == SIM_TF32 ? 0xffffe000u : 0xffffffffu;
  float a[16][8], b[8][8];
  for_fragments([&](int g, int q, const Product& mine) {
    for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][q + 4 * (i / 2)] = __builtin_bit_cast(float, mine.a[i] & read);
    for (int i = 0; i < 2; i++) b[q + 4 * i][g] = __builtin_bit_cast(float, mine.b[i] & read);
  });
  multiply(a, b);
}

void multiply_bytes(bool a_is_signed, bool b_is_signed) {
  unsigned a[16][32], b[32][8];  // sums are modulo 2^32
  auto byte = [](unsigned word, int index, bool is_signed) {
    unsigned char bits = (unsigned char)(word >> (8 * index));
    return is_signed ? unsigned(int((signed char)bits)) : unsigned(bits);
  };
  for_fragments([&](int g, int q, const Product& mine) {
    for (int j = 0; j < 4; j++) {
      for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][4 * q + 16 * (i / 2) + j] = byte(mine.a[i], j, a_is_signed);
      for (int i = 0; i < 2; i++) b[4 * q + 16 * i + j][g] = byte(mine.b[i], j, b_is_signed);
    }
  });
  multiply(a, b);
}

// Banks are 4 bytes wide and 32 in number: the eight rows of a matrix come in one go if each has 16 bytes of its own among 128.
void count_conflicts(const char* const* rows) {
  unsigned used = 0;
  for (int row = 0; row < 8; row++) {
    unsigned bank = unsigned(reinterpret_cast<size_t>(rows[row]) / 16 % 8);
    counters.matrix_conflicts += used >> bank & 1;
    used |= 1u << bank;
  }
}

void load_matrices(int matrices, bool transposed) {
  const char* rows[kLanes];
  for (int lane = 0; lane < 8 * matrices; lane++) {
    rows[lane] = static_cast<MatrixLoad*>(lane_of_mine(lane).arguments)->row;
    size_t address = reinterpret_cast<size_t>(rows[lane]);
    if (!shared.contains(address)) found("bounds", "ldmatrix from memory that isn't shared, by lane %d", lane);
    if (checking) check(address, 16, Access::kWarpRead, true);
  }
  for (int matrix = 0; matrix < matrices; matrix++) {
    unsigned short elements[8][8];
    for (int row = 0; row < 8; row++) memcpy(elements[row], rows[8 * matrix + row], 16);
    count_conflicts(rows + 8 * matrix);
    for (int lane = 0; lane < kLanes; lane++) {
      int g = lane / 4, q = lane % 4;
      unsigned first = transposed ? elements[2 * q][g] : elements[g][2 * q];
      unsigned second = transposed ? elements[2 * q + 1][g] : elements[g][2 * q + 1];
      static_cast<MatrixLoad*>(lane_of_mine(lane).arguments)->to[matrix] = first | second << 16;
    }
  }
}

}  // namespace
}  // namespace sim

using namespace sim;

extern "C" {
void sim_load_matrix(unsigned* to, const void* row, int matrices, bool transposed) {
  MatrixLoad mine{to, static_cast<const char*>(row)};
  const char* name = transposed ? "a transposed ldmatrix" : matrices == 4 ? "ldmatrix of four" : "ldmatrix of two";
  if (!last_to_arrive(name, kAllLanes, &mine, true)) return;
  counters.matrix_loads++;
  load_matrices(matrices, transposed);
  release(kAllLanes);
}

void sim_mma(sim_product kind, void* sums, const unsigned* a, const unsigned* b) {
  static const char* const names[] = {"mma of f16",    "mma of bf16",   "mma of tf32",   "mma of float32",
                                      "mma of s8, s8", "mma of u8, s8", "mma of s8, u8", "mma of u8, u8"};
  Product mine{sums, a, b};
  if (!last_to_arrive(names[kind], kAllLanes, &mine, true)) return;
  counters.products++;
  if (kind == SIM_F16 || kind == SIM_BF16) {
    multiply_halves(kind);
  } else if (kind == SIM_TF32 || kind == SIM_F32) {
    multiply_words(kind);
  } else {
    multiply_bytes(kind == SIM_S8S8 || kind == SIM_S8U8, kind == SIM_S8S8 || kind == SIM_U8S8);
  }
  release(kAllLanes);
}
}
