/* Threads for compiled models: what a library that graphopt wrote exports about them.
 *
 * Every compiled library carries this pool. All libraries of a process share one: the first one that is loaded owns the
 * threads (see `graphopt_pool_interface_1` in library.h), and stays loaded. Nothing has to be set up: threads are started by the first loop
 * that wants them, and end when there was nothing to do for `GRAPHOPT_POOL_IDLE_MS`. A forked child has threads of its own.
 */
#ifndef GRAPHOPT_POOL_H
#define GRAPHOPT_POOL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef GRAPHOPT_POOL_IDLE_MS
#define GRAPHOPT_POOL_IDLE_MS 1000
#endif

/* One part of a loop. Parts may run at the same time, in any order, each exactly once.
 *
 * Returns 0, or another number on failure.
 */
typedef int (*graphopt_chunk)(void *context, int32_t chunk);

/* Runs `chunk(context, i)` for every i from 0 to chunks - 1 and returns when all have ended: 0 if all returned 0.
 *
 * It may be called by several threads at once.
 */
typedef int (*graphopt_parallel_for)(void *user, int32_t chunks, graphopt_chunk chunk, void *context);

/* Let the loops of this library run on at most `threads` threads, the caller's included; never more than this process may use
 * CPUs. Below 1 stands for that number, which is also what holds before the first call. Returns what was set before.
 */
int32_t graphopt_set_threads(int32_t threads);

/* Let the loops of this library run on `parallel_for` instead, as for a program that has threads already; NULL: the pool again.
 *
 * Not to be called while the library runs. `graphopt_set_threads` doesn't count then.
 */
void graphopt_set_parallel_for(graphopt_parallel_for parallel_for, void *user);

/* How many threads the pool of this process has started that have not ended; the callers' own are none of them. */
int32_t graphopt_pool_threads(void);

#ifdef __cplusplus
}
#endif

#endif
