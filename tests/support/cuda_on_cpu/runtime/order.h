// A schedule: in which order the threads of a block, and the blocks of a grid, get to run. Results mustn't depend on it.
#pragma once
#include <algorithm>
#include <random>
#include <vector>

namespace sim {

// Schedule 0 takes everything in order, 1 in reverse, others shuffle (the number is the seed).
struct Order {
  Order(unsigned schedule, int count) : warps(count), schedule_(schedule), random_(schedule) {
    for (int i = 0; i < count; i++) warps[i] = i;
    for (int i = 0; i < 32; i++) lanes[i] = i;
    if (schedule == 1) {
      std::reverse(warps.begin(), warps.end());
      std::reverse(lanes, lanes + 32);
    }
  }

  // The order until the next barrier.
  void next() {
    if (schedule_ < 2) return;
    std::shuffle(warps.begin(), warps.end(), random_);
    std::shuffle(lanes, lanes + 32, random_);
  }

  std::vector<int> warps;
  int lanes[32];

 private:
  unsigned schedule_;
  std::minstd_rand random_;
};

}  // namespace sim
