// What stands between and after the matrix products of a ConvNeXt block, for a strip of pixels in a cache: bias and GELU
// in place, and Z = S + scale * (Y + bias). Computed in float32, whatever the types in memory.
//
// Plain C; strips.py builds, loads and checks it.

#include <cstdint>

#include "gelu.h"

template <class T>
void bias_gelu(T* x, const float* bias, int64_t rows, int64_t columns, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * columns > 32768)
  for (int64_t r = 0; r < rows; ++r)
    along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
      T* at = x + r * columns + c;
      const Vector v = load(at, lanes) + load_or(bias, c, lanes, 0);
      store(at, v * distribution(v, v * v), lanes);
    });
}

template <class S, class Y, class Z>
void scaled_sum(const S* s, const Y* y, const float* bias, const float* scale, Z* z, int64_t rows, int64_t columns,
                int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * columns > 32768)
  for (int64_t r = 0; r < rows; ++r)
    along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
      const int64_t at = r * columns + c;
      const Vector branch = load(y + at, lanes) + load_or(bias, c, lanes, 0);
      store(z + at, load(s + at, lanes) + load_or(scale, c, lanes, 1) * branch, lanes);
    });
}

template <class S, class Y>
void scaled_sum_to(const S* s, const Y* y, const float* bias, const float* scale, void* z, bool to_bfloat16,
                   int64_t rows, int64_t columns, int threads) {
  to_bfloat16 ? scaled_sum(s, y, bias, scale, static_cast<uint16_t*>(z), rows, columns, threads)
              : scaled_sum(s, y, bias, scale, static_cast<float*>(z), rows, columns, threads);
}

// x: (rows, columns), contiguous, float (bfloat16 = 0) or bfloat16 (1); bias: (columns) or null.
extern "C" void nextify_bias_gelu(void* x, const float* bias, int bfloat16, int64_t rows, int64_t columns,
                                  int threads) {
  bfloat16 ? bias_gelu(static_cast<uint16_t*>(x), bias, rows, columns, threads)
           : bias_gelu(static_cast<float*>(x), bias, rows, columns, threads);
}

// s, y, z: (rows, columns), contiguous, each float or bfloat16 as s_, y_ and z_bfloat16 say; bias, scale: (columns) or
// null.
extern "C" void nextify_scaled_sum(const void* s, int s_bfloat16, const void* y, int y_bfloat16, const float* bias,
                                   const float* scale, void* z, int z_bfloat16, int64_t rows, int64_t columns,
                                   int threads) {
  using F = const float*;
  using H = const uint16_t*;
#define SUM(S, Y) scaled_sum_to(static_cast<S>(s), static_cast<Y>(y), bias, scale, z, z_bfloat16, rows, columns, threads)
  s_bfloat16 ? (y_bfloat16 ? SUM(H, H) : SUM(H, F)) : (y_bfloat16 ? SUM(F, H) : SUM(F, F));
#undef SUM
}
