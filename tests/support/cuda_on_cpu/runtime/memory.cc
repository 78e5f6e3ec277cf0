#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "shadow.h"

namespace sim {

Allocations allocations;
SharedMemory shared;

static Cell* cells(size_t count) {
  void* memory = mmap(nullptr, count * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) abort();
  return static_cast<Cell*>(memory);
}

void Shadow::cover(size_t from, size_t bytes) {
  drop();
  base = from & ~size_t(3);
  size = (from + bytes - base + 3) & ~size_t(3);
  if (!size) size = 4;
  words = cells(size / 4);
  this->bytes = cells(size);
}

void Shadow::drop() {
  if (!words) return;
  munmap(words, size / 4 * sizeof(Cell));
  munmap(bytes, size * sizeof(Cell));
  words = bytes = nullptr;
}

void Allocations::add(size_t base, size_t size, const char* name, int device) {
  auto* shadow = new Shadow;
  shadow->cover(base, size);
  auto* region = new Region{base, size, strdup(name), shadow, false, device};
  auto at = std::upper_bound(all_.begin(), all_.end(), base, [](size_t b, const Region* r) { return b < r->base; });
  all_.insert(at, region);
}

bool Allocations::remove(size_t base) {
  for (auto at = all_.begin(); at != all_.end(); ++at) {
    if ((*at)->base != base) continue;
    Region* region = *at;
    for (Region*& recent : recent_) {
      if (recent == region) recent = nullptr;
    }
    all_.erase(at);
    region->shadow->drop();
    delete region->shadow;
    free(const_cast<char*>(region->name));
    delete region;
    return true;
  }
  return false;
}

const Region* Allocations::nearest(size_t address) const {
  auto at = std::upper_bound(all_.begin(), all_.end(), address, [](size_t a, const Region* r) { return a < r->base; });
  return at == all_.begin() ? nullptr : *(at - 1);
}

const Region* Allocations::find(size_t address) {
  Region*& recent = recent_[(address >> 12) & 63];
  if (recent && recent->contains(address, 1)) return recent;
  Region* found = const_cast<Region*>(nearest(address));
  if (!found || !found->contains(address, 1)) return nullptr;
  recent = found;
  return found;
}

size_t Allocations::bytes() const {
  size_t total = 0;
  for (const Region* region : all_) total += region->size;
  return total;
}

const Region* SharedMemory::find(size_t address) {
  for (size_t i = 0; i < arrays.size(); i++) {
    if (!arrays[i].contains(address, 1)) continue;
    if (i) std::swap(arrays[i], arrays[0]);  // accesses come in runs
    return &arrays[0];
  }
  return nullptr;
}

}  // namespace sim
