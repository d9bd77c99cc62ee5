// GELU with the exact normal distribution, Y = X * Phi(X), and its gradient dX = dY * (Phi(X) + X * phi(X)), elementwise.
//
// phi(x) takes one exponential. Torch calls a library's error function; here the memory sets the speed.
//
// Plain C; nextify/nn/gelu.py builds it, loads it and checks it.

#include <cstdint>

#include "gelu.h"

constexpr int64_t CHUNK = 4096;  // elements a thread takes at once: a multiple of LANES

// exp(-square / 2) for square >= 0: 2^n times a polynomial on half a binade (Taylor's, error 2e-7 relative).
INLINE Vector bell(Vector square) {
  Vector y = square * -0.7213475204f;  // the exponent to the base 2
  y = choose((Bits)(y < -126.f), same(-126.f), y);
  const Vector shift = same(12582912.f);  // 1.5 * 2^23: adding it rounds to the nearest whole number
  const Vector whole = y + shift, n = whole - shift, r = (y - n) * 0.6931471806f;
  Vector e = same(1.f / 720);
  e = e * r + 1.f / 120;
  e = e * r + 1.f / 24;
  e = e * r + 1.f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.f;
  e = e * r + 1.f;
  return (Vector)((Bits)e + ((Bits)whole << 23));
}

struct Value {
  template <class T>
  INLINE Vector operator()(const T* x, const T*, int64_t lanes) const {
    const Vector v = load(x, lanes);
    return v * distribution(v, v * v);
  }
};

struct Gradient {
  template <class T>
  INLINE Vector operator()(const T* x, const T* grad, int64_t lanes) const {
    const Vector v = load(x, lanes), square = v * v;
    return load(grad, lanes) * (distribution(v, square) + v * bell(square) * 0.3989422804f);
  }
};

template <class Function, class T>
void all(Function function, const void* x, const void* grad, void* out, int64_t size, int threads) {
  const int64_t chunks = (size + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && chunks > 8)
  for (int64_t i = 0; i < chunks; ++i) {
    const int64_t begin = i * CHUNK, count = size - begin < CHUNK ? size - begin : CHUNK;
    const T *xs = static_cast<const T*>(x) + begin, *grads = static_cast<const T*>(grad) + begin;
    T* outs = static_cast<T*>(out) + begin;
    along(count, [&](int64_t j, int64_t lanes) __attribute__((always_inline)) {
      store(outs + j, function(xs + j, grads + j, lanes), lanes);
    });
  }
}

// x, grad and out: `size` contiguous elements of one type, float (bfloat16 = 0) or bfloat16 (1).
extern "C" void nextify_gelu(const void* x, void* out, int bfloat16, int64_t size, int threads) {
  bfloat16 ? all<Value, uint16_t>({}, x, x, out, size, threads) : all<Value, float>({}, x, x, out, size, threads);
}

extern "C" void nextify_gelu_grad(const void* x, const void* grad, void* out, int bfloat16, int64_t size, int threads) {
  bfloat16 ? all<Gradient, uint16_t>({}, x, grad, out, size, threads)
           : all<Gradient, float>({}, x, grad, out, size, threads);
}
