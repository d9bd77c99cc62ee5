// The gradients of pixelwise_cpu.cpp: of Z = [S +] scale * (W2 A + b2), A = gelu(H), H = W1 N + b1, N = norm(X), from
// dZ, X and H. With D = dZ, summed over pixels:
//
//   G = Dᵀ A          dW2 = scale * G    db2 = scale * sum(D)    dscale = sum over a row of W2 * G, plus b2 * sum(D)
//   dA = D (scale W2)  dH = dA * gelu'(H)
//   dW1 = dHᵀ N        db1 = sum(dH)
//   dN = dH W1         dX, and the norm's own, as layer norm has them
//
// For a strip of pixels at a time, so that A and dH, the largest, stay in a cache. Y = W2 A + b2 is not needed: layer
// scale's gradient is read off G. Sums over pixels have one order, whatever the number of threads.
//
// Plain C interface; training.py builds, loads and checks it.

#include <cstdint>

#include "gelu.h"
#include "product.h"

constexpr int64_t CHUNK = 32;  // rows whose part of the norm's gradients is summed by one thread

struct Gradients {
  const void *grad, *x, *before, *weight1, *weight2;  // (rows, outputs), (rows, columns), (rows, wide), Linear's
  const float *norm_weight, *norm_bias, *bias2, *scale;  // or null
  void *memory, *x_grad;                                 // of nextify_pixelwise_grad_bytes; (rows, columns)
  float *norm_weight_grad, *norm_bias_grad, *weight1_grad, *bias1_grad, *weight2_grad, *bias2_grad, *scale_grad;
  int64_t rows, columns, wide, outputs, strip;
  float eps;
  int grad_half, x_half, weight1_half, weight2_half, inner_half;  // bfloat16 (1) or float (0); x_grad as x
  int threads;
};

// What a strip needs, and what is kept from strip to strip.
template <class T>
struct Memory {
  T *normal, *grad, *grad_across, *hidden, *hidden_grad, *hidden_grad_across;
  float *normal_grad, *norm_parts, *scale_parts;
  Statistics* statistics;
  char* panels;
  int64_t across_stride, panel, chunks, bytes = 0;

  Memory(const Gradients& g, char* start) {
    const auto take = [&](auto*& part, int64_t count) {
      part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(start + bytes);
      bytes += up_to(count * sizeof(*part), LINE);
    };
    across_stride = up_to(g.strip, LANES * IN_WORD<T>) + LINE / sizeof(T);  // a line more: rows fall on different sets
    chunks = (g.strip + CHUNK - 1) / CHUNK;
    panel = 0;
    for (int64_t inner : {g.strip, g.outputs, g.wide})
      if (panel_bytes<T>(inner) > panel) panel = panel_bytes<T>(inner);
    take(normal, g.strip * g.columns);
    take(grad, g.strip * g.outputs);
    take(grad_across, g.outputs * across_stride);
    take(hidden, g.strip * g.wide);
    take(hidden_grad, g.strip * g.wide);
    take(hidden_grad_across, g.wide * across_stride);
    take(normal_grad, g.strip * g.columns);
    take(norm_parts, 2 * chunks * g.columns);
    take(scale_parts, (g.wide + WIDTH / 2 - 1) / (WIDTH / 2) * g.outputs);
    take(statistics, g.strip);
    take(panels, g.threads * panel);
  }
};

template <class F>
INLINE void typed(const void* p, bool half, F f) {
  half ? f(static_cast<const uint16_t*>(p)) : f(static_cast<const float*>(p));
}

template <class T, class W>
void copy(const W* from, int64_t size, T* to) {
#pragma omp for schedule(static) nowait
  for (int64_t i = 0; i < (size + LANES - 1) / LANES; ++i) {
    const int64_t lanes = size - i * LANES;
    put(to + i * LANES, load(from + i * LANES, lanes), lanes);
  }
}

// Layer norm's gradients for a strip: `out` by rows, and each chunk's part of the weight's and the bias's.
template <class T, class X>
void norm_backward(const Gradients& g, const Memory<T>& m, const X* x, X* out, int64_t rows, bool first) {
  const int64_t columns = g.columns;
#pragma omp for schedule(static)
  for (int64_t chunk = 0; chunk < m.chunks; ++chunk) {
    float *of_weight = m.norm_parts + 2 * chunk * columns, *of_bias = of_weight + columns;
    if (first && g.norm_weight) std::memset(of_weight, 0, 2 * columns * sizeof(float));
    const int64_t end = (chunk + 1) * CHUNK < rows ? (chunk + 1) * CHUNK : rows;
    for (int64_t r = chunk * CHUNK; r < end; ++r) {
      const float* dn = m.normal_grad + r * columns;
      const X* from = x + r * columns;
      X* to = out + r * columns;
      if (!g.norm_weight) {
        along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
          put(to + c, load(dn + c, lanes), lanes);
        });
        continue;
      }
      const Statistics own = m.statistics[r];
      Vector sum{}, product{};
      along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
        const Vector d = load(dn + c, lanes), n = (load(from + c, lanes) - own.mean) * own.scale;
        const Vector weighted = d * load(g.norm_weight + c, lanes);
        sum += weighted, product += weighted * n;  // nothing where there is no lane: the weight is zero there
        store(of_weight + c, load(of_weight + c, lanes) + d * n, lanes);
        store(of_bias + c, load(of_bias + c, lanes) + d, lanes);
      });
      const float mean = total(sum) / columns, share = total(product) / columns;
      along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
        const Vector n = (load(from + c, lanes) - own.mean) * own.scale;
        put(to + c, (load(dn + c, lanes) * load(g.norm_weight + c, lanes) - mean - n * share) * own.scale, lanes);
      });
    }
  }
}

template <class T>
void run(const Gradients& g) {
  const Memory<T> m(g, static_cast<char*>(g.memory));
  const T* before = static_cast<const T*>(g.before);
  in_large_pages(g.x_grad, g.rows * g.columns * (g.x_half ? 2 : 4));
  const bool as_it_is = (g.grad_half != 0) == (sizeof(T) == 2);
#pragma omp parallel num_threads(g.threads)
  for (int64_t start = 0; start < g.rows; start += g.strip) {
    uint32_t* memory = reinterpret_cast<uint32_t*>(m.panels + omp_get_thread_num() * m.panel);
    const int64_t rows = g.rows - start < g.strip ? g.rows - start : g.strip;
    const bool first = start == 0, last = start + rows == g.rows;
    const T* grad = m.grad;
    typed(g.grad, g.grad_half, [&](const auto* all) {
      const auto* own = all + start * g.outputs;
      if (as_it_is)
        grad = reinterpret_cast<const T*>(own);
      else
        copy(own, rows * g.outputs, m.grad);
      turn(own, rows, g.outputs, m.grad_across, m.across_stride, g.bias2_grad, first);
    });
    typed(g.x, g.x_half, [&](const auto* all) {  // ends when every thread is here
      normalize(all + start * g.columns, g.norm_weight, g.norm_bias, g.eps, m.normal, rows, g.columns, m.statistics);
    });
    product<T>({grad, g.outputs}, rows, g.outputs, ByRow{g.weight2, g.weight2_half != 0, g.wide, g.scale}, g.wide,
               memory, g.threads, [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                 const T* at = before + (start + r) * g.wide + c;
                 __builtin_prefetch(at + 2 * ROWS * g.wide);  // rows are apart: nothing else calls for the next
                 const Vector v = load(at, lanes), square = v * v;
                 const Vector phi = distribution(v, square);
                 put(m.hidden + r * g.wide + c, v * phi, lanes);
                 put(m.hidden_grad + r * g.wide + c, sum * slope(v, square, phi), lanes);
               });
#pragma omp barrier
    turn(m.hidden_grad, rows, g.wide, m.hidden_grad_across, m.across_stride, g.bias1_grad, first);
    product<T>({m.grad_across, m.across_stride}, g.outputs, rows, ByRow{m.hidden, sizeof(T) == 2, g.wide}, g.wide,
               memory, g.threads, [&](int64_t k, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                 float* to = g.weight2_grad + k * g.wide + c;
                 if (!first) sum += load(to, lanes);
                 if (last) {
                   const int64_t panel = c / (WIDTH / 2), within = c % (WIDTH / 2);
                   float& part = m.scale_parts[panel * g.outputs + k];
                   const Vector weight = load(g.weight2, g.weight2_half, k * g.wide + c, lanes);
                   part = (within ? part : 0) + total(weight * sum);  // lanes without a column are zero
                   if (g.scale) sum *= g.scale[k];
                 }
                 last ? stream(to, sum, lanes) : store(to, sum, lanes);
               });
#pragma omp barrier
    product<T>({m.hidden_grad_across, m.across_stride}, g.wide, rows, ByRow{m.normal, sizeof(T) == 2, g.columns},
               g.columns, memory, g.threads,
               [&](int64_t j, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                 float* to = g.weight1_grad + j * g.columns + c;
                 if (!first) sum += load(to, lanes);
                 last ? stream(to, sum, lanes) : store(to, sum, lanes);
               });
    if (last) streamed();
    product<T>({m.hidden_grad, g.wide}, rows, g.wide, ByRow{g.weight1, g.weight1_half != 0, g.columns}, g.columns,
               memory, g.threads, [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                 store(m.normal_grad + r * g.columns + c, sum, lanes);
               });
#pragma omp barrier
    typed(g.x, g.x_half, [&](const auto* all) {
      auto* out = const_cast<std::remove_const_t<std::remove_pointer_t<decltype(all)>>*>(
          static_cast<decltype(all)>(g.x_grad));
      norm_backward(g, m, all + start * g.columns, out + start * g.columns, rows, first);
    });
  }
  // What is left is by column.
  for (int64_t k = 0; k < g.outputs; ++k) {
    float sum = g.bias2 ? g.bias2[k] * g.bias2_grad[k] : 0;
    for (int64_t panel = 0; panel * (WIDTH / 2) < g.wide; ++panel) sum += m.scale_parts[panel * g.outputs + k];
    g.scale_grad[k] = sum;
    if (g.scale) g.bias2_grad[k] *= g.scale[k];
  }
  for (int64_t c = 0; g.norm_weight && c < g.columns; ++c) {
    float weight = 0, bias = 0;
    for (int64_t chunk = 0; chunk < m.chunks; ++chunk) {
      weight += m.norm_parts[2 * chunk * g.columns + c];
      bias += m.norm_parts[(2 * chunk + 1) * g.columns + c];
    }
    g.norm_weight_grad[c] = weight, g.norm_bias_grad[c] = bias;
  }
}

// Bytes of memory, from a multiple of LINE on, that a call needs; only its sizes are read.
extern "C" int64_t nextify_pixelwise_grad_bytes(const Gradients* g) {
  return g->inner_half ? Memory<uint16_t>(*g, nullptr).bytes : Memory<float>(*g, nullptr).bytes;
}

// Returns 0, or 1 where a number of columns does not fill words of 32 bits.
extern "C" int nextify_pixelwise_grad(const Gradients* g) {
  if (g->inner_half && (g->columns % 2 || g->wide % 2 || g->outputs % 2)) return 1;
  g->inner_half ? run<uint16_t>(*g) : run<float>(*g);
  return 0;
}
