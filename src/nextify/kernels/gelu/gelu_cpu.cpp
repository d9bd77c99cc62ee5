// GELU with the exact normal distribution, Y = X * Phi(X), and its gradient dX = dY * (Phi(X) + X * phi(X)), elementwise.
//
// phi(x) takes one exponential. Torch calls a library's error function; here the memory sets the speed.
//
// Plain C; cpu.py builds, loads and checks it.

#include <cstdint>

#include "gelu.h"

constexpr int64_t CHUNK = 4096;  // elements a thread takes at once: a multiple of LANES

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
    return load(grad, lanes) * slope(v, square, distribution(v, square));
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
