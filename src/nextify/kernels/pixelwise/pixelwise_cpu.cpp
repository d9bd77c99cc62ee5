// What a ConvNeXt block does to each pixel by itself, with matrix products of our own (product.h): norm, product, bias
// and GELU, product, and Z = S + scale * (Y + bias).
//
// Between the products nothing is written but the hidden activations of a strip of pixels; where there is a training to
// come back to them, also as they were before GELU, for all pixels.
//
// Plain C interface; products.py builds, loads and checks it.

#include <cstdint>

#include "gelu.h"
#include "product.h"

struct Work {
  const void *x, *shortcut, *weight1, *weight2;  // (rows, inputs), (rows, outputs) or null, Linear's
  const float *norm_weight, *norm_bias, *bias1, *bias2, *scale;  // or null
  void *inputs, *hidden, *panels, *before, *z;  // (strip, inputs), (strip, wide), a panel a thread, (rows, wide) or null, (rows, outputs)
  int64_t rows, columns, wide, outputs, strip;
  float eps;
  int x_half, shortcut_half, weight1_half, weight2_half, inner_half, z_half;  // bfloat16 (1) or float (0)
  int threads;
};

// Bytes of a thread's panel.
extern "C" int64_t nextify_pixelwise_panel(int64_t columns, int64_t wide, int half) {
  const int64_t inner = columns > wide ? columns : wide;
  return half ? panel_bytes<uint16_t>(inner) : panel_bytes<float>(inner);
}

template <class T>
void run(const Work& w) {
  T *inputs = static_cast<T*>(w.inputs), *hidden = static_cast<T*>(w.hidden), *before = static_cast<T*>(w.before);
  const int64_t bytes = nextify_pixelwise_panel(w.columns, w.wide, w.inner_half);
  in_large_pages(w.z, w.rows * w.outputs * (w.z_half ? 2 : 4));
  if (before) in_large_pages(before, w.rows * w.wide * sizeof(T));
#pragma omp parallel num_threads(w.threads)
  for (int64_t start = 0; start < w.rows; start += w.strip) {
    uint32_t* memory = reinterpret_cast<uint32_t*>(static_cast<char*>(w.panels) + omp_get_thread_num() * bytes);
    const int64_t rows = w.rows - start < w.strip ? w.rows - start : w.strip, from = start * w.columns;
    if (w.x_half)
      normalize(static_cast<const uint16_t*>(w.x) + from, w.norm_weight, w.norm_bias, w.eps, inputs, rows, w.columns);
    else
      normalize(static_cast<const float*>(w.x) + from, w.norm_weight, w.norm_bias, w.eps, inputs, rows, w.columns);
    product<T>({inputs, w.columns}, rows, w.columns, ByColumn{w.weight1, w.weight1_half != 0}, w.wide, memory,
               w.threads, [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                 const Vector v = sum + load_or(w.bias1, c, lanes, 0);
                 if (before) {
                   T* at = before + (start + r) * w.wide + c;
                   __builtin_prefetch(at + 2 * ROWS * w.wide, 1);  // rows are apart: nothing else calls for the next
                   put(at, v, lanes);
                 }
                 put(hidden + r * w.wide + c, v * distribution(v, v * v), lanes);
               });
#pragma omp barrier
    product<T>({hidden, w.wide}, rows, w.wide, ByColumn{w.weight2, w.weight2_half != 0}, w.outputs, memory, w.threads,
               [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                 const int64_t at = (start + r) * w.outputs + c;
                 Vector z = load_or(w.scale, c, lanes, 1) * (sum + load_or(w.bias2, c, lanes, 0));
                 if (w.shortcut) z += load(w.shortcut, w.shortcut_half, at, lanes);
                 w.z_half ? put(static_cast<uint16_t*>(w.z) + at, z, lanes) : put(static_cast<float*>(w.z) + at, z, lanes);
               });
#pragma omp barrier
  }
}

// Returns 0, or 1 where a number of columns does not fill words of 32 bits.
extern "C" int nextify_pixelwise(const Work* work) {
  if (work->inner_half && (work->columns % 2 || work->wide % 2)) return 1;
  work->inner_half ? run<uint16_t>(*work) : run<float>(*work);
  return 0;
}
