/* Runs a model by a table: calls kernels in order, as TVM's virtual machine would, on memory of the caller. See graphopt_model.h.
 *
 * The table is data that graphopt writes (c_library/__init__.py), with the same layout for 32 and 64 bits.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "graphopt_model.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64
#define HIDDEN __attribute__((visibility("hidden")))

/* An argument of a kernel, in TVM's calling convention. */
typedef struct {
  int32_t type;
  uint32_t padding;
  union {
    int64_t whole;
    double real;
    const char *text;
    void *tensor;
  } value;
} any; /* TVMFFIAny */

enum { NOTHING = 0, WHOLE = 1, REAL = 3, TENSOR = 7, TEXT = 8 }; /* kTVMFFINone, Int, Float, DLTensorPtr, RawStr */

/* Of a tensor whose shape is known when it is compiled, kernels read the pointer alone. */
typedef struct {
  void *data;
  int32_t device[2], ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} tensor; /* DLTensor */

typedef int32_t (*question)(char *text, size_t size); /* graphopt_missing_features */

typedef int (*kernel)(void *self, const any *arguments, int32_t count, any *result);

#define SLOT(type, name) \
  union {                \
    type name;           \
    uint64_t name##_bits; \
  }

enum { INPUT, OUTPUT, MEMORY, CONSTANT };

typedef struct {
  uint32_t kind, index;
  uint64_t offset;
} place;

typedef struct {
  SLOT(kernel, call);
  uint32_t first, count; /* of its arguments in `places` */
} step;

/* A result that lies elsewhere when the last kernel has run. */
typedef struct {
  place from;
  uint64_t output, bytes;
} copy;

struct graphopt_model {
  uint64_t memory_bytes;
  uint32_t steps, copies, most_arguments, zero;
  SLOT(const step *, step);
  SLOT(const place *, places);
  SLOT(const copy *, copy);
  SLOT(uint8_t *, constants); /* only read, but kernels take all tensors alike */
  SLOT(question, missing_features); /* NULL: nobody asks */
};

/* TVM fills these pointers at loading where it finds them; hidden, they are not found. A kernel's large temporaries come from here. */
static void *allocate(int device, int id, uint64_t size, int code, int bits) {
  (void)device, (void)id, (void)code, (void)bits;
  void *found = NULL;
  if (size > SIZE_MAX / 2) return NULL;
  return posix_memalign(&found, ALIGNMENT, (size_t)size) ? NULL : found;
}

static int release(int device, int id, void *memory) {
  (void)device, (void)id;
  free(memory);
  return 0;
}

HIDDEN void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
HIDDEN int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;

/* ---- What kernels call to refuse a value: functions of the registry that TVM would have -------------------------------- */

enum { REFUSE = 1, RESERVE = 2 };

static _Thread_local char refused[256];

static int is_same(const char *a, const char *b) { return strcmp(a, b) == 0; }

static int look_up(void *library, const char *name, void **found) {
  (void)library;
  *found = (void *)(uintptr_t)(is_same(name, "graphopt.refuse") ? REFUSE : is_same(name, "graphopt.reserve") ? RESERVE : 0);
  return *found ? 0 : -1;
}

static int once(void **handle, int (*init)(void **)) { return *handle ? 0 : init(handle); } /* the same for all threads */

/* graphopt.refuse(where, why, name, value, ...) */
static int call(void *function, const any *arguments, int32_t count, any *result) {
  any nothing = {NOTHING, 0, {0}};
  *result = nothing;
  if ((uintptr_t)function == RESERVE) return 0; /* memory that isn't there shows when it is asked for */
  size_t length = 0;
  for (int32_t i = 0; i < count && length < sizeof refused; i++) {
    const char *between = i == 0 ? "" : i == 1 ? ": " : i == 2 ? ": " : i % 2 ? " = " : ", ";
    char *to = refused + length;
    size_t left = sizeof refused - length;
    const any *a = &arguments[i];
    int wrote = a->type == TEXT    ? snprintf(to, left, "%s%s", between, a->value.text)
                : a->type == WHOLE ? snprintf(to, left, "%s%lld", between, (long long)a->value.whole)
                                   : snprintf(to, left, "%s%g", between, a->value.real);
    if (wrote > 0) length += (size_t)wrote;
  }
  return -1;
}

HIDDEN int (*__TVMFFIEnvModLookupFromImports)(void *, const char *, void **) = look_up;
HIDDEN int (*__TVMFFIHandleInitOnce)(void **, int (*)(void **)) = once;
HIDDEN int (*__TVMFFIFunctionCall)(void *, const any *, int32_t, any *) = call;

const char *graphopt_refusal(void) { return refused; }

uint64_t graphopt_memory_bytes(const graphopt_model *model) { return model->memory_bytes; }

typedef struct {
  const graphopt_model *model;
  const void *const *inputs;
  void *const *outputs;
  uint8_t *memory;
} run;

static void *at(const run *r, const place *p) {
  switch (p->kind) {
    case INPUT:
      return (uint8_t *)r->inputs[p->index] + p->offset;
    case OUTPUT:
      return (uint8_t *)r->outputs[p->index] + p->offset;
    case MEMORY:
      return r->memory + p->offset;
    default:
      return r->model->constants + p->offset;
  }
}

static int is_aligned(const void *pointer) { return (uintptr_t)pointer % ALIGNMENT == 0; }

static int fits(const run *r) {
  const graphopt_model *m = r->model;
  if (m->memory_bytes && !is_aligned(r->memory)) return 0;
  for (uint32_t i = 0; i < m->steps; i++)
    for (uint32_t j = 0; j < m->step[i].count; j++) {
      const place *p = &m->places[m->step[i].first + j];
      if (p->kind == OUTPUT && !is_aligned(r->outputs[p->index])) return 0;
    }
  return 1;
}

int32_t graphopt_run(const graphopt_model *model, const void *const *inputs, void *const *outputs, void *memory) {
  run r = {model, inputs, outputs, memory};
  if (model->missing_features && model->missing_features(NULL, 0)) return GRAPHOPT_OTHER_PROCESSOR;
  if (!fits(&r)) return GRAPHOPT_MISALIGNED;
  refused[0] = 0;
  any arguments[model->most_arguments + 1];
  tensor tensors[model->most_arguments + 1];
  memset(tensors, 0, sizeof tensors);
  for (uint32_t i = 0; i < model->steps; i++) {
    const step *s = &model->step[i];
    for (uint32_t j = 0; j < s->count; j++) {
      tensors[j].data = at(&r, &model->places[s->first + j]);
      any argument = {TENSOR, 0, {0}};
      argument.value.tensor = &tensors[j];
      arguments[j] = argument;
    }
    any result = {NOTHING, 0, {0}};
    if (s->call(NULL, arguments, (int32_t)s->count, &result)) return refused[0] ? GRAPHOPT_REFUSED : GRAPHOPT_FAILED;
  }
  for (uint32_t i = 0; i < model->copies; i++) {
    const copy *c = &model->copy[i];
    memcpy(outputs[c->output], at(&r, &c->from), c->bytes);
  }
  return GRAPHOPT_OK;
}
