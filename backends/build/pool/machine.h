/* What the pool needs of the machine and the system: time, sleep, CPUs. Linux. */
#ifndef GRAPHOPT_POOL_MACHINE_H
#define GRAPHOPT_POOL_MACHINE_H

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic(uint32_t) *word, uint32_t value, long milliseconds) {
  struct {
    long seconds, nanoseconds;
  } limit = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  syscall(SYS_futex, word, 128 /* FUTEX_WAIT | FUTEX_PRIVATE_FLAG */, value, milliseconds < 0 ? NULL : &limit, NULL, 0);
}

static void futex_wake(_Atomic(uint32_t) *word, int threads) {
  syscall(SYS_futex, word, 129 /* FUTEX_WAKE | FUTEX_PRIVATE_FLAG */, threads, NULL, NULL, 0);
}

/* CPUs that the calling thread may use, a bit each. By system calls, since the C library's own type ends at 1024. */
typedef struct {
  unsigned long words[128];
  long bytes;
} cpu_mask;

static uint32_t get_mask(cpu_mask *mask) {
  uint32_t found = 0;
  mask->bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask->words, mask->words);
  for (long i = 0; i < mask->bytes / (long)sizeof(long); i++) found += (uint32_t)__builtin_popcountl(mask->words[i]);
  return found;
}

static uint32_t count_cpus(void) {
#ifdef GRAPHOPT_POOL_CPUS
  return GRAPHOPT_POOL_CPUS;
#endif
  cpu_mask mask;
  uint32_t found = get_mask(&mask);
  return found ? found : 1;
}

/* Move the calling thread to another CPU than `cpu`, if it may use one. It isn't bound to that: the mask is as before.
 *
 * Linux likes to wake a thread where it ran last or where the one is that wakes it, and two threads that sleep every few dozen
 * microseconds look too busy there to be moved apart: they can share one CPU for seconds while another is idle.
 */
static void leave_cpu(int cpu) {
  cpu_mask mask;
  const long bits = 8 * sizeof(long);
  if (get_mask(&mask) < 2 || cpu >= mask.bytes * 8) return;
  mask.words[cpu / bits] &= ~(1ul << cpu % bits);
  syscall(SYS_sched_setaffinity, 0, mask.bytes, mask.words);
  mask.words[cpu / bits] |= 1ul << cpu % bits;
  syscall(SYS_sched_setaffinity, 0, mask.bytes, mask.words);
}

/* a / b for small numbers, without a function of the compiler's library where the CPU has no such instruction. */
static uint32_t quotient(uint32_t a, uint32_t b) { return (uint32_t)((float)a / (float)b); }

#endif
