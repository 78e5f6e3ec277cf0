/* How libraries reach the pool: the symbol that all of a process share, what each exports, and what its kernels call. */
#ifndef GRAPHOPT_POOL_LIBRARY_H
#define GRAPHOPT_POOL_LIBRARY_H

#define HIDDEN __attribute__((visibility("hidden")))

/* ---- One pool a process ----------------------------------------------------------------------------------------------- */

/* What the libraries of a process share. The dynamic linker makes all of them use the first one's, even if each is loaded where
 * others can't see its symbols, and never unloads that one: this is what symbols of type GNU_UNIQUE are for. The name has the
 * version in it; libraries of another version have a pool of their own. It is defined in assembly, since compilers for C can't.
 */
typedef struct {
  int (*launch)(const loop_request *request);
  int32_t (*threads)(void);
} pool_interface;

extern pool_interface graphopt_pool_interface_1;

HIDDEN int graphopt_pool_launch(const loop_request *request) { return launch(request); }

HIDDEN int32_t graphopt_pool_count(void) { return (int32_t)atomic_load(&pool.workers); }

#if __SIZEOF_POINTER__ == 8
#define ADDRESS ".quad"
#define ADDRESS_BYTES "8"
#else
#define ADDRESS ".long"
#define ADDRESS_BYTES "4"
#endif
__asm__(
    ".pushsection .data.rel.ro,\"aw\"\n"
    ".balign 8\n"
    ".type graphopt_pool_interface_1,%gnu_unique_object\n"
    ".size graphopt_pool_interface_1,2*" ADDRESS_BYTES "\n"
    "graphopt_pool_interface_1:\n"
    ADDRESS " graphopt_pool_launch\n"
    ADDRESS " graphopt_pool_count\n"
    ".popsection\n");

/* ---- What a library exports, and what its kernels call ---------------------------------------------------------------- */

static _Atomic(int32_t) threads_of_library;
static graphopt_parallel_for own_parallel_for;
static void *user_of_own;

typedef struct {
  const loop_request *request;
  task_group group;
} foreign_loop;

static int foreign_chunk(void *context, int32_t chunk) {
  foreign_loop *loop = context;
  return loop->request->lambda(chunk, &loop->group, loop->request->closure);
}

/* Keeps an error for the calling thread. Absent from programs without TVM. */
extern void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) __attribute__((weak));

/* The first variable that a loop captures is the number of its chunks: graphopt.backends.build.chunks puts it there. */
static int parallel_launch(loop_lambda lambda, void *closure, int32_t tasks) {
  (void)tasks; /* 0: generated code leaves the number to the pool */
  loop_request request = {lambda, closure, *(const int32_t *)closure, atomic_load(&threads_of_library)};
  int failed;
  if (own_parallel_for) {
    foreign_loop loop = {&request, {NULL, request.chunks}};
    failed = own_parallel_for(user_of_own, request.chunks, foreign_chunk, &loop) ? FAILED_ELSEWHERE : 0;
  } else {
    failed = graphopt_pool_interface_1.launch(&request);
  }
  if (failed == FAILED_ELSEWHERE && TVMFFIErrorSetRaisedFromCStr) /* a chunk's own error stays with the thread that ran it */
    TVMFFIErrorSetRaisedFromCStr("RuntimeError", "a part of a parallel loop failed, most likely for lack of memory");
  return failed ? -1 : 0;
}

/* Kernels call through this pointer. TVM fills it at loading where it finds it; hidden, it is not found. */
HIDDEN int (*__TVMBackendParallelLaunch)(loop_lambda, void *, int32_t) = parallel_launch;

int32_t graphopt_set_threads(int32_t threads) { return atomic_exchange(&threads_of_library, threads < 1 ? 0 : threads); }

void graphopt_set_parallel_for(graphopt_parallel_for parallel_for, void *user) {
  user_of_own = user;
  own_parallel_for = parallel_for;
}

int32_t graphopt_pool_threads(void) { return graphopt_pool_interface_1.threads(); }

/* ---- The same for TVM's calling convention, by which a module's functions are found by name --------------------------- */

typedef struct {
  int32_t type; /* 1: an integer */
  uint32_t padding;
  int64_t value;
} tvm_any; /* TVMFFIAny */

int __tvm_ffi_graphopt_set_threads(void *self, const tvm_any *arguments, int32_t count, tvm_any *result) {
  (void)self;
  tvm_any previous = {1, 0, graphopt_set_threads(count == 1 && arguments[0].type == 1 ? (int32_t)arguments[0].value : 0)};
  *result = previous;
  return 0;
}

int __tvm_ffi_graphopt_pool_threads(void *self, const tvm_any *arguments, int32_t count, tvm_any *result) {
  (void)self, (void)arguments, (void)count;
  tvm_any found = {1, 0, graphopt_pool_threads()};
  *result = found;
  return 0;
}

#endif
