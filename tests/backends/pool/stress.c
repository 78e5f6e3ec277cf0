/* The pool under stress: each part of a loop runs exactly once, whatever the schedule. Prints "ok" and how many parts workers ran, or
 * what is wrong.
 *
 * Built with -DGRAPHOPT_POOL_CPUS=n, so that there are n - 1 workers on any machine, and with or without ThreadSanitizer.
 * Usage: stress TEST LOOPS
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* Threads stop for a random while at the places where one that the system doesn't schedule would do most harm. */
static volatile int is_bumpy;
static void bump(void);
#define AT(place) bump()

#include "pool.c"

static __thread unsigned seed;

static unsigned random_number(void) {
  if (!seed) seed = (unsigned)(uintptr_t)&seed | 1;
  seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5;
  return seed;
}

static void bump(void) {
  if (!is_bumpy) return;
  unsigned r = random_number() & 1023;
  if (r < 8) usleep(r * 40);
  else if (r < 64) sched_yield();
}

static void fail(const char *what) {
  printf("failed: %s\n", what);
  exit(1);
}

/* ---- Loops as generated code has them: the number of chunks comes first in the closure -------------------------------- */

#define MOST 100

static _Atomic long helped; /* chunks that workers ran */

typedef struct {
  int32_t chunks;
  int32_t failing;
  int32_t length; /* iterations of each chunk */
  pthread_t caller;
  uint64_t runs[MOST]; /* not atomic: the pool has to order them before its return */
} closure;

static int body(int32_t task, task_group *group, void *context) {
  closure *c = context;
  int32_t chunks = c->chunks; /* when one thread does all, it gets one task and divides nothing */
  int32_t step = (chunks + group->num_task - 1) / group->num_task;
  for (int32_t i = task * step; i < (task + 1) * step && i < chunks; i++) {
    for (volatile int32_t k = 0; k < c->length; k++) {
    }
    c->runs[i]++;
    if (!pthread_equal(pthread_self(), c->caller)) helped++;
    if (i == c->failing) return -1;
  }
  return 0;
}

static void run_and_check(closure *c, uint64_t *before) {
  int code = parallel_launch(body, c, 0);
  if (code != (c->failing >= 0 && c->failing < c->chunks ? -1 : 0)) fail("code of a loop");
  for (int32_t i = 0; i < c->chunks; i++)
    if (c->runs[i] != before[i] + 1) fail("a chunk was lost or ran twice");
  for (int32_t i = 0; i < c->chunks; i++) before[i] = c->runs[i];
}

static void *many_loops(void *loops) {
  closure c = {.caller = pthread_self()};
  uint64_t before[MOST] = {0};
  for (long n = (long)loops; n > 0; n--) {
    c.chunks = 1 + (int32_t)(random_number() % (n % 16 ? 8 : MOST));
    c.failing = -1;
    c.length = (int32_t)(random_number() % (n % 8 ? 64 : 4096));
    run_and_check(&c, before);
  }
  return NULL;
}

static void with_callers(int callers, long loops) {
  pthread_t threads[64];
  for (int i = 0; i < callers; i++) pthread_create(&threads[i], NULL, many_loops, (void *)loops);
  for (int i = 0; i < callers; i++) pthread_join(threads[i], NULL);
}

static void expect_threads(int32_t wanted, const char *what) {
  for (int i = 0; i < 400 && graphopt_pool_threads() != wanted; i++) usleep(10000);
  if (graphopt_pool_threads() != wanted) fail(what);
}

/* ---- Tests ------------------------------------------------------------------------------------------------------------ */

static void test_failures(long loops) {
  closure c = {.chunks = MOST, .caller = pthread_self()};
  for (; loops > 0; loops--) {
    c.failing = (int32_t)(random_number() % (2 * MOST));
    int code = parallel_launch(body, &c, 0);
    if (code != (c.failing < MOST ? -1 : 0)) fail("code of a loop");
  }
}

static void child_works(void) {
  uint64_t before[MOST] = {0};
  closure c = {.chunks = MOST, .failing = -1, .caller = pthread_self(), .length = 20000};
  if (graphopt_pool_threads() != 0) fail("a child counts threads of its parent");
  for (int i = 0; i < 100; i++) run_and_check(&c, before);
  if (graphopt_pool_threads() < 1) fail("a child has no threads of its own");
}

static void test_forks(long loops) {
  pthread_t other;
  pthread_create(&other, NULL, many_loops, (void *)(loops * 100)); /* forks hit its loops anywhere */
  for (; loops > 0; loops--) {
    closure c = {.chunks = MOST, .failing = -1, .caller = pthread_self(), .length = 1000};
    parallel_launch(body, &c, 0);
    pid_t child = fork();
    if (child == 0) {
      alarm(20);
      child_works();
      _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (status != 0) fail("a forked child");
  }
  pthread_join(other, NULL);
}

static void test_idle(long rounds) {
  uint64_t before[MOST] = {0};
  closure c = {.chunks = MOST, .failing = -1, .caller = pthread_self(), .length = 20000};
  expect_threads(0, "threads were started before there was work");
  for (; rounds > 0; rounds--) {
    run_and_check(&c, before);
    if (graphopt_pool_threads() != GRAPHOPT_POOL_CPUS - 1) fail("number of threads");
    expect_threads(0, "threads stay without work");
  }
}

static void test_limits(long loops) {
  uint64_t before[MOST] = {0};
  closure c = {.chunks = MOST, .failing = -1, .caller = pthread_self(), .length = 100};
  if (graphopt_set_threads(1) != 0) fail("limit before the first");
  for (long i = 0; i < loops; i++) run_and_check(&c, before);
  if (graphopt_pool_threads() != 0) fail("one thread needs no workers");
  if (graphopt_set_threads(2) != 1) fail("limit");
  for (long i = 0; i < loops; i++) run_and_check(&c, before);
  if (graphopt_pool_threads() != 1) fail("two threads need one worker");
  if (graphopt_set_threads(-5) != 2 || graphopt_set_threads(0) != 0) fail("no limit");
  for (long i = 0; i < loops; i++) run_and_check(&c, before);
  if (graphopt_pool_threads() != GRAPHOPT_POOL_CPUS - 1) fail("without a limit all CPUs count");
}

static int calls;

static int backwards(void *user, int32_t chunks, graphopt_chunk chunk, void *context) {
  int code = 0;
  if (user != &calls) fail("user's pointer");
  calls++;
  for (int32_t i = chunks - 1; i >= 0; i--) code |= chunk(context, i);
  return code;
}

static void test_own_loops(long loops) {
  uint64_t before[MOST] = {0};
  closure c = {.chunks = MOST, .failing = -1, .caller = pthread_self()};
  graphopt_set_parallel_for(backwards, &calls);
  for (long i = 0; i < loops; i++) run_and_check(&c, before);
  if (calls != loops || graphopt_pool_threads() != 0) fail("the program's own parallel_for was not used");
  c.failing = 7;
  run_and_check(&c, before);
  graphopt_set_parallel_for(NULL, NULL);
  c.failing = -1;
  run_and_check(&c, before);
  if (calls != loops + 1) fail("the pool was not used again");
}

static int wait_for_help(int32_t task, task_group *group, void *context) {
  (void)group;
  closure *c = context;
  if (!pthread_equal(pthread_self(), c->caller)) helped++;
  /* Ten seconds at most: by themselves, workers would look for work after a minute. */
  for (int i = 0; task == 0 && i < 10000 && helped == 0; i++) usleep(1000);
  return 0;
}

static void test_wakes(long rounds) {
  closure c = {.chunks = MOST, .caller = pthread_self()};
  for (; rounds > 0; rounds--) {
    helped = 0;
    parallel_launch(wait_for_help, &c, 0);
    if (helped == 0) fail("sleeping workers were not woken");
    while (atomic_load(&pool.sleepers) < GRAPHOPT_POOL_CPUS - 1) usleep(1000);
  }
}

static void run(const char *test, long loops) {
  if (!strcmp(test, "tiny")) many_loops((void *)loops);
  else if (!strcmp(test, "callers")) with_callers(3, loops);
  else if (!strcmp(test, "crowd")) with_callers(40, loops); /* more than there are slots and CPUs */
  else if (!strcmp(test, "bumpy")) is_bumpy = 1, with_callers(2, loops);
  else if (!strcmp(test, "failures")) test_failures(loops);
  else if (!strcmp(test, "forks")) test_forks(loops);
  else if (!strcmp(test, "idle")) test_idle(loops);
  else if (!strcmp(test, "limits")) test_limits(loops);
  else if (!strcmp(test, "wakes")) test_wakes(loops);
  else if (!strcmp(test, "own")) test_own_loops(loops);
  else fail("no such test");
}

int main(int count, char **arguments) {
  if (count != 3) fail("usage: stress TEST LOOPS");
  run(arguments[1], atol(arguments[2]));
  /* On a busy machine callers may be done before a worker runs at all, which would test nothing. */
  for (int i = 0; i < 1000 && atomic_load(&helped) == 0; i++) many_loops((void *)1000);
  printf("ok %ld\n", atomic_load(&helped));
  return 0;
}
