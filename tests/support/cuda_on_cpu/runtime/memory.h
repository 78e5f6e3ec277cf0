// Memory that kernels may use: allocations of the device, and the shared arrays of the kernel that runs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sim {

struct Cell;

// What was done with each word of a range of memory; see shadow.h. Pages come into being when they are used.
struct Shadow {
  size_t base = 0;
  Cell* words = nullptr;  // a cell for every 4 bytes
  Cell* bytes = nullptr;  // a cell for every byte of the words that were accessed in parts
  size_t size = 0;
  void cover(size_t base, size_t size);
  void drop();
};

struct Region {
  size_t base, size;
  const char* name;
  Shadow* shadow;
  bool is_shared;
  int device;  // whose memory it is, -1: of any
  bool contains(size_t address, size_t bytes) const { return address - base < size && bytes <= size - (address - base); }
};

// Device memory. Addresses are those of the host.
class Allocations {
 public:
  void add(size_t base, size_t size, const char* name, int device = -1);
  bool remove(size_t base);
  // The allocation that the address lies in, else nullptr.
  const Region* find(size_t address);
  // The allocation that begins nearest below or at the address: what an access beyond bounds was probably meant for.
  const Region* nearest(size_t address) const;
  size_t count() const { return all_.size(); }
  size_t bytes() const;

 private:
  std::vector<Region*> all_;  // by address
  Region* recent_[64] = {};
};

extern Allocations allocations;

// The shared memory of the running kernel.
struct SharedMemory {
  size_t static_base = 0, static_size = 0, dynamic_base = 0, dynamic_size = 0;
  std::vector<Region> arrays;  // those of the kernel, the dynamic part as the last
  Shadow static_shadow, dynamic_shadow;
  bool contains(size_t address) const {
    return address - static_base < static_size || address - dynamic_base < dynamic_reserved;
  }
  const Region* find(size_t address);
  static constexpr size_t dynamic_reserved = 256 << 10;
};

extern SharedMemory shared;

}  // namespace sim
