#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#if !SIM_OWN_SWITCH
#include <ucontext.h>
#endif

namespace sim {

#if SIM_OWN_SWITCH
// What the System V ABI asks a function to keep: six registers. The control words of the floating-point units are never changed.
extern "C" void sim_switch(void** from, void* to);
asm(R"(
.text
.globl sim_switch
.hidden sim_switch
.type sim_switch,@function
sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sim_switch,.-sim_switch
)");

void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + size);
  *--top = nullptr;  // where `entry` finds its return address: its stack is aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  context.stack_pointer = top;
}

void switch_context(Context& from, Context& to) { sim_switch(&from.stack_pointer, to.stack_pointer); }
#else
static ucontext_t* state_of(Context& context) {
  if (!context.state) context.state = calloc(1, sizeof(ucontext_t));
  return static_cast<ucontext_t*>(context.state);
}

void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
  ucontext_t* state = state_of(context);
  getcontext(state);
  state->uc_stack.ss_sp = stack;
  state->uc_stack.ss_size = size;
  state->uc_link = nullptr;
  makecontext(state, entry, 0);
}

void switch_context(Context& from, Context& to) { swapcontext(state_of(from), state_of(to)); }
#endif

void Stacks::reserve() {
  const size_t page = 4096, each = size + page;
  void* memory = mmap(nullptr, each * limit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    perror("cuda_on_cpu: stacks");
    abort();
  }
  low_ = reinterpret_cast<size_t>(memory);
  reserved_ = each * limit;
  for (int i = 0; i < limit; i++) {
    mprotect(reinterpret_cast<char*>(low_) + i * each + page, size, PROT_READ | PROT_WRITE);
  }
  give_all_back();
}

void Stacks::give_all_back() {
  count_ = 0;
  for (int i = limit; i-- > 0;) free_[count_++] = i;
}

char* Stacks::take() {
  if (!reserved_) reserve();
  return reinterpret_cast<char*>(low_) + free_[--count_] * (size + 4096) + 4096;
}

void Stacks::give_back(char* stack) {
  free_[count_++] = int((reinterpret_cast<size_t>(stack) - low_) / (size + 4096));
}

}  // namespace sim
