/* The thread pool under the parallel loops of compiled models. Needs Linux, and of the C library only pthreads and system calls.
 *
 * A caller works on its own loop; idle workers join it. A loop is cut into chunks, and chunks into as many contiguous ranges as
 * threads may take part. Each thread goes through a range of its own from the front, the same one in every loop, so what a
 * kernel left in the cache of a core is read there by the next; one that has finished takes chunks of others from the back. So a
 * worker that the system doesn't schedule holds up nothing but the chunk that it is in, and a caller never waits for a worker
 * that has none: with no workers at all, as in a child of fork, it does all the work itself.
 *
 * Whether a chunk is taken and of which loop is in one 64-bit word, {loop's number, first chunk left, end}, so that a worker
 * that comes late can't take anything of a later loop in the same slot.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "graphopt_pool.h"
#include "machine.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>

#define LINE 64 /* bytes of a cache line */
#define MAX_SLOTS 32
#define MAX_PARTS 64
#define MAX_CHUNKS 4095
#define MAX_WORKERS 255
#define STACK_BYTES (8 << 20) /* what main threads have, too: address space, no memory */

/* Microseconds that a worker without work, and a caller that waits for the last chunks, look for a change before they sleep:
 * about what waking a thread takes. */
#define SPIN_US 100
/* A thread that was away for so long while it was looking was not scheduled: something else wants the CPU. */
#define AWAY_US 100
/* A worker moves away from its caller's CPU once in so long at most. */
#define MOVE_US 1000
/* So long the machine counts as loaded after that: at first, and at most if it happens again and again. No thread spins then, and
 * loops so short that they have a chunk a thread only are not worth waking one. */
#define LOADED_MS 50
#define LOADED_LONGEST_MS 800

/* Tests include this file with a definition that makes threads wait at some places. */
#ifndef AT
#define AT(place) (void)0
#endif

/* ---- What TVM's generated code calls --------------------------------------------------------------------------------- */

typedef struct {
  void *sync_handle;
  int32_t num_task;
} task_group; /* TVMParallelGroupEnv */

typedef int (*loop_lambda)(int32_t task, task_group *group, void *closure); /* FTVMParallelLambda */

/* What one library asks of the pool, whichever library's code that is. */
typedef struct {
  loop_lambda lambda;
  void *closure;
  int32_t chunks;
  int32_t threads; /* at most, below 1: as many as there are CPUs */
} loop_request;

/* What a loop returns: in which threads chunks failed. */
enum { FAILED_HERE = 1, FAILED_ELSEWHERE = 2 };

/* ---- The pool's state ------------------------------------------------------------------------------------------------- */

typedef struct {
  _Alignas(LINE) _Atomic(uint64_t) range; /* number:40 | front:12 | back:12 */
} part;

typedef struct {
  _Alignas(LINE) _Atomic(uint32_t) taken;
  uint64_t number; /* of the last loop; only the caller that has taken the slot touches it */
  _Atomic(loop_lambda) lambda;
  _Atomic(void *) closure;
  _Atomic(int32_t) chunks;
  _Atomic(uint32_t) parts;
  _Atomic(int) cpu; /* where the caller was */
  _Alignas(LINE) _Atomic(uint64_t) door; /* number:40 | places left:12: who may join */
  _Alignas(LINE) _Atomic(uint32_t) done; /* chunks that workers have ended; a futex */
  _Atomic(uint32_t) waiting;
  _Atomic(uint32_t) failed;
  part part[MAX_PARTS];
} slot;

static struct {
  _Alignas(LINE) _Atomic(uint32_t) news; /* counts published loops; a futex */
  _Atomic(uint32_t) slots;               /* those from here on were never used */
  _Alignas(LINE) _Atomic(uint32_t) sleepers;
  _Atomic(uint32_t) workers;
  _Atomic(uint32_t) callers;
  _Atomic(uint32_t) cpus; /* 0: not counted yet */
  _Atomic(uint32_t) starting;
  _Atomic(uint32_t) watches_forks;
  _Atomic(uint64_t) loaded_until; /* nanoseconds; 0: never */
  _Atomic(uint64_t) loaded_time;
  _Atomic(uint32_t) names[MAX_WORKERS + 1]; /* 1: a worker has this number */
  slot slot[MAX_SLOTS];
} pool;

/* ---- Load -------------------------------------------------------------------------------------------------------------- */

static int is_loaded(void) {
  uint64_t until = atomic_load_explicit(&pool.loaded_until, memory_order_relaxed);
  return until != 0 && now_ns() < until;
}

static void set_loaded(uint64_t now) {
  uint64_t before = atomic_load_explicit(&pool.loaded_until, memory_order_relaxed);
  uint64_t time = atomic_load_explicit(&pool.loaded_time, memory_order_relaxed);
  if (now < before) return;
  time = now - before < 2 * time ? 2 * time : LOADED_MS * 1000000ull;
  if (time > LOADED_LONGEST_MS * 1000000ull) time = LOADED_LONGEST_MS * 1000000ull;
  atomic_store_explicit(&pool.loaded_time, time, memory_order_relaxed);
  atomic_store_explicit(&pool.loaded_until, now + time, memory_order_relaxed);
}

/* Look at `*word` until it isn't `value` any more, for a while: true if it changed. */
static int spin(_Atomic(uint32_t) *word, uint32_t value) {
  if (is_loaded()) return atomic_load(word) != value;
  uint64_t start = now_ns(), last = start;
  for (;;) {
    for (int i = 0; i < 8; i++) {
      if (atomic_load_explicit(word, memory_order_acquire) != value) return 1;
      relax();
    }
    uint64_t now = now_ns();
    if (now - last > AWAY_US * 1000u) {
      set_loaded(now);
      return atomic_load(word) != value;
    }
    if (now - start > SPIN_US * 1000u) return atomic_load(word) != value;
    last = now;
  }
}

/* ---- Chunks ----------------------------------------------------------------------------------------------------------- */

static uint64_t pack(uint64_t number, uint32_t front, uint32_t back) {
  return number << 24 | (uint64_t)front << 12 | back;
}

/* Take a chunk of loop `number`: the first that is left for its owner, the last for others. Returns -1 when there is none. */
static int32_t take(part *from, uint64_t number, int is_owner) {
  uint64_t seen = atomic_load_explicit(&from->range, memory_order_acquire);
  for (;;) {
    uint32_t front = (uint32_t)(seen >> 12) & 0xfff, back = (uint32_t)seen & 0xfff;
    if (seen >> 24 != number || front >= back) return -1;
    AT(range_seen);
    uint64_t rest = is_owner ? pack(number, front + 1, back) : pack(number, front, back - 1);
    if (atomic_compare_exchange_weak_explicit(&from->range, &seen, rest, memory_order_acq_rel, memory_order_acquire))
      return (int32_t)(is_owner ? front : back - 1);
  }
}

/* Work on loop `number` of a slot, beginning with a range of its own, as long as there is something to take. */
static int32_t work(slot *s, uint64_t number, uint32_t home, int is_caller) {
  loop_lambda lambda = atomic_load_explicit(&s->lambda, memory_order_relaxed);
  void *closure = atomic_load_explicit(&s->closure, memory_order_relaxed);
  task_group group = {NULL, atomic_load_explicit(&s->chunks, memory_order_relaxed)};
  uint32_t parts = atomic_load_explicit(&s->parts, memory_order_relaxed);
  int32_t own = 0;
  for (uint32_t i = 0; i < parts; i++) {
    part *from = &s->part[home + i < parts ? home + i : home + i - parts];
    int32_t chunk;
    while ((chunk = take(from, number, i == 0)) >= 0) {
      AT(chunk_taken);
      if (lambda(chunk, &group, closure) != 0)
        atomic_fetch_or_explicit(&s->failed, is_caller ? FAILED_HERE : FAILED_ELSEWHERE, memory_order_relaxed);
      own++;
      if (!is_caller) {
        atomic_fetch_add(&s->done, 1);
        AT(chunk_done);
        if (atomic_load(&s->waiting)) futex_wake(&s->done, INT_MAX);
      }
    }
  }
  return own;
}

/* ---- Workers ---------------------------------------------------------------------------------------------------------- */

/* Join one loop, if any has a place left: true if there was one. */
static int help(uint32_t name, uint64_t *moved) {
  uint32_t slots = atomic_load_explicit(&pool.slots, memory_order_acquire);
  for (uint32_t i = 0; i < slots; i++) {
    slot *s = &pool.slot[i];
    uint64_t door = atomic_load_explicit(&s->door, memory_order_acquire);
    while (door & 0xfff) {
      if (!atomic_compare_exchange_weak_explicit(&s->door, &door, door - 1, memory_order_acq_rel, memory_order_acquire))
        continue;
      AT(joined);
      int cpu = sched_getcpu();
      if (cpu >= 0 && cpu == atomic_load_explicit(&s->cpu, memory_order_relaxed)) {
        uint64_t now = now_ns();
        if (now - *moved > MOVE_US * 1000u) *moved = now, leave_cpu(cpu);
      }
      uint32_t parts = atomic_load_explicit(&s->parts, memory_order_relaxed);
      uint32_t others = parts - 1;
      work(s, door >> 12, 1 + (name - 1 - quotient(name - 1, others) * others), 0);
      return 1;
    }
  }
  return 0;
}

static void *worker(void *argument) {
  uint32_t name = (uint32_t)(uintptr_t)argument;
  uint64_t idle_since = now_ns(), moved = 0;
  prctl(PR_SET_NAME, "graphopt"); /* what top and debuggers show */
  for (;;) {
    uint32_t seen = atomic_load(&pool.news);
    if (help(name, &moved)) {
      idle_since = 0;
      continue;
    }
    if (spin(&pool.news, seen)) continue;
    uint64_t now = now_ns();
    if (idle_since == 0) idle_since = now;
    if (now - idle_since >= GRAPHOPT_POOL_IDLE_MS * 1000000ull) break;
    atomic_fetch_add(&pool.sleepers, 1);
    if (atomic_load(&pool.news) == seen) futex_wait(&pool.news, seen, GRAPHOPT_POOL_IDLE_MS);
    atomic_fetch_sub(&pool.sleepers, 1);
  }
  atomic_store(&pool.names[name], 0);
  atomic_fetch_sub(&pool.workers, 1);
  return NULL;
}

/* A child of fork has none of the threads, and what they held or counted counts no more. */
static void forked(void) {
  atomic_store(&pool.sleepers, 0);
  atomic_store(&pool.workers, 0);
  atomic_store(&pool.callers, 0);
  atomic_store(&pool.cpus, 0);
  atomic_store(&pool.starting, 0);
  atomic_store(&pool.loaded_until, 0);
  for (uint32_t i = 0; i <= MAX_WORKERS; i++) atomic_store(&pool.names[i], 0);
  for (uint32_t i = 0; i < MAX_SLOTS; i++) {
    atomic_store(&pool.slot[i].door, 0);
    atomic_store(&pool.slot[i].taken, 0);
    pool.slot[i].number += 1;
  }
}

/* In the GNU C library pthread_atfork is a static function of each program, and calls this one. */
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *) __attribute__((weak));
#ifndef __GLIBC__
extern int pthread_atfork(void (*)(void), void (*)(void), void (*)(void)) __attribute__((weak));
#endif

static void watch_forks(void) {
  if (atomic_exchange(&pool.watches_forks, 1)) return;
  if (__register_atfork)
    __register_atfork(NULL, NULL, forked, NULL);
#ifndef __GLIBC__
  else if (pthread_atfork)
    pthread_atfork(NULL, NULL, forked);
#endif
}

static int start_worker(void) {
  uint32_t name = 1;
  while (name <= MAX_WORKERS && atomic_exchange(&pool.names[name], 1)) name++;
  if (name > MAX_WORKERS) return 0;
  atomic_fetch_add(&pool.workers, 1);
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  sigfillset(&all);
  int made = 0;
  if (pthread_attr_init(&attributes) == 0) {
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's own threads' business */
    made = pthread_create(&thread, &attributes, worker, (void *)(uintptr_t)name) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
  }
  if (!made) {
    atomic_store(&pool.names[name], 0);
    atomic_fetch_sub(&pool.workers, 1);
  }
  return made;
}

/* Start as many workers as `wanted`, if the machine has CPUs for them; where that fails the loop runs on those that there are. */
static void start_workers(uint32_t wanted) {
  uint32_t expected = 0;
  if (!atomic_compare_exchange_strong(&pool.starting, &expected, 1)) return;
  watch_forks();
  uint32_t cpus = count_cpus();
  atomic_store(&pool.cpus, cpus);
  if (wanted > cpus - 1) wanted = cpus - 1;
  while (atomic_load(&pool.workers) < wanted && start_worker()) {
  }
  atomic_store(&pool.starting, 0);
}

/* ---- Callers ---------------------------------------------------------------------------------------------------------- */

static int run_alone(const loop_request *request) {
  task_group group = {NULL, 1};
  return request->lambda(0, &group, request->closure) != 0 ? FAILED_HERE : 0;
}

static slot *take_slot(void) {
  for (uint32_t i = 0; i < MAX_SLOTS; i++) {
    uint32_t is_free = 0;
    if (atomic_load_explicit(&pool.slot[i].taken, memory_order_relaxed)) continue;
    if (!atomic_compare_exchange_strong(&pool.slot[i].taken, &is_free, 1)) continue;
    uint32_t used = atomic_load(&pool.slots);
    while (used < i + 1 && !atomic_compare_exchange_weak(&pool.slots, &used, i + 1)) {
    }
    return &pool.slot[i];
  }
  return NULL;
}

static uint64_t publish(slot *s, const loop_request *request, int32_t chunks, uint32_t parts) {
  uint64_t number = (s->number += 1) & 0xffffffffffu;
  atomic_store_explicit(&s->lambda, request->lambda, memory_order_relaxed);
  atomic_store_explicit(&s->closure, request->closure, memory_order_relaxed);
  atomic_store_explicit(&s->chunks, chunks, memory_order_relaxed);
  atomic_store_explicit(&s->parts, parts, memory_order_relaxed);
  atomic_store_explicit(&s->cpu, sched_getcpu(), memory_order_relaxed);
  atomic_store_explicit(&s->failed, 0, memory_order_relaxed);
  atomic_store_explicit(&s->done, 0, memory_order_relaxed);
  for (uint32_t i = 0, back = 0; i < parts; i++) {
    uint32_t front = back;
    back = quotient((uint32_t)chunks * (i + 1), parts);
    atomic_store_explicit(&s->part[i].range, pack(number, front, back), memory_order_release);
  }
  atomic_store(&s->door, number << 12 | (parts - 1));
  atomic_fetch_add(&pool.news, 1);
  return number;
}

static void wait_for_workers(slot *s, uint32_t chunks) {
  uint32_t done;
  while ((done = atomic_load_explicit(&s->done, memory_order_acquire)) != chunks) {
    if (spin(&s->done, done)) continue;
    atomic_store(&s->waiting, 1);
    if (atomic_load(&s->done) == done) futex_wait(&s->done, done, -1);
    atomic_store(&s->waiting, 0);
  }
}

static int launch(const loop_request *request) {
  uint32_t cpus = atomic_load_explicit(&pool.cpus, memory_order_relaxed);
  if (cpus == 0) atomic_store(&pool.cpus, cpus = count_cpus());
  int32_t chunks = request->chunks < MAX_CHUNKS ? request->chunks : MAX_CHUNKS;
  uint32_t parts = request->threads < 1 || (uint32_t)request->threads > cpus ? cpus : (uint32_t)request->threads;
  if (parts > MAX_PARTS) parts = MAX_PARTS;
  if (chunks < (int32_t)parts) parts = chunks < 1 ? 1 : (uint32_t)chunks;
  if (parts == 1) return run_alone(request);
  /* CPUs that other callers are on can't help: with a caller on each of them, every one works alone. */
  uint32_t callers = atomic_fetch_add(&pool.callers, 1) + 1;
  if (parts > 1 + cpus - callers) parts = callers < cpus ? 1 + cpus - callers : 1;
  slot *s = parts > 1 && (chunks > (int32_t)parts || !is_loaded()) ? take_slot() : NULL;
  if (s == NULL) {
    int code = run_alone(request);
    atomic_fetch_sub(&pool.callers, 1);
    return code;
  }
  if (atomic_load_explicit(&pool.workers, memory_order_relaxed) < parts - 1) start_workers(parts - 1);
  uint64_t number = publish(s, request, chunks, parts);
  uint32_t sleepers = atomic_load(&pool.sleepers);
  if (sleepers) futex_wake(&pool.news, (int)(sleepers < parts - 1 ? sleepers : parts - 1));
  int32_t own = work(s, number, 0, 1);
  atomic_store(&s->door, 0);
  wait_for_workers(s, (uint32_t)(chunks - own));
  int failed = (int)atomic_load_explicit(&s->failed, memory_order_relaxed);
  atomic_store_explicit(&s->taken, 0, memory_order_release);
  atomic_fetch_sub(&pool.callers, 1);
  return failed;
}

#include "library.h"
