// Atomics: nothing runs beside a thread here, so that plain accesses behind a check are enough.
#pragma once

template <class T, class F>
__attribute__((no_sanitize("thread"))) static inline T sim_exchange(T* place, F next) {
  sim_atomic((void*)place, sizeof(T));
  T old = *place;
  *place = next(old);
  return old;
}
template <class T>
struct sim_value {
  typedef T type;
};
#define SIM_ATOMIC(NAME, EXPRESSION)                                               \
  template <class T>                                                               \
  static inline T NAME(T* place, typename sim_value<T>::type value) {              \
    return sim_exchange(place, [=](T old) { return T(EXPRESSION); });              \
  }
SIM_ATOMIC(atomicAdd, old + value)
SIM_ATOMIC(atomicSub, old - value)
SIM_ATOMIC(atomicExch, value)
SIM_ATOMIC(atomicMin, old < value ? old : value)
SIM_ATOMIC(atomicMax, old > value ? old : value)
SIM_ATOMIC(atomicAnd, old& value)
SIM_ATOMIC(atomicOr, old | value)
SIM_ATOMIC(atomicXor, old ^ value)
SIM_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef SIM_ATOMIC
template <class T>
static inline T atomicCAS(T* place, typename sim_value<T>::type expected, typename sim_value<T>::type value) {
  return sim_exchange(place, [=](T old) { return old == expected ? value : old; });
}
static inline void __threadfence() { sim_fence(); }
static inline void __threadfence_block() {}
static inline void __threadfence_system() { sim_fence(); }
static inline void __trap() { sim_trap(); }
