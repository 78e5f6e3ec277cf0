/* Models as C libraries, with no runtime behind them: what a library that `graphopt compile -o NAME.so` wrote exports.
 *
 * NAME.h, which is written beside it, has a function for the model with its inputs and outputs as parameters; it is all that most
 * programs need.
 */
#ifndef GRAPHOPT_MODEL_H
#define GRAPHOPT_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A model: constant data, the same for all threads. */
typedef struct graphopt_model graphopt_model;

/* What a run returns. */
enum {
  GRAPHOPT_OK = 0,
  GRAPHOPT_OTHER_PROCESSOR = 1, /* this processor lacks instructions: graphopt_missing_features says which; nothing was run */
  GRAPHOPT_MISALIGNED = 2,      /* `memory`, or an output, is at no multiple of 64 bytes; nothing was run */
  GRAPHOPT_FAILED = 3,          /* a kernel failed, for lack of memory */
  GRAPHOPT_REFUSED = 4          /* a value of an input doesn't fit the model, an index for example: graphopt_refusal says which */
};

/* Bytes of memory that a run works in. */
uint64_t graphopt_memory_bytes(const graphopt_model *model);

/* Runs a model. Several threads may run one at the same time, each with `memory` and outputs of its own.
 *
 * inputs: arrays in the order of the model's inputs, their elements without gaps, the last dimension's side by side. Only read.
 * outputs: arrays for the results, in the order of the model's outputs, each at a multiple of 64 bytes if it has more than 8 KiB.
 * memory: graphopt_memory_bytes(model) bytes at a multiple of 64. Nothing in it is read before it is written.
 */
int32_t graphopt_run(const graphopt_model *model, const void *const *inputs, void *const *outputs, void *memory);

/* Why the last run of this thread returned GRAPHOPT_REFUSED: the node of the model, what doesn't hold, and values. */
const char *graphopt_refusal(void);

#ifdef __cplusplus
}
#endif

#endif
