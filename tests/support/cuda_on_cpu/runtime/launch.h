// A launch: all blocks of a grid, one after the other.
#pragma once
#include "../include/interface.h"
#include "image.h"

namespace sim {

struct Launch {
  const Image* image;
  Kernel kernel;
  const char* name;
  sim_index grid, block;
  unsigned dynamic_shared;
  void** arguments;
  int device = -1;  // whose memory it may use; -1: any
};

// False after a finding.
bool run(const Launch& launch, unsigned schedule);

}  // namespace sim
