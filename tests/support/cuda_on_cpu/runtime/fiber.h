// Fibers: threads of a block, switched between in user space. ucontext's own switch makes two system calls, which would cost more
// than everything else a barrier does, so that x86-64 has one of its own.
#pragma once
#include <cstddef>

#if !defined(SIM_OWN_SWITCH)
#if defined(__x86_64__)
#define SIM_OWN_SWITCH 1
#else
#define SIM_OWN_SWITCH 0
#endif
#endif

namespace sim {

// A stack on which a function is suspended.
struct Context {
#if SIM_OWN_SWITCH
  void* stack_pointer = nullptr;
#else
  void* state = nullptr;  // a ucontext_t
#endif
};

// Prepares `context` to run `entry` on the given stack when it is switched to. `entry` must never return.
void prepare(Context& context, char* stack, size_t size, void (*entry)());

// Suspends the caller in `from` and continues `to`.
void switch_context(Context& from, Context& to);

// Stacks of equal size with an inaccessible page below each, so that an overflow stops at once.
class Stacks {
 public:
  static constexpr size_t size = 256 << 10;
  char* take();
  void give_back(char* stack);
  void give_all_back();  // what an abandoned block held
  bool contains(size_t address) const { return address - low_ < reserved_; }

 private:
  static constexpr int limit = 1024;
  void reserve();
  size_t low_ = 0, reserved_ = 0;
  int free_[limit];
  int count_ = 0;
};

}  // namespace sim
