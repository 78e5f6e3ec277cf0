/* Prints how many features the processor lacks, and the text about them in full and in 12 bytes. */
#include "graphopt_processor.h"

#include <stdio.h>
#include <string.h>

int main(void) {
  char text[256] = "", few[13];
  memset(few, 'x', sizeof few);
  int32_t missing = graphopt_missing_features(text, sizeof text);
  if (graphopt_missing_features(NULL, 0) != missing || graphopt_missing_features(few, 12) != missing) return 1;
  if (few[12] != 'x') return 2;
  if (missing && strlen(few) != 11) return 3;
  printf("%d|%s\n", missing, text);
  return 0;
}
