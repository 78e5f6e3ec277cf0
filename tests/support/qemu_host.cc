// Runs a function of a compiled library and writes its outputs:
//
//   qemu_host [--counted] LIBRARY vm|prim FUNCTION [in:DTYPE:SHAPE:FILE]... [const:DTYPE:SHAPE:FILE]... [out:DTYPE:SHAPE:FILE]...
//
// SHAPE is comma-separated and empty for a scalar; files are raw and little-endian. In mode "vm" FUNCTION belongs to the Relax
// VM executable in LIBRARY and its results go to the outputs; in mode "prim" it is a PrimFunc that takes the outputs as arguments.
// With --counted the function is called once more before, and the call proper lies between the two system calls that
// benchmarks/arm_block_counts.c, a plugin of qemu's, takes for the beginning and the end of what it counts. The library's loops
// run on one thread then, since the plugin can't count several.
#include <dlfcn.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

struct HostAlloc {
  void AllocData(DLTensor* t) {
    size_t bytes = ffi::GetDataSize(*t);
    t->data = aligned_alloc(64, (bytes + 64) / 64 * 64);
    std::memset(t->data, 0xA5, bytes);  // so that an output never written shows
  }
  void FreeData(DLTensor* t) { free(t->data); }
};

// Memory inside of another tensor's, which it keeps.
struct Inside {
  ffi::Tensor whole;
  int64_t start;
  void AllocData(DLTensor* t) { t->data = static_cast<char*>(whole.GetDLTensorPtr()->data) + start; }
  void FreeData(DLTensor*) {}
};

struct Spec {
  bool is_output, is_constant;
  std::string dtype, file;
  std::vector<int64_t> shape;
};

static Spec Parse(const std::string& text) {
  std::istringstream in(text);
  std::string role, shape, dim;
  Spec spec;
  std::getline(in, role, ':');
  std::getline(in, spec.dtype, ':');
  std::getline(in, shape, ':');
  std::getline(in, spec.file);
  spec.is_output = role == "out";
  spec.is_constant = role == "const";
  std::istringstream dims(shape);
  while (std::getline(dims, dim, ',')) spec.shape.push_back(std::stoll(dim));
  return spec;
}

static ffi::Tensor Make(const Spec& spec) {
  return ffi::Tensor::FromNDAlloc(HostAlloc(), ffi::Shape(spec.shape), ffi::StringToDLDataType(spec.dtype),
                                  DLDevice{kDLCPU, 0});
}

static void Transfer(const ffi::Tensor& tensor, const std::string& file, bool write) {
  const DLTensor* t = tensor.GetDLTensorPtr();
  size_t bytes = ffi::GetDataSize(*t);
  FILE* f = std::fopen(file.c_str(), write ? "wb" : "rb");
  if (!f) throw std::runtime_error("cannot open " + file);
  char* data = static_cast<char*>(t->data) + t->byte_offset;
  size_t done = write ? std::fwrite(data, 1, bytes, f) : std::fread(data, 1, bytes, f);
  if (std::fclose(f) != 0 || done != bytes) throw std::runtime_error("short transfer of " + file);
}

static ffi::Any Call(const ffi::Function& f, const std::vector<ffi::Any>& args) {
  std::vector<ffi::AnyView> views(args.begin(), args.end());
  ffi::Any result;
  f.CallPacked(views.data(), static_cast<int32_t>(views.size()), &result);
  return result;
}

static ffi::Any CallCounted(const ffi::Function& f, const std::vector<ffi::Any>& args, bool counted) {
  if (!counted) return Call(f, args);
  constexpr int kStart = 1000001, kStop = 1000002;  // file descriptors that nobody has open
  Call(f, args);
  close(kStart);
  ffi::Any result = Call(f, args);
  close(kStop);
  return result;
}

static void Run(int argc, char** argv) {
  bool counted = argc > 1 && std::string(argv[1]) == "--counted";
  argc -= counted;
  argv += counted;
  if (argc < 4) throw std::runtime_error("usage: qemu_host [--counted] LIBRARY vm|prim FUNCTION SPEC...");
  if (!dlopen("libtvm_runtime.so", RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
  bool is_vm = std::string(argv[2]) == "vm";
  std::vector<ffi::Any> args;
  size_t inputs = 0;
  std::vector<Spec> outputs;
  std::vector<ffi::Tensor> results;
  for (int i = 4; i < argc; ++i) {
    Spec spec = Parse(argv[i]);
    if (spec.is_output) {
      outputs.push_back(spec);
      if (is_vm) continue;
    }
    ffi::Tensor tensor = Make(spec);
    if (spec.is_output) {
      results.push_back(tensor);
    } else {
      Transfer(tensor, spec.file, false);
    }
    args.push_back(tensor);
    inputs += !spec.is_constant;
  }
  ffi::Module library = ffi::Module::LoadFromFile(argv[1]);
  if (counted) {
    if (auto limit = library->GetFunction("graphopt_set_threads", true)) Call(*limit, {1});
  }
  if (is_vm) {
    ffi::Module vm = library->GetFunction("vm_load_executable", false).value()().cast<ffi::Module>();
    constexpr int kPooledAllocator = 2;
    vm->GetFunction("vm_initialization", false).value()(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    // what these functions take and give is written in graphopt/backends/base/relax_emit.py
    std::vector<ffi::Tensor> prepared, returned;
    std::vector<int64_t> places;
    int64_t slots = -1;  // of buffers whose size follows from the extents of inputs; below 0: there are none
    std::vector<int64_t> lodgers;  // of buffers that may lie in others: the memory of their own and the other, in turn
    if (auto layout = vm->GetFunction("layout", false)) {
      auto parts = Call(*layout, {}).cast<ffi::Array<ffi::Shape>>();
      places.assign(parts[1].begin(), parts[1].end());
      if (parts.size() > 2) slots = parts[2][0];
      if (parts.size() > 3) lodgers.assign(parts[3].begin(), parts[3].end());
      std::vector<ffi::Any> memory;
      for (int64_t size : parts[0]) memory.push_back(Make({false, false, "uint8", "", {size}}));
      for (const ffi::Any& item : Call(vm->GetFunction("prepare", false).value(), memory).cast<ffi::Array<ffi::Any>>()) {
        ffi::Tensor buffer = item.cast<ffi::Tensor>();
        DLTensor* t = const_cast<DLTensor*>(buffer.GetDLTensorPtr());  // kernels take no offsets
        t->data = static_cast<char*>(t->data) + t->byte_offset;
        t->byte_offset = 0;
        prepared.push_back(buffer);
        args.push_back(buffer);
      }
    }
    std::string function = argv[3];
    if (slots >= 0) {
      std::vector<ffi::Any> given(args.begin(), args.begin() + inputs), placed;
      ffi::Shape numbers = Call(vm->GetFunction("size", false).value(), given).cast<ffi::Shape>();
      placed.push_back(numbers);
      size_t behind = numbers.size() - lodgers.size() / 2;
      std::vector<ffi::Tensor> memory;
      for (size_t i = behind - slots; i < behind; ++i) memory.push_back(Make({false, false, "uint8", "", {numbers[i]}}));
      for (size_t i = 0; i < lodgers.size() / 2; ++i) {
        int64_t start = numbers[behind + i];
        const ffi::Tensor& there = memory.at(start < 0 ? lodgers[2 * i] : lodgers[2 * i + 1]);
        int64_t first = std::max<int64_t>(start, 0), size = there.shape()[0] - first;
        memory.push_back(ffi::Tensor::FromNDAlloc(Inside{there, first}, ffi::Shape({size}),
                                                  ffi::StringToDLDataType("uint8"), DLDevice{kDLCPU, 0}));
      }
      placed.insert(placed.end(), memory.begin(), memory.end());
      placed.insert(placed.end(), args.begin() + inputs, args.end());
      ffi::Any closure = Call(vm->GetFunction("place", false).value(), placed);
      given.insert(given.begin(), closure);
      args = given;
      function = "invoke_closure";
    }
    ffi::Any result = CallCounted(vm->GetFunction(function, false).value(), args, counted);
    if (auto single = result.as<ffi::Tensor>()) {
      returned.push_back(*single);
    } else {
      for (const ffi::Any& item : result.cast<ffi::Array<ffi::Any>>()) returned.push_back(item.cast<ffi::Tensor>());
    }
    if (places.empty()) places.assign(returned.size(), 0);
    auto next = returned.begin();
    for (int64_t place : places) {
      if (!place && next == returned.end()) throw std::runtime_error("function returned too few results");
      results.push_back(place ? prepared.at(place - 1) : *next++);
    }
  } else {
    CallCounted(library->GetFunction(argv[3], false).value(), args, counted);
  }
  if (results.size() != outputs.size()) throw std::runtime_error("function gave another number of outputs");
  for (size_t i = 0; i < outputs.size(); ++i) {
    ffi::Tensor expected = Make(outputs[i]);
    const DLTensor *a = expected.GetDLTensorPtr(), *b = results[i].GetDLTensorPtr();
    bool same = a->ndim == b->ndim && std::memcmp(&a->dtype, &b->dtype, sizeof(a->dtype)) == 0;
    for (int d = 0; same && d < a->ndim; ++d) same = a->shape[d] == b->shape[d];
    if (!same) throw std::runtime_error("output " + std::to_string(i) + " has another type or shape");
    Transfer(results[i], outputs[i].file, true);
  }
}

int main(int argc, char** argv) {
  try {
    Run(argc, argv);
    return 0;
  } catch (const ffi::Error& e) {
    std::fprintf(stderr, "%s: %s\n", std::string(e.kind()).c_str(), std::string(e.message()).c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
  }
  return 1;
}
