#include "launch.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "block.h"
#include "finding.h"
#include "order.h"
#include "shadow.h"

namespace sim {

static char kind_of_finding[40], text_of_finding[2000];
static const char* kernel_name = "";

void found(const char* kind, const char* format, ...) {
  if (!has_finding()) {
    snprintf(kind_of_finding, sizeof(kind_of_finding), "%s", kind);
    int used = 0;
    if (*kernel_name) {
      used += snprintf(text_of_finding, sizeof(text_of_finding), "%s, block (%u,%u,%u)", kernel_name, block.index.x, block.index.y,
                       block.index.z);
      if (self) {
        used += snprintf(text_of_finding + used, sizeof(text_of_finding) - used, ", thread (%u,%u,%u) [%d]", self->index.x,
                         self->index.y, self->index.z, self->number);
      }
      used += snprintf(text_of_finding + used, sizeof(text_of_finding) - used, ": ");
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text_of_finding + used, sizeof(text_of_finding) - used, format, arguments);
    va_end(arguments);
  }
  if (self) give_up();
}

bool has_finding() { return *kind_of_finding; }
void clear_finding() { *kind_of_finding = *text_of_finding = 0; }
const char* finding_kind() { return kind_of_finding; }
const char* finding_text() { return text_of_finding; }

// The shared memory of the kernel: its own arrays and those of device functions.
static void place_shared(const Launch& launch) {
  const Image& image = *launch.image;
  if (!dynamic_shared) {
    dynamic_shared = static_cast<char*>(
        mmap(nullptr, SharedMemory::dynamic_reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    shared.dynamic_base = reinterpret_cast<size_t>(dynamic_shared);
    shared.dynamic_shadow.cover(shared.dynamic_base, SharedMemory::dynamic_reserved);
  }
  if (shared.static_base != image.shared_base || shared.static_size != image.shared_size) {
    shared.static_base = image.shared_base;
    shared.static_size = image.shared_size;
    shared.static_shadow.cover(shared.static_base, shared.static_size);
  }
  shared.arrays.clear();
  for (const SharedArray& array : image.arrays) {
    if (array.kernel && strcmp(array.kernel, launch.name)) continue;
    shared.arrays.push_back({image.shared_base + array.offset, array.size, array.name, &shared.static_shadow, true, -1});
  }
  shared.dynamic_size = launch.dynamic_shared;
  if (launch.dynamic_shared) {
    shared.arrays.push_back({shared.dynamic_base, launch.dynamic_shared, "dynamic shared memory", &shared.dynamic_shadow, true, -1});
  }
}

// What is in shared memory when a block begins is undefined: NaN in every float type.
static void spoil_shared() {
  for (const Region& array : shared.arrays) memset(reinterpret_cast<void*>(array.base), 0xff, array.size);
}

bool run(const Launch& launch, unsigned schedule) {
  clear_finding();
  kernel_name = launch.name;
  checking = launch.image->is_checked;
  block.size = launch.block;
  block.grid = launch.grid;
  block.threads = int(launch.block.x * launch.block.y * launch.block.z);
  block.index = {0, 0, 0};
  if (block.threads < 1 || block.threads > 1024) found("launch", "%d threads in a block", block.threads);
  if (launch.kernel.bound && block.threads > launch.kernel.bound) {
    found("launch", "%d threads in a block, __launch_bounds__ says %d", block.threads, launch.kernel.bound);
  }
  if (launch.dynamic_shared > SharedMemory::dynamic_reserved) found("launch", "%u bytes of shared memory", launch.dynamic_shared);
  if (!launch.grid.x || !launch.grid.y || !launch.grid.z || launch.grid.y > 65535 || launch.grid.z > 65535) {
    found("launch", "a grid of (%u,%u,%u) blocks", launch.grid.x, launch.grid.y, launch.grid.z);
  }
  if (has_finding()) return false;
  running_device = launch.device;
  place_shared(launch);
  shadow_launch();
  size_t x = launch.grid.x, y = launch.grid.y, blocks = x * y * launch.grid.z;
  std::vector<size_t> order(blocks);
  for (size_t i = 0; i < blocks; i++) order[i] = schedule == 1 ? blocks - 1 - i : i;
  if (schedule > 1) std::shuffle(order.begin(), order.end(), std::minstd_rand(schedule));
  for (size_t i : order) {
    block.index = {unsigned(i % x), unsigned(i / x % y), unsigned(i / (x * y))};
    shadow_block();
    spoil_shared();
    if (!run_block(launch.kernel.call, launch.arguments, schedule)) break;
  }
  kernel_name = "";
  return !has_finding();
}

}  // namespace sim

using namespace sim;

// For Python (simulator.py). A launch that finds something returns 1.
extern "C" {
void* sim_load(const char* path) {
  clear_finding();
  return load_image(path);
}
void sim_unload(void* image) { unload_image(static_cast<Image*>(image)); }
void sim_allocate(size_t base, size_t size, const char* name) { allocations.add(base, size, name); }
void sim_free(size_t base) { allocations.remove(base); }
int sim_parameters(void* image, const char* name, int* sizes, int limit) {
  Kernel kernel = static_cast<Image*>(image)->kernel(name);
  if (!kernel.call) return -1;
  int count = 0;
  for (; kernel.sizes[count]; count++) {
    if (count < limit) sizes[count] = kernel.sizes[count];
  }
  return count;
}
int sim_launch(void* image, const char* name, const unsigned* grid, const unsigned* threads, unsigned dynamic_bytes,
               void** arguments, unsigned schedule) {
  const Image* loaded = static_cast<Image*>(image);
  Launch launch{loaded, loaded->kernel(name), name, {grid[0], grid[1], grid[2]}, {threads[0], threads[1], threads[2]},
                dynamic_bytes, arguments, -1};
  return run(launch, schedule) ? 0 : 1;
}
const char* sim_finding_kind() { return finding_kind(); }
const char* sim_finding_text() { return finding_text(); }
void sim_counters(long* values, int count) {
  memcpy(values, &counters, std::min(sizeof(counters), count * sizeof(long)));
  counters = {};
}
}
