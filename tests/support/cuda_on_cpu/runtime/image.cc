#include "image.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "finding.h"

namespace sim {
namespace {

// An array's symbol is "_ZZ<length><kernel>E<length><name>" (or "_ZZ<length><kernel>vE...", arguments), as the Itanium ABI mangles
// a static variable of a function; a kernel has C linkage, so that its part is the bare name.
bool parse_symbol(const char* symbol, SharedArray& array) {
  array.kernel = nullptr;
  if (strncmp(symbol, "_ZZ", 3)) {
    array.name = strdup(symbol);
    return true;
  }
  char* rest;
  const char* at = symbol + 3;
  long length = strtol(at, &rest, 10);
  if (rest == at) return false;
  char* function = strndup(rest, length);
  at = rest + length;
  bool is_kernel = *at == 'E';
  while (*at && *at != 'E') at++;
  if (*at == 'E') at++;
  length = strtol(at, &rest, 10);
  array.name = rest == at ? strdup(symbol) : strndup(rest, length);
  if (is_kernel) {
    array.kernel = function;
  } else {
    free(function);
  }
  return true;
}

// Reads the symbols of the section "sim_shared" from the file: those of a function's static variables aren't exported.
void read_arrays(const char* path, Image& image) {
  int file = open(path, O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status)) return;
  void* mapped = mmap(nullptr, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return;
  const char* content = static_cast<const char*>(mapped);
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(content);
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(content + header->e_shoff);
  const char* names = content + sections[header->e_shstrndx].sh_offset;
  int wanted = -1;
  for (int i = 0; i < header->e_shnum; i++) {
    if (!strcmp(names + sections[i].sh_name, "sim_shared")) wanted = i;
  }
  for (int i = 0; i < header->e_shnum && wanted >= 0; i++) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(content + sections[i].sh_offset);
    const char* strings = content + sections[sections[i].sh_link].sh_offset;
    for (size_t s = 0; s < sections[i].sh_size / sizeof(*symbols); s++) {
      if (symbols[s].st_shndx != wanted || ELF64_ST_TYPE(symbols[s].st_info) != STT_OBJECT) continue;
      SharedArray array;
      if (!parse_symbol(strings + symbols[s].st_name, array)) continue;
      array.offset = symbols[s].st_value - sections[wanted].sh_addr;
      array.size = symbols[s].st_size;
      image.arrays.push_back(array);
    }
    image.shared_size = sections[wanted].sh_size;
    image.shared_base = sections[wanted].sh_addr;  // an offset until the library's base is added
  }
  munmap(mapped, status.st_size);
}

}  // namespace

Image* load_image(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    found("image", "%s", dlerror());
    return nullptr;
  }
  auto* image = new Image;
  image->library = library;
  image->is_checked = dlsym(library, "sim_is_checked") != nullptr;
  read_arrays(path, *image);
  struct link_map* map;
  if (!dlinfo(library, RTLD_DI_LINKMAP, &map)) image->shared_base += map->l_addr;
  return image;
}

void unload_image(Image* image) {
  for (SharedArray& array : image->arrays) {
    free(array.name);
    free(array.kernel);
  }
  dlclose(image->library);
  delete image;
}

Kernel Image::kernel(const char* name) const {
  char symbol[512];
  auto find = [&](const char* what) {
    snprintf(symbol, sizeof(symbol), "sim_%s_%s", what, name);
    return dlsym(library, symbol);
  };
  void *call = find("call"), *sizes = find("sizes"), *threads = find("threads");
  if (!call || !sizes || !threads) return {nullptr, nullptr, 0};
  return {reinterpret_cast<void (*)(void**)>(call), reinterpret_cast<const int* (*)()>(sizes)(),
          reinterpret_cast<int (*)()>(threads)()};
}

}  // namespace sim
