// What templates of the C++ standard library call: defined here, the library needs no other beside C's, which every process has.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>

void* operator new(size_t size) {
  if (void* memory = malloc(size ? size : 1)) return memory;
  abort();
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }

_LIBCPP_BEGIN_NAMESPACE_STD
[[noreturn]] void __libcpp_verbose_abort(const char* format, ...) noexcept {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  abort();
}
_LIBCPP_END_NAMESPACE_STD
