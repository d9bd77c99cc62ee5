// SIMD vectors of LANES floats through GCC's and Clang's vector extensions, for any CPU they know, with loads and stores
// that widen and round bfloat16. Shared by the kernels of this folder; plain C++, no torch.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

#define INLINE inline __attribute__((always_inline))
typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef float LooseVector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t LooseHalf __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

template <int... I, class F>
INLINE void repeat_(std::integer_sequence<int, I...>, F f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
INLINE void repeat(F f) {
  repeat_(std::make_integer_sequence<int, N>{}, f);
}

template <class I>
constexpr int number = std::decay_t<I>::value;  // of the index that `repeat` hands over

INLINE Vector load(const float* p) { return *reinterpret_cast<const LooseVector*>(p); }
INLINE Vector load(const uint16_t* p) {  // bfloat16 is the upper half of a float
  return (Vector)(__builtin_convertvector(*reinterpret_cast<const LooseHalf*>(p), Bits) << 16);
}
INLINE Vector same(float value) { return Vector{} + value; }

template <class T>
INLINE Vector load(const T* p, int64_t channels) {  // fewer channels than lanes: the rest is zero
  if (__builtin_expect(channels >= LANES, 1)) return load(p);
  T lanes[LANES] = {};
  std::memcpy(lanes, p, channels * sizeof(T));
  return load(lanes);
}
INLINE Vector load_or(const float* p, int64_t at, int64_t lanes, float otherwise) {  // where there is no p
  return p ? load(p + at, lanes) : same(otherwise);
}

INLINE void store(float* p, Vector v) { *reinterpret_cast<LooseVector*>(p) = v; }
// As bfloat16 in the upper half of each lane, to nearest even; a NaN stays one.
INLINE Bits rounded(Vector v) {
  const Bits bits = (Bits)v, number = (Bits)(v == v);
  return (((bits + 0x7fff + ((bits >> 16) & 1)) & number) | (~number & 0x7fc00000u)) & 0xffff0000u;
}
INLINE void store(uint16_t* p, Vector v) {
  *reinterpret_cast<LooseHalf*>(p) = __builtin_convertvector(rounded(v) >> 16, LooseHalf);
}
template <class T>
INLINE void store(T* p, Vector v, int64_t channels) {  // the first of its lanes only
  if (__builtin_expect(channels >= LANES, 1)) return store(p, v);
  T lanes[LANES];
  store(lanes, v);
  std::memcpy(p, lanes, channels * sizeof(T));
}

// f(offset, lanes) on every vector of `size` elements; the last one may have fewer lanes.
template <class F>
INLINE void along(int64_t size, F f) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) f(i, int64_t(LANES));
  if (i < size) f(i, size - i);
}
