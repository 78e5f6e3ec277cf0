// Copies to shared memory that arrive late: their bytes are there only after the wait that covers them, garbage before.
#include <cstring>

#include "block.h"
#include "finding.h"
#include "shadow.h"

using namespace sim;

extern "C" {
unsigned sim_shared_address(const void* place) {
  size_t address = reinterpret_cast<size_t>(place);
  if (address - shared.dynamic_base < SharedMemory::dynamic_reserved) return unsigned(address - shared.dynamic_base + shared.static_size);
  return unsigned(address - shared.static_base);
}

void sim_copy_async(void* to, const void* from, int bytes, bool valid) {
  counters.copies++;
  size_t place = reinterpret_cast<size_t>(to), source = reinterpret_cast<size_t>(from);
  if (!shared.contains(place)) found("bounds", "an asynchronous copy to memory that isn't shared");
  if (checking) {
    check(place, bytes, Access::kCopyTo, true);
    if (valid) {
      if (shared.contains(source)) found("bounds", "an asynchronous copy from shared memory");
      check(source, bytes, Access::kRead, true);
    }
  }
  memset(to, 0xff, bytes);  // NaN in every float type
  self->open.push_back({static_cast<char*>(to), valid ? static_cast<const char*>(from) : nullptr, bytes});
}

void sim_copy_commit() {
  self->groups.push_back(int(self->open.size()));
  self->committed.insert(self->committed.end(), self->open.begin(), self->open.end());
  self->open.clear();
}

void sim_copy_wait(int left) {
  size_t arrived = 0, groups = 0;
  for (; self->groups.size() - groups > size_t(left); groups++) arrived += self->groups[groups];
  for (size_t i = 0; i < arrived; i++) {
    const Copy& copy = self->committed[i];
    if (checking) check(reinterpret_cast<size_t>(copy.to), copy.bytes, Access::kArrival, true);
    if (copy.from) {
      memcpy(copy.to, copy.from, copy.bytes);
    } else {
      memset(copy.to, 0, copy.bytes);
    }
  }
  self->committed.erase(self->committed.begin(), self->committed.begin() + arrived);
  self->groups.erase(self->groups.begin(), self->groups.begin() + groups);
}
}
