/* Asks Linux, before the first kernel runs, for the features that a library's code needs. See graphopt_processor.h. */
#include "graphopt_processor.h"

#include <sys/auxv.h>

#ifndef AT_HWCAP2
#define AT_HWCAP2 26
#endif

#define MOST 24

/* One feature: Linux's name, and its bit in AT_HWCAP (word 0) or AT_HWCAP2. A name that is empty ends the list. */
typedef struct {
  uint8_t word, bit;
  char name[14];
} feature;

/* graphopt writes over this table when it links a library; it finds it by the mark. A library that it wasn't written for needs nothing. */
typedef struct {
  char mark[16], target[64];
  feature features[MOST];
} requirements;

__attribute__((visibility("hidden"))) const volatile requirements graphopt_requirements = {
    .mark = "GRAPHOPT NEEDS:", .target = "another processor", .features = {{0, 0, ""}}};

typedef struct {
  char *next;
  size_t left;
} writer;

static void put(writer *to, const volatile char *text, size_t most) {
  for (size_t i = 0; i < most && text[i] && to->left > 1; i++, to->left--) *to->next++ = text[i];
  if (to->left) *to->next = 0;
}

static int32_t write_missing(char *text, size_t size) {
  unsigned long words[2] = {getauxval(AT_HWCAP), getauxval(AT_HWCAP2)};
  writer to = {text, text ? size : 0};
  int32_t missing = 0;
  for (int i = 0; i < MOST && graphopt_requirements.features[i].name[0]; i++) {
    const volatile feature *f = &graphopt_requirements.features[i];
    if (f->bit < 8 * sizeof(long) && words[f->word & 1] >> f->bit & 1) continue;
    put(&to, missing++ ? ", " : "this processor lacks ", 64);
    put(&to, f->name, sizeof f->name);
  }
  if (missing) {
    put(&to, ", which the code needs: it was compiled for ", 64);
    put(&to, graphopt_requirements.target, sizeof graphopt_requirements.target);
  }
  return missing;
}

int32_t graphopt_missing_features(char *text, size_t size) { return write_missing(text, size); }

/* ---- The same for TVM's calling convention, by which a module's functions are found by name --------------------------- */

typedef struct {
  int32_t type; /* 0: nothing */
  uint32_t padding;
  int64_t value;
} tvm_any; /* TVMFFIAny */

/* Keeps an error for the calling thread. Absent from programs without TVM. */
extern void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) __attribute__((weak));

int __tvm_ffi_graphopt_require_processor(void *self, const tvm_any *arguments, int32_t count, tvm_any *result) {
  (void)self, (void)arguments, (void)count;
  char text[512];
  if (write_missing(text, sizeof text)) {
    if (TVMFFIErrorSetRaisedFromCStr) TVMFFIErrorSetRaisedFromCStr("RuntimeError", text);
    return -1;
  }
  tvm_any nothing = {0, 0, 0};
  *result = nothing;
  return 0;
}
