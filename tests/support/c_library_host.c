/* Runs a C library that it loads by name: c_library_host LIBRARY TABLE [in:FILE]... [out:BYTES:FILE]...
 *
 * Inputs are placed one element (4 bytes) off a multiple of 64, outputs at one. The status of the run is this program's.
 */
#include "graphopt_model.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 32

static char *memory(size_t size) {
  char *found = aligned_alloc(64, (size + 128) / 64 * 64);
  if (!found) exit(100);
  memset(found, 0xA5, size + 1); /* so that what is never written shows */
  return found;
}

int main(int argc, char **argv) {
  if (argc < 3) return 101;
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    return 102;
  }
  const graphopt_model *model = dlsym(library, argv[2]);
  int32_t (*run)(const graphopt_model *, const void *const *, void *const *, void *) = dlsym(library, "graphopt_run");
  uint64_t (*bytes)(const graphopt_model *) = dlsym(library, "graphopt_memory_bytes");
  int32_t (*missing)(char *, size_t) = dlsym(library, "graphopt_missing_features");
  if (!model || !run || !bytes) return 103;
  const void *inputs[MOST];
  void *outputs[MOST];
  size_t sizes[MOST];
  const char *files[MOST];
  int in = 0, out = 0;
  for (int i = 3; i < argc; i++) {
    char *at = NULL;
    if (strncmp(argv[i], "in:", 3) == 0) {
      FILE *f = fopen(argv[i] + 3, "rb");
      if (!f) return 104;
      fseek(f, 0, SEEK_END);
      size_t size = (size_t)ftell(f);
      rewind(f);
      char *data = memory(size + 4) + 4;
      if (fread(data, 1, size, f) != size) return 105;
      fclose(f);
      inputs[in++] = data;
    } else {
      sizes[out] = strtoul(argv[i] + 4, &at, 10);
      files[out] = at + 1;
      outputs[out] = memory(sizes[out]);
      out++;
    }
  }
  const char *(*refusal)(void) = dlsym(library, "graphopt_refusal");
  int32_t status = run(model, inputs, outputs, memory(bytes(model)));
  char text[256] = "";
  if (missing && missing(text, sizeof text)) fprintf(stderr, "%s\n", text);
  if (status == GRAPHOPT_REFUSED) fprintf(stderr, "%s\n", refusal());
  for (int i = 0; i < out && status == GRAPHOPT_OK; i++) {
    FILE *f = fopen(files[i], "wb");
    if (!f || fwrite(outputs[i], 1, sizes[i], f) != sizes[i] || fclose(f)) return 106;
  }
  return status;
}
