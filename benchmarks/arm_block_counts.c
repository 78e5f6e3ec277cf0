/* A plugin of qemu-aarch64 (7.2, plugin API 1): how often a thread runs each translated block of instructions between two marks.
 *
 * The thread marks what is to be counted by two system calls that do nothing: close(1000001) begins, close(1000002) writes what
 * was counted to the file that is the plugin's argument. Its first line is the number of instructions that other threads ran
 * meanwhile, the others are one block each:
 *
 *     COUNT ADDRESS OFFSET CODE PATH
 *
 * OFFSET is that of the block's first instruction in the mapped file PATH (- and 0 for code that belongs to none), all but
 * COUNT are hexadecimal, CODE holds the instructions' bytes in order. qemu's header isn't packaged by Debian, so what is used
 * of the interface is declared here. */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned int, void *), enum qemu_plugin_cb_flags,
                                          void *);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t,
                                                                     uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                                     uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *);

int qemu_plugin_version = 1;

enum { CLOSE = 57, START = 1000001, STOP = 1000002, NOBODY = -1 };

struct block {
  struct block *next;
  uint64_t count, address, offset;
  char *path; /* NULL for code outside of files */
  size_t size;
  uint32_t code[];
};

static struct block *blocks;
static const char *result;
static int counted_thread = NOBODY;
static uint64_t others; /* may miss some where two other threads count at once: it only has to tell few from many */

struct mapping {
  uint64_t start, end, offset;
  char *path; /* NULL where no file is mapped */
};

static struct mapping *mappings;
static size_t n_mappings;

/* Asks the kernel for the mappings of this process, guest's and host's. */
static void read_mappings(void) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[4096];
  if (!maps) abort();
  for (size_t i = 0; i < n_mappings; ++i) free(mappings[i].path);
  n_mappings = 0;
  while (fgets(line, sizeof line, maps)) {
    struct mapping m = {0};
    int name = 0;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %*s %n", &m.start, &m.end, &m.offset, &name) != 3) continue;
    line[strcspn(line, "\n")] = 0;
    if (name && line[name] == '/') m.path = strdup(line + name);
    mappings = realloc(mappings, (n_mappings + 1) * sizeof *mappings);
    if (!mappings) abort();
    mappings[n_mappings++] = m;
  }
  fclose(maps);
}

static const struct mapping *mapping_of(uint64_t host) {
  for (size_t i = 0; i < n_mappings; ++i)
    if (host >= mappings[i].start && host < mappings[i].end) return &mappings[i];
  return NULL;
}

/* Finds the file that holds the code at a host address, when the code is translated: the library may have been unloaded when
 * counters are written. What lies in a known file is taken for it, anything else makes the mappings be read again. */
static void locate(uint64_t host, struct block *b) {
  const struct mapping *m = mapping_of(host);
  if (!m || !m->path) {
    read_mappings();
    m = mapping_of(host);
  }
  if (!m || !m->path) return;
  b->path = strdup(m->path);
  b->offset = m->offset + (host - m->start);
}

static void executed(unsigned int cpu, void *data) {
  struct block *b = data;
  if (counted_thread == NOBODY) return;
  if ((int)cpu == counted_thread) {
    ++b->count;
  } else {
    others += b->size;
  }
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  (void)id;
  size_t size = qemu_plugin_tb_n_insns(tb);
  struct qemu_plugin_insn *first = qemu_plugin_tb_get_insn(tb, 0);
  struct block *b = calloc(1, sizeof *b + size * sizeof *b->code);
  if (!b) abort();
  b->address = qemu_plugin_insn_vaddr(first);
  b->size = size;
  for (size_t i = 0; i < size; ++i) memcpy(&b->code[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
  locate((uint64_t)(uintptr_t)qemu_plugin_insn_haddr(first), b);
  b->next = blocks;
  blocks = b;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, QEMU_PLUGIN_CB_NO_REGS, b);
}

static void write_counts(void) {
  FILE *out = fopen(result, "w");
  if (!out) {
    perror(result);
    abort();
  }
  fprintf(out, "%" PRIu64 "\n", others);
  for (const struct block *b = blocks; b; b = b->next) {
    if (!b->count) continue;
    fprintf(out, "%" PRIu64 " %" PRIx64 " %" PRIx64 " ", b->count, b->address, b->offset);
    const unsigned char *bytes = (const unsigned char *)b->code;
    for (size_t i = 0; i < 4 * b->size; ++i) fprintf(out, "%02x", bytes[i]);
    fprintf(out, " %s\n", b->path ? b->path : "-");
  }
  fclose(out);
}

static void called(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != CLOSE) return;
  if (a1 == START) {
    counted_thread = cpu;
  } else if (a1 == STOP) {
    counted_thread = NOBODY;
    write_counts();
  }
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
  (void)info;
  if (argc != 1) {
    fprintf(stderr, "arm_block_counts takes the file to write as its one argument\n");
    return 1;
  }
  const char *equals = strchr(argv[0], '=');
  result = strdup(equals ? equals + 1 : argv[0]);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
