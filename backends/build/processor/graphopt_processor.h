/* Whether a processor has the instructions of a compiled library: what a library that graphopt wrote for ARM exports about it.
 *
 * Without one of them the program would end with SIGILL. A model's function `layout`, which hosts call before any other, asks by
 * itself, and fails with the same text.
 */
#ifndef GRAPHOPT_PROCESSOR_H
#define GRAPHOPT_PROCESSOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How many features that the code of this library needs this processor lacks; 0: it may run.
 *
 * If there are some, `text` gets a line that names them by Linux's names and says what the library was compiled for: as much of it
 * as `size` bytes hold with the zero at the end. NULL: no text.
 */
int32_t graphopt_missing_features(char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
