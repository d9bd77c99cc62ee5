// A convolution of patches, as wide as its stride and without padding, as one matrix product of our own (product.h), and
// its gradients. With a row of X for each patch:
//
//   Z = X Wᵀ + b          dX = dZ W          dW = dZᵀ X          db = sum(dZ)
//
// For a strip of patches at a time, whose rows are gathered from the images into a cache, and spread from it. Sums over
// patches have one order, whatever the number of threads.
//
// Plain C interface; cpu.py builds, loads and checks it.

#include <cstdint>

#include "product.h"

struct Work {
  const void *x, *weight;    // (images, high * side, wide * side, channels), (outputs, side, side, channels)
  const float* bias;         // or null
  void *z;                   // (patches, outputs); of gradients, what is given
  void *x_grad;              // as x, or null
  float *weight_grad, *bias_grad;
  void* memory;              // of nextify_patches_bytes
  int64_t images, high, wide, side, channels, outputs, strip;  // high and wide in patches
  int half, weight_half;     // bfloat16 (1) or float (0): all but the weight; the weight
  int threads;

  int64_t patches() const { return images * high * wide; }
  int64_t columns() const { return side * side * channels; }
};

template <class T>
struct Memory {
  T *rows, *rows_grad, *across;
  char* panels;
  int64_t stride, panel, bytes = 0;

  Memory(const Work& w, char* start) {
    const auto take = [&](auto*& part, int64_t count) {
      part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(start + bytes);
      bytes += up_to(count * sizeof(*part), LINE);
    };
    stride = up_to(w.strip, LANES * IN_WORD<T>) + LINE / sizeof(T);  // a line more: rows fall on different sets
    panel = 0;
    for (int64_t inner : {w.strip, w.outputs, w.columns()})
      if (panel_bytes<T>(inner) > panel) panel = panel_bytes<T>(inner);
    take(rows, w.strip * w.columns());
    take(rows_grad, w.weight_grad ? w.strip * w.columns() : 0);
    take(across, w.weight_grad ? w.outputs * stride : 0);
    take(panels, w.threads * panel);
  }
};

// move(place in the images, place in the strip's rows) for each line of each patch, of side * channels numbers.
template <class Move>
INLINE void lines(const Work& w, int64_t start, int64_t rows, Move move) {
  const int64_t line = w.side * w.channels;
#pragma omp for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t patch = start + r, row = patch / w.wide, column = patch % w.wide;  // row: of patches, over all images
    for (int64_t y = 0; y < w.side; ++y)
      move(((row * w.side + y) * w.wide + column) * line, (r * w.side + y) * line);
  }
}

template <class T>
void forward(const Work& w) {
  const Memory<T> m(w, static_cast<char*>(w.memory));
  const T* x = static_cast<const T*>(w.x);
  T* z = static_cast<T*>(w.z);
  const int64_t columns = w.columns(), line = w.side * w.channels;
  in_large_pages(z, w.patches() * w.outputs * sizeof(T));
#pragma omp parallel num_threads(w.threads)
  for (int64_t start = 0; start < w.patches(); start += w.strip) {
    uint32_t* memory = reinterpret_cast<uint32_t*>(m.panels + omp_get_thread_num() * m.panel);
    const int64_t rows = w.patches() - start < w.strip ? w.patches() - start : w.strip;
    lines(w, start, rows, [&](int64_t from, int64_t to) { std::memcpy(m.rows + to, x + from, line * sizeof(T)); });
    product<T>({m.rows, columns}, rows, columns, ByColumn{w.weight, w.weight_half != 0}, w.outputs, memory, w.threads,
               [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                 put(z + (start + r) * w.outputs + c, sum + load_or(w.bias, c, lanes, 0), lanes);
               });
#pragma omp barrier
  }
}

template <class T>
void backward(const Work& w) {
  const Memory<T> m(w, static_cast<char*>(w.memory));
  const T *x = static_cast<const T*>(w.x), *z = static_cast<const T*>(w.z);
  T* x_grad = static_cast<T*>(w.x_grad);
  const int64_t columns = w.columns(), line = w.side * w.channels;
  if (x_grad) in_large_pages(x_grad, w.patches() * columns * sizeof(T));
#pragma omp parallel num_threads(w.threads)
  for (int64_t start = 0; start < w.patches(); start += w.strip) {
    uint32_t* memory = reinterpret_cast<uint32_t*>(m.panels + omp_get_thread_num() * m.panel);
    const int64_t rows = w.patches() - start < w.strip ? w.patches() - start : w.strip;
    const bool first = start == 0, last = start + rows == w.patches();
    const T* own = z + start * w.outputs;
    turn(own, rows, w.outputs, m.across, m.stride, w.bias_grad, first);
    lines(w, start, rows, [&](int64_t from, int64_t to) { std::memcpy(m.rows + to, x + from, line * sizeof(T)); });
    product<T>({m.across, m.stride}, w.outputs, rows, ByRow{m.rows, sizeof(T) == 2, columns}, columns, memory,
               w.threads, [&](int64_t k, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                 float* to = w.weight_grad + k * columns + c;
                 if (!first) sum += load(to, lanes);
                 last ? stream(to, sum, lanes) : store(to, sum, lanes);
               });
    if (last) streamed();
    if (x_grad) {
      product<T>({own, w.outputs}, rows, w.outputs, ByRow{w.weight, w.weight_half != 0, columns}, columns, memory,
                 w.threads, [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                   put(m.rows_grad + r * columns + c, sum, lanes);
                 });
    }
#pragma omp barrier
    if (x_grad)
      lines(w, start, rows,
            [&](int64_t to, int64_t from) { std::memcpy(x_grad + to, m.rows_grad + from, line * sizeof(T)); });
  }
}

// Bytes of memory, from a multiple of LINE on, that a call needs; of the addresses only weight_grad's is looked at.
extern "C" int64_t nextify_patches_bytes(const Work* w) {
  return w->half ? Memory<uint16_t>(*w, nullptr).bytes : Memory<float>(*w, nullptr).bytes;
}

// The gradients where there is a weight_grad, otherwise z. Returns 0, or 1 where numbers do not fill words of 32 bits.
extern "C" int nextify_patches(const Work* w) {
  if (w->half && (w->columns() % 2 || w->outputs % 2)) return 1;
  if (w->weight_grad)
    w->half ? backward<uint16_t>(*w) : backward<float>(*w);
  else
    w->half ? forward<uint16_t>(*w) : forward<float>(*w);
  return 0;
}
