// A list of layers in training, forward and backward: what a small network's block does, in one call.
//
// Activations are (images * height * width, channels), contiguous floats. A dense convolution of any kernel and stride is
// a matrix product whose rows are found through an index: of the pixels under each of its taps, or -1 outside the image.
//
//   Y[p] = sum over t of X[index(t, p)] W_tᵀ + b     dX[index(t, p)] += dY[p] W_t     dW_t = dYᵀ X[index(t, .)]
//
// Batch norm sums squares about the mean of the first rows. Sums over pixels for norms, biases and layer scale are kept in
// float for CHUNK rows and then in double; those of a convolution's weight gradient are floats throughout. Gradients
// overwrite: x_grad of elementwise layers may be y_grad.
//
// Each thread takes some of the images through all layers. Threads wait for each other only where a batch norm needs the
// sums of all, and where the memory that a gradient is written to may still be read in another layout. Each sums the
// gradients of weights over its own images; these are added at the end, in the order of the threads.
//
// Plain C interface; training.py builds, loads and checks it, and describes the fields of a Layer.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "gelu.h"
#include "product.h"

constexpr int64_t CHUNK = 256;

enum Kind : int64_t { CONV, DEPTHWISE, BATCH_NORM, LAYER_NORM, RELU, GELU, JOIN, SPLIT, PATCHES, POOL };

struct Layer {
  int64_t kind, images, in_height, in_width, inputs, out_height, out_width, outputs, kernel, stride, padding, relu;
  const float *x, *weight, *bias, *other, *factor;  // JOIN: other = the shortcut, weight = layer scale, factor (images)
  float* y;
  float* statistics;  // BATCH_NORM: mean and 1 / deviation by channel; LAYER_NORM: by row
  float *running_mean, *running_variance;
  int64_t* batches;
  const int32_t* index;  // CONV, PATCHES: (taps, pixels of y); null where each pixel has itself
  const float* y_grad;
  float *x_grad, *other_grad, *weight_grad, *bias_grad;
  double eps, momentum;

  int64_t rows() const { return images * out_height * out_width; }
  int64_t in_rows() const { return images * in_height * in_width; }
  int64_t taps() const { return kernel * kernel; }
  int64_t weights() const {
    if (kind == CONV) return outputs * taps() * inputs;
    return kind == DEPTHWISE ? outputs * taps() : outputs;
  }
};

// The images of a layer that one of `threads` takes. Pointers are to its own part, and `index` to what is the same for
// all, with `all_rows` from one tap to the next.
struct Share : Layer {
  int64_t all_rows, thread, threads;

  Share(const Layer& all, int64_t thread, int64_t threads)
      : Layer(all), all_rows(all.rows()), thread(thread), threads(threads) {
    const int64_t first = first_image(thread), row = first * out_height * out_width;
    const int64_t in = first * in_height * in_width * inputs, out = row * outputs;
    images = first_image(thread + 1) - first;
    for (const float** p : {&other, &y_grad}) *p += *p ? out : 0;
    for (float** p : {&y, &other_grad}) *p += *p ? out : 0;
    x += x ? in : 0, x_grad += x_grad ? in : 0, factor += factor ? first : 0;
    if (kind == LAYER_NORM) statistics += 2 * row;
  }
  int64_t first_image(int64_t of) const { return all_rows / (out_height * out_width) * of / threads; }
  int64_t rows_of(int64_t of) const { return (first_image(of + 1) - first_image(of)) * out_height * out_width; }
};

// ---------------------------------------------------------------------------------------------------------------------
// Some lanes of a vector; memory that stays

INLINE Vector get(const float* p, int64_t lanes) {
#if defined(__AVX512F__)
  return (Vector)_mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), p);
#else
  return load(p, lanes);
#endif
}
INLINE void set(float* p, Vector v, int64_t lanes) {
#if defined(__AVX512F__)
  if (lanes < LANES) return _mm512_mask_storeu_ps(p, (__mmask16)((1u << lanes) - 1), (__m512)v);
#endif
  store(p, v, lanes);
}
// ReLU of a vector, and of a gradient by what ReLU took or gave; a NaN stays.
INLINE Vector passed(Vector v, Vector grad) { return choose((Bits)(v <= 0.f), Vector{}, grad); }
INLINE Vector positive(Vector v) { return passed(v, v); }

template <int HALF = LANES / 2>
INLINE float sum_of(Vector v) {
  if constexpr (HALF == 0) return v[0];
  Vector other = v;
  for (int i = 0; i < LANES; ++i) other[i] = v[i ^ HALF];
  return sum_of<HALF / 2>(v + other);
}

template <int NUMBER>
float* scratch(int64_t floats) {  // aligned to a line, valid until the same number is asked for again
  static thread_local std::vector<float> kept;
  if (int64_t(kept.size()) < floats + 16) kept.resize(floats + 16);
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(kept.data()) + LINE - 1) / LINE * LINE);
}

// Column sums of `COUNT` functions of (row, column, lanes) over all rows, into `out` (COUNT, columns).
template <int COUNT, class F>
INLINE void column_sums(int64_t rows, int64_t columns, double* out, F f) {
  float* part = scratch<0>(COUNT * columns);
  for (int64_t i = 0; i < COUNT * columns; ++i) out[i] = 0;
  for (int64_t start = 0; start < rows; start += CHUNK) {
    const int64_t end = start + CHUNK < rows ? start + CHUNK : rows;
    along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
      Vector sums[4][COUNT] = {};  // of every fourth row, as a sum waits for the one before
      int64_t r = start;
      for (; r + 4 <= end; r += 4)
        repeat<4>([&](auto i) __attribute__((always_inline)) { f(r + i, c, lanes, sums[i]); });
      for (; r < end; ++r) f(r, c, lanes, sums[0]);
      for (int i = 0; i < COUNT; ++i)
        set(part + i * columns + c, (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]), lanes);
    });
    for (int64_t i = 0; i < COUNT * columns; ++i) out[i] += part[i];
  }
}

// f(row * columns + column, column, lanes) everywhere.
template <class F>
INLINE void everywhere(int64_t rows, int64_t columns, F f) {
  for (int64_t r = 0; r < rows; ++r)
    along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) { f(r * columns + c, r, c, lanes); });
}

// ---------------------------------------------------------------------------------------------------------------------
// Dense convolutions

constexpr int tile_rows(int vectors) {  // as many accumulators as registers hold, and pointers
  return REGISTERS == 32 ? 24 / (vectors < 2 ? 2 : vectors) : vectors > 1 ? 6 : 8;
}

// R rows, each found by its pointers `rows` (taps, R), times a panel (taps * inner, V vectors).
template <int R, int V>
__attribute__((noinline)) void gathered(const float* const* rows, int64_t taps, int64_t inner, const float* panel,
                                        Vector* out) {
  Vector sums[R][V] = {};
  for (int64_t t = 0; t < taps; ++t, rows += R) {
    const float* row[R];
    repeat<R>([&](auto r) __attribute__((always_inline)) { row[number<decltype(r)>] = rows[number<decltype(r)>]; });
    for (int64_t k = 0; k < inner; ++k, panel += V * LANES) {
      Vector weights[V];
      repeat<V>([&](auto v) __attribute__((always_inline)) {
        weights[number<decltype(v)>] = load(panel + number<decltype(v)> * LANES);
      });
      repeat<R>([&](auto r) __attribute__((always_inline)) {
        const Vector value = same(row[number<decltype(r)>][k]);
        repeat<V>([&](auto v) __attribute__((always_inline)) {
          sums[number<decltype(r)>][number<decltype(v)>] += value * weights[number<decltype(v)>];
        });
      });
    }
  }
  repeat<R * V>([&](auto i) __attribute__((always_inline)) { out[i] = sums[i / V][i % V]; });
}

constexpr int crossed_rows(int vectors) { return REGISTERS == 32 && vectors == 1 ? 16 : tile_rows(vectors); }

// The transpose of R neighbouring columns of `grad` (count, stride), times rows of V vectors that `rows` points to. Of
// each row's last vector, only `lanes` lanes are read.
template <int R, int V>
__attribute__((noinline)) void crossed(const float* grad, int64_t stride, int64_t count, const float* const* rows,
                                       int64_t lanes, Vector* out) {
  Vector sums[R][V] = {};
  for (int64_t p = 0; p < count; ++p, grad += stride) {
    Vector values[V];
    repeat<V>([&](auto v) __attribute__((always_inline)) {
      constexpr int at = number<decltype(v)>;
      values[at] = at + 1 < V ? load(rows[p] + at * LANES) : get(rows[p] + at * LANES, lanes);
    });
    repeat<R>([&](auto r) __attribute__((always_inline)) {
      const Vector value = same(grad[number<decltype(r)>]);
      repeat<V>([&](auto v) __attribute__((always_inline)) {
        sums[number<decltype(r)>][number<decltype(v)>] += value * values[number<decltype(v)>];
      });
    });
  }
  repeat<R * V>([&](auto i) __attribute__((always_inline)) { out[i] = sums[i / V][i % V]; });
}

// f(integral constant V) for the number of vectors that hold `width` columns.
template <class F>
INLINE void with_vectors(int64_t width, F f) {
  switch ((width + LANES - 1) / LANES) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, COLUMNS < 3 ? COLUMNS : 3>{});
    default: return f(std::integral_constant<int, COLUMNS>{});
  }
}

// Strips of equal numbers of vectors, as wide as a tile at most: f(first column, columns, V).
template <class F>
INLINE void strips(int64_t columns, F f) {
  const int64_t vectors = (columns + LANES - 1) / LANES, count = (vectors + COLUMNS - 1) / COLUMNS;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = vectors * i / count * LANES, last = vectors * (i + 1) / count * LANES;
    const int64_t width = (last < columns ? last : columns) - first;
    with_vectors(width, [&](auto v) __attribute__((always_inline)) { f(first, width, v); });
  }
}

// finish(row, column, lanes, sums) on the product of `count` rows, found by row(tap, p), with a panel.
template <int V, class Row, class Finish>
INLINE void rows_times(int64_t count, int64_t taps, int64_t inner, const float* panel, int64_t width, Row row,
                       Finish finish) {
  constexpr int tall = tile_rows(V);
  const float** pointers = reinterpret_cast<const float**>(scratch<1>(2 * taps * tall));
  Vector sums[tall * V];
  for (int64_t start = 0; start < count; start += tall) {
    const int64_t end = start + tall < count ? start + tall : count;
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t p = start; p < start + tall; ++p)  // the last tile repeats its last row
        pointers[tap * tall + p - start] = p < end ? row(tap, p) : pointers[tap * tall + p - start - 1];
    gathered<tall, V>(pointers, taps, inner, panel, sums);
    for (int64_t r = start, i = 0; r < end; ++r, i += V)
      for (int v = 0; v < V && v * LANES < width; ++v)
        finish(r, v * LANES, width - v * LANES < LANES ? width - v * LANES : LANES, sums[i + v]);
  }
}

template <class Matrix>
__attribute__((noinline)) void pack(Matrix matrix, int64_t first, int64_t inner, int64_t width, int vectors,
                                    float* panel) {
  matrix.template pack<float>(first, inner, width, vectors, reinterpret_cast<uint32_t*>(panel));
}

const float* zeros(int64_t size) {
  static thread_local std::vector<float> kept;
  if (int64_t(kept.size()) < size) kept.assign(size, 0.f);
  return kept.data();
}

void conv_forward(const Share& l) {
  const int64_t inner = l.taps() * l.inputs, rows = l.rows();
  const float* nothing = zeros(l.inputs);
  float* panel = scratch<2>(inner * WIDTH);
  const auto row = [&](int64_t tap, int64_t p) __attribute__((always_inline)) {
    if (!l.index) return l.x + p * l.inputs;
    const int32_t at = l.index[tap * l.all_rows + p];
    return at < 0 ? nothing : l.x + at * l.inputs;
  };
  strips(l.outputs, [&](int64_t first, int64_t width, auto v) __attribute__((always_inline)) {
    pack(ByColumn{l.weight, false}, first, inner, width, v, panel);
    rows_times<number<decltype(v)>>(
        rows, l.taps(), l.inputs, panel, width, row,
        [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
          if (l.bias) sum += get(l.bias + first + c, lanes);
          set(l.y + r * l.outputs + first + c, sum, lanes);
        });
  });
}

void conv_weight_grad(const Share& l) {
  const int64_t rows = l.rows(), inner = l.taps() * l.inputs;
  const float* nothing = zeros(l.inputs);
  const float** pixels = reinterpret_cast<const float**>(scratch<1>(2 * CHUNK));
  for (int64_t tap = 0; tap < l.taps(); ++tap)
    for (int64_t start = 0; start < rows; start += CHUNK) {
      const int64_t count = start + CHUNK < rows ? CHUNK : rows - start;
      strips(l.inputs, [&](int64_t first, int64_t width, auto v) __attribute__((always_inline)) {
        constexpr int V = number<decltype(v)>, tall = crossed_rows(V);
        for (int64_t p = 0; p < count; ++p) {
          const int64_t at = l.index ? l.index[tap * l.all_rows + start + p] : start + p;
          pixels[p] = at < 0 ? nothing : l.x + at * l.inputs + first;
        }
        const int64_t last = width - (V - 1) * LANES;
        const bool few = l.outputs < tall;
        Vector sums[tall * V];
        for (int64_t done = 0; done < l.outputs;) {  // the last tile begins before what is done
          const int64_t high = few ? 1 : tall, from = done + high <= l.outputs ? done : l.outputs - high;
          const float* grad = l.y_grad + start * l.outputs + from;
          few ? crossed<1, V>(grad, l.outputs, count, pixels, last, sums)
              : crossed<tall, V>(grad, l.outputs, count, pixels, last, sums);
          for (; done < from + high; ++done)
            for (int k = 0; k < V; ++k) {
              float* out = l.weight_grad + done * inner + tap * l.inputs + first + k * LANES;
              const int64_t lanes = k + 1 < V ? LANES : last;
              const Vector sum = sums[(done - from) * V + k];
              set(out, start ? get(out, lanes) + sum : sum, lanes);
            }
        }
      });
    }
}

// Where input and output have the same size, the input gradient is the convolution of the output's gradient with the
// kernel turned around, and reads the same index.
void conv_gathered_input_grad(const Share& l) {
  const int64_t rows = l.rows(), inner = l.taps() * l.inputs;
  const float* nothing = zeros(l.outputs);
  float* panel = scratch<2>(l.taps() * l.outputs * WIDTH);
  const auto row = [&](int64_t tap, int64_t p) __attribute__((always_inline)) {
    if (!l.index) return l.y_grad + p * l.outputs;
    const int32_t at = l.index[tap * l.all_rows + p];
    return at < 0 ? nothing : l.y_grad + at * l.outputs;
  };
  strips(l.inputs, [&](int64_t first, int64_t width, auto v) __attribute__((always_inline)) {
    constexpr int V = number<decltype(v)>;
    for (int64_t tap = 0; tap < l.taps(); ++tap)
      pack(ByRow{l.weight + (l.taps() - 1 - tap) * l.inputs, false, inner}, first, l.outputs, width, V,
           panel + tap * l.outputs * V * LANES);
    rows_times<V>(rows, l.taps(), l.outputs, panel, width, row,
                  [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
                    set(l.x_grad + r * l.inputs + first + c, sum, lanes);
                  });
  });
}

// Otherwise each tap's share is added to the pixels it saw.
void conv_scattered_input_grad(const Share& l) {
  const int64_t rows = l.rows(), inner = l.taps() * l.inputs;
  float* panel = scratch<2>(l.outputs * WIDTH);
  std::memset(l.x_grad, 0, l.in_rows() * l.inputs * sizeof(float));
  for (int64_t tap = 0; tap < l.taps(); ++tap)
    strips(l.inputs, [&](int64_t first, int64_t width, auto v) __attribute__((always_inline)) {
      constexpr int V = number<decltype(v)>;
      pack(ByRow{l.weight + tap * l.inputs, false, inner}, first, l.outputs, width, V, panel);
      rows_times<V>(
          rows, 1, l.outputs, panel, width,
          [&](int64_t, int64_t p) __attribute__((always_inline)) { return l.y_grad + p * l.outputs; },
          [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
            const int64_t at = l.index[tap * l.all_rows + r];
            if (at < 0) return;
            float* out = l.x_grad + at * l.inputs + first + c;
            set(out, get(out, lanes) + sum, lanes);
          });
    });
}

void conv_backward(const Share& l) {
  if (l.bias_grad) {
    std::vector<double> sums(l.outputs);
    column_sums<1>(
        l.rows(), l.outputs, sums.data(),
        [&](int64_t r, int64_t c, int64_t lanes, Vector* s)
            __attribute__((always_inline)) { s[0] += get(l.y_grad + r * l.outputs + c, lanes); });
    for (int64_t c = 0; c < l.outputs; ++c) l.bias_grad[c] = float(sums[c]);
  }
  conv_weight_grad(l);
  if (!l.x_grad) return;
  l.stride == 1 && 2 * l.padding == l.kernel - 1 ? conv_gathered_input_grad(l) : conv_scattered_input_grad(l);
}

// ---------------------------------------------------------------------------------------------------------------------
// Depthwise convolutions: LANES channels of an image at a time; the last ones overlap their neighbours

void taps_first(const Share& l, float* to) {  // (channels, taps) as (taps, channels)
  for (int64_t c = 0; c < l.outputs; ++c)
    for (int64_t t = 0; t < l.taps(); ++t) to[t * l.outputs + c] = l.weight[c * l.taps() + t];
}

// A plane of LANES channels of one image, with `padding` zeros on both sides of each row.
struct Plane {
  Vector* start;
  int64_t pitch;
  void fill(const float* from, int64_t height, int64_t width, int64_t padding, int64_t channels) const {
    Vector* to = start;
    for (int64_t h = 0; h < height; ++h, to += pitch) {
      for (int64_t w = 0; w < padding; ++w) to[w] = to[padding + width + w] = Vector{};
      for (int64_t w = 0; w < width; ++w, from += channels) to[padding + w] = load(from);
    }
  }
};

// f(integral constant N) for parts of N, 8 at most, of `count`.
template <class F>
INLINE void in_eights(int64_t count, F f) {
  int64_t at = 0;
  for (; at + 8 <= count; at += 8) f(at, std::integral_constant<int, 8>{});
  switch (count - at) {
    case 1: return f(at, std::integral_constant<int, 1>{});
    case 2: return f(at, std::integral_constant<int, 2>{});
    case 3: return f(at, std::integral_constant<int, 3>{});
    case 4: return f(at, std::integral_constant<int, 4>{});
    case 5: return f(at, std::integral_constant<int, 5>{});
    case 6: return f(at, std::integral_constant<int, 6>{});
    case 7: return f(at, std::integral_constant<int, 7>{});
  }
}

struct Range {
  int64_t first, end;
};

// The rows of taps that lie on the image for row `out` of the output.
INLINE Range rows_of_taps(int64_t out, int64_t height, int64_t kernel, int64_t stride, int64_t padding) {
  const int64_t top = out * stride - padding;
  return {top < 0 ? -top : 0, height - top < kernel ? height - top : kernel};
}

// Columns of taps that see any pixel: in narrow planes, not all.
INLINE Range columns_of_taps(int64_t width, int64_t out_width, int64_t kernel, int64_t stride, int64_t padding) {
  const int64_t least = padding - (out_width - 1) * stride, end = width + padding;
  return {least < 0 ? 0 : least, end < kernel ? end : kernel};
}

// One plane's convolution with taps (kernel, kernel, LANES) `apart` floats from each other.
__attribute__((noinline)) void convolve(const Plane& x, int64_t height, const float* taps, int64_t apart,
                                        const Share& l, int64_t stride, int64_t out_height, int64_t out_width,
                                        Range columns, Vector bias, float* y) {
  for (int64_t oh = 0; oh < out_height; ++oh) {
    const Range rows = rows_of_taps(oh, height, l.kernel, stride, l.padding);
    in_eights(out_width, [&](int64_t ow, auto n) __attribute__((always_inline)) {
      Vector sums[n];
      repeat<n>([&](auto i) __attribute__((always_inline)) { sums[i] = bias; });
      for (int64_t kh = rows.first; kh < rows.end; ++kh) {
        const Vector* from = x.start + (oh * stride + kh - l.padding) * x.pitch + ow * stride;
        const float* weight = taps + (kh * l.kernel + columns.first) * apart;
        for (int64_t kw = columns.first; kw < columns.end; ++kw, weight += apart)
          repeat<n>([&](auto i)
                        __attribute__((always_inline)) { sums[i] += load(weight) * from[kw + i * stride]; });
      }
      repeat<n>([&](auto i)
                    __attribute__((always_inline)) { store(y + (oh * out_width + ow + i) * l.outputs, sums[i]); });
    });
  }
}

void depthwise_forward(const Share& l) {
  const int64_t c = l.outputs, pixels = l.out_height * l.out_width;
  float* taps = scratch<2>(l.taps() * c);
  const int64_t pitch = l.in_width + 2 * l.padding;
  const Plane plane{reinterpret_cast<Vector*>(scratch<3>(l.in_height * pitch * LANES)), pitch};
  const Range columns = columns_of_taps(l.in_width, l.out_width, l.kernel, l.stride, l.padding);
  taps_first(l, taps);
  for (int64_t n = 0; n < l.images; ++n)
    for (int64_t at = 0; at < c; at += LANES) {
      const int64_t first = at + LANES <= c ? at : c - LANES;
      plane.fill(l.x + n * l.in_height * l.in_width * c + first, l.in_height, l.in_width, l.padding, c);
      convolve(plane, l.in_height, taps + first, c, l, l.stride, l.out_height, l.out_width, columns,
               l.bias ? load(l.bias + first) : Vector{}, l.y + n * pixels * c + first);
    }
}

void depthwise_backward(const Share& l) {
  const int64_t c = l.outputs, k = l.kernel, pixels = l.out_height * l.out_width, in_pixels = l.in_height * l.in_width;
  float* taps = scratch<2>(l.taps() * c);
  float* totals = scratch<4>((l.taps() + 1) * c);  // of the weight's gradients and the bias's
  const int64_t pitch = l.in_width + 2 * l.padding;
  // The output's gradient is moved to the pixels of the input, with zeros between them where the stride is not 1.
  const int64_t size = l.in_height * pitch;
  Vector* memory = reinterpret_cast<Vector*>(scratch<3>((2 * size + l.taps()) * LANES));
  const Plane plane{memory, pitch}, of_grad{memory + size, pitch};
  Vector* of_taps = memory + 2 * size;
  const Range columns = columns_of_taps(l.in_width, l.out_width, l.kernel, l.stride, l.padding);
  taps_first(l, taps);
  for (int64_t t = 0; t < l.taps() / 2; ++t)  // turned around
    for (int64_t i = 0; i < c; ++i) std::swap(taps[t * c + i], taps[(l.taps() - 1 - t) * c + i]);
  if (l.stride > 1) std::memset((void*)of_grad.start, 0, size * sizeof(Vector));
  for (int64_t at = 0; at < c; at += LANES) {
    const int64_t first = at + LANES <= c ? at : c - LANES;
    Vector of_bias{};
    for (int64_t t = 0; t < l.taps(); ++t) of_taps[t] = Vector{};
    for (int64_t n = 0; n < l.images; ++n) {
      const float* grad = l.y_grad + n * pixels * c + first;
      for (int64_t p = 0; p < pixels; ++p) of_bias += load(grad + p * c);
      plane.fill(l.x + n * in_pixels * c + first, l.in_height, l.in_width, l.padding, c);
      for (int64_t oh = 0; oh < l.out_height; ++oh) {
        const Range rows = rows_of_taps(oh, l.in_height, k, l.stride, l.padding);
        for (int64_t kh = rows.first; kh < rows.end; ++kh) {
          const Vector* from = plane.start + (oh * l.stride + kh - l.padding) * pitch;
          in_eights(columns.end - columns.first, [&](int64_t at, auto m) __attribute__((always_inline)) {
            const int64_t kw = columns.first + at;
            Vector sums[m], *total = of_taps + kh * k + kw;
            repeat<m>([&](auto i) __attribute__((always_inline)) { sums[i] = total[i]; });
            for (int64_t w = 0; w < l.out_width; ++w) {
              const Vector g = load(grad + (oh * l.out_width + w) * c);
              repeat<m>([&](auto i) __attribute__((always_inline)) { sums[i] += g * from[w * l.stride + kw + i]; });
            }
            repeat<m>([&](auto i) __attribute__((always_inline)) { total[i] = sums[i]; });
          });
        }
      }
      if (l.stride == 1) {
        of_grad.fill(grad, l.out_height, l.out_width, l.padding, c);
      } else {
        for (int64_t h = 0, p = 0; h < l.out_height; ++h)
          for (int64_t w = 0; w < l.out_width; ++w, ++p)
            of_grad.start[h * l.stride * pitch + l.padding + w * l.stride] = load(grad + p * c);
      }
      convolve(of_grad, l.in_height, taps + first, c, l, 1, l.in_height, l.in_width,
               columns_of_taps(l.in_width, l.in_width, k, 1, l.padding), Vector{},
               l.x_grad + n * in_pixels * c + first);
    }
    for (int64_t t = 0; t < l.taps(); ++t) store(totals + t * c + first, of_taps[t]);
    store(totals + l.taps() * c + first, of_bias);
  }
  for (int64_t i = 0; i < c; ++i) {
    for (int64_t t = 0; t < l.taps(); ++t) l.weight_grad[i * l.taps() + t] = totals[t * c + i];
    if (l.bias_grad) l.bias_grad[i] = totals[l.taps() * c + i];
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Patches, as rows of (taps, inputs), for a convolution of few channels; max pooling

void patches(const Share& l) {
  float* y = l.y;
  for (int64_t p = 0; p < l.rows(); ++p)
    for (int64_t t = 0; t < l.taps(); ++t, y += l.inputs) {
      const int32_t at = l.index[t * l.all_rows + p];
      for (int64_t c = 0; c < l.inputs; ++c) y[c] = at < 0 ? 0 : l.x[at * l.inputs + c];
    }
}

void patches_backward(const Share& l) {
  if (!l.x_grad) return;
  const float* grad = l.y_grad;
  std::memset(l.x_grad, 0, l.in_rows() * l.inputs * sizeof(float));
  for (int64_t p = 0; p < l.rows(); ++p)
    for (int64_t t = 0; t < l.taps(); ++t, grad += l.inputs) {
      const int32_t at = l.index[t * l.all_rows + p];
      for (int64_t c = 0; at >= 0 && c < l.inputs; ++c) l.x_grad[at * l.inputs + c] += grad[c];
    }
}

void pool(const Share& l) {
  const int64_t rows = l.rows(), c = l.inputs;
  for (int64_t p = 0; p < rows; ++p)
    along(c, [&](int64_t k, int64_t lanes) __attribute__((always_inline)) {
      Vector most = same(-INFINITY);
      for (int64_t t = 0; t < l.taps(); ++t) {
        const int32_t at = l.index[t * l.all_rows + p];
        if (at < 0) continue;
        const Vector x = get(l.x + at * c + k, lanes);
        most = choose((Bits)(x > most) | (Bits)(x != x), x, most);  // a NaN stays
      }
      set(l.y + p * c + k, most, lanes);
    });
}

void pool_backward(const Share& l) {  // to the first of equal pixels, as torch does
  const int64_t rows = l.rows(), c = l.inputs;
  std::memset(l.x_grad, 0, l.in_rows() * c * sizeof(float));
  for (int64_t p = 0; p < rows; ++p)
    along(c, [&](int64_t k, int64_t lanes) __attribute__((always_inline)) {
      const Vector most = get(l.y + p * c + k, lanes);
      Vector grad = get(l.y_grad + p * c + k, lanes);
      for (int64_t t = 0; t < l.taps(); ++t) {
        const int32_t at = l.index[t * l.all_rows + p];
        if (at < 0) continue;
        float* out = l.x_grad + at * c + k;
        const Bits here = (Bits)(get(l.x + at * c + k, lanes) == most);
        set(out, get(out, lanes) + choose(here, grad, Vector{}), lanes);
        grad = choose(here, Vector{}, grad);
      }
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Norms

// A batch norm's output is slope * x + shift, once its moments are known.
INLINE void line_of(const Share& l, const float* mean, const float* inverse, float* slope, float* shift) {
  for (int64_t k = 0; k < l.outputs; ++k) {
    slope[k] = inverse[k] * l.weight[k];
    shift[k] = l.bias[k] - mean[k] * slope[k];
  }
}

// Of a thread's own rows: the mean of the first ones, and sums of values and squares about it; (3, channels).
void batch_norm_moments(const Share& l, double* own) {
  const int64_t rows = l.rows(), c = l.outputs, some = rows < CHUNK ? rows : CHUNK;
  float* about = scratch<3>(c);
  column_sums<1>(
      some, c, own,
      [&](int64_t r, int64_t k, int64_t lanes, Vector* s)
          __attribute__((always_inline)) { s[0] += get(l.x + r * c + k, lanes); });
  for (int64_t k = 0; k < c; ++k) own[k] = about[k] = float(own[k] / some);  // close enough to the mean to subtract first
  column_sums<2>(rows, c, own + c,
                 [&](int64_t r, int64_t k, int64_t lanes, Vector* s) __attribute__((always_inline)) {
                   const Vector centred = get(l.x + r * c + k, lanes) - get(about + k, lanes);
                   s[0] += centred;
                   s[1] += centred * centred;
                 });
}

void batch_norm_forward(const Share& l, const double* moments) {  // (threads, 3, channels)
  const int64_t c = l.outputs;
  float *mean = scratch<3>(4 * c), *inverse = mean + c, *slope = inverse + c, *shift = slope + c;
  for (int64_t k = 0; k < c; ++k) {
    const double* const own = moments + k;
    double from_about = 0, squares = 0;
    for (int64_t t = 0; t < l.threads; ++t) {
      const double* const its = own + t * 3 * c;
      from_about += (l.rows_of(t) * (its[0] - own[0]) + its[c]) / l.all_rows;
    }
    const double exact = own[0] + from_about;
    for (int64_t t = 0; t < l.threads; ++t) {
      const double *const its = own + t * 3 * c, from_its = its[c] / l.rows_of(t), off = its[0] + from_its - exact;
      squares += std::max(its[2 * c] - its[c] * from_its, 0.0) + l.rows_of(t) * off * off;  // a NaN stays
    }
    mean[k] = float(exact);
    inverse[k] = float(1 / std::sqrt(squares / l.all_rows + l.eps));
    if (l.thread) continue;
    l.statistics[k] = mean[k], l.statistics[c + k] = inverse[k];
    l.running_mean[k] += float(l.momentum * (mean[k] - l.running_mean[k]));
    l.running_variance[k] += float(l.momentum * (squares / (l.all_rows - 1) - l.running_variance[k]));
  }
  if (!l.thread) ++*l.batches;
  line_of(l, mean, inverse, slope, shift);
  everywhere(l.rows(), c, [&](int64_t i, int64_t, int64_t k, int64_t lanes) __attribute__((always_inline)) {
    const Vector y = get(l.x + i, lanes) * get(slope + k, lanes) + get(shift + k, lanes);
    set(l.y + i, l.relu ? positive(y) : y, lanes);
  });
}

// The gradient before ReLU, of a batch norm's output that follows from x.
INLINE Vector before_relu(const Share& l, const float* slope, const float* shift, int64_t i, int64_t k, int64_t lanes,
                          Vector x) {
  const Vector g = get(l.y_grad + i, lanes);
  return l.relu ? passed(x * get(slope + k, lanes) + get(shift + k, lanes), g) : g;
}

// Of a thread's own rows: sums of gradients, and of their products with values about the mean; (2, channels).
void batch_norm_grad_sums(const Share& l, double* own) {
  const int64_t c = l.outputs;
  const float *mean = l.statistics, *inverse = mean + c;
  float *slope = scratch<3>(2 * c), *shift = slope + c;
  line_of(l, mean, inverse, slope, shift);
  column_sums<2>(l.rows(), c, own,
                 [&](int64_t r, int64_t k, int64_t lanes, Vector* s) __attribute__((always_inline)) {
                   const Vector x = get(l.x + r * c + k, lanes);
                   const Vector g = before_relu(l, slope, shift, r * c + k, k, lanes, x);
                   s[0] += g;
                   s[1] += g * (x - get(mean + k, lanes));
                 });
  for (int64_t k = 0; k < c; ++k) l.bias_grad[k] = float(own[k]), l.weight_grad[k] = float(own[c + k] * inverse[k]);
}

void batch_norm_backward(const Share& l, const double* sums) {  // (threads, 2, channels)
  const int64_t c = l.outputs;
  const float *mean = l.statistics, *inverse = mean + c;
  float *slope = scratch<3>(4 * c), *shift = slope + c, *level = shift + c, *pull = level + c;
  line_of(l, mean, inverse, slope, shift);
  // dX = slope * (dY - mean(dY) - (X - mean) * pull)
  for (int64_t k = 0; k < c; ++k) {
    double grads = 0, along_x = 0;
    for (int64_t t = 0; t < l.threads; ++t) grads += sums[2 * t * c + k], along_x += sums[(2 * t + 1) * c + k];
    pull[k] = float(along_x * inverse[k] / l.all_rows * inverse[k]);
    level[k] = float(grads / l.all_rows) - mean[k] * pull[k];
  }
  everywhere(l.rows(), c, [&](int64_t i, int64_t, int64_t k, int64_t lanes) __attribute__((always_inline)) {
    const Vector x = get(l.x + i, lanes), g = before_relu(l, slope, shift, i, k, lanes, x);
    set(l.x_grad + i, (g - get(level + k, lanes) - x * get(pull + k, lanes)) * get(slope + k, lanes), lanes);
  });
}

void layer_norm_forward(const Share& l) {
  const int64_t rows = l.rows(), c = l.outputs;
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = l.x + r * c;
    Vector sum{}, square{};
    along(c, [&](int64_t k, int64_t lanes) __attribute__((always_inline)) { sum += get(x + k, lanes); });
    const float mean = sum_of(sum) / c;
    const Vector all = same(mean);
    along(c, [&](int64_t k, int64_t lanes) __attribute__((always_inline)) {
      const Vector centred = get(x + k, lanes) - get((const float*)&all, lanes);  // 0 in the lanes beyond the row
      square += centred * centred;
    });
    const float inverse = 1 / std::sqrt(sum_of(square) / c + float(l.eps));
    l.statistics[2 * r] = mean, l.statistics[2 * r + 1] = inverse;
    along(c, [&](int64_t k, int64_t lanes) __attribute__((always_inline)) {
      const Vector unit = (get(x + k, lanes) - mean) * inverse;
      set(l.y + r * c + k, unit * get(l.weight + k, lanes) + get(l.bias + k, lanes), lanes);
    });
  }
}

void layer_norm_backward(const Share& l) {
  const int64_t rows = l.rows(), c = l.outputs;
  std::vector<double> sums(2 * c);
  column_sums<2>(rows, c, sums.data(),
                 [&](int64_t r, int64_t k, int64_t lanes, Vector* s) __attribute__((always_inline)) {
                   const Vector g = get(l.y_grad + r * c + k, lanes);
                   s[0] += g;
                   s[1] += g * (get(l.x + r * c + k, lanes) - l.statistics[2 * r]) * l.statistics[2 * r + 1];
                 });
  for (int64_t k = 0; k < c; ++k) l.bias_grad[k] = float(sums[k]), l.weight_grad[k] = float(sums[c + k]);
  for (int64_t r = 0; r < rows; ++r) {
    const float *x = l.x + r * c, *g = l.y_grad + r * c, mean = l.statistics[2 * r], inverse = l.statistics[2 * r + 1];
    Vector sum{}, along_x{};
    along(c, [&](int64_t k, int64_t lanes) __attribute__((always_inline)) {
      const Vector weighted = get(g + k, lanes) * get(l.weight + k, lanes);
      sum += weighted;
      along_x += weighted * (get(x + k, lanes) - mean);
    });
    const float level = sum_of(sum) / c, pull = sum_of(along_x) / c * inverse * inverse;
    along(c, [&](int64_t k, int64_t lanes) __attribute__((always_inline)) {
      const Vector weighted = get(g + k, lanes) * get(l.weight + k, lanes);
      set(l.x_grad + r * c + k, (weighted - level - (get(x + k, lanes) - mean) * pull) * inverse, lanes);
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Activations, and where a block's branch meets its shortcut

void activate(const Share& l) {
  along(l.rows() * l.outputs, [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
    const Vector x = get(l.x + i, lanes);
    set(l.y + i, l.kind == RELU ? positive(x) : x * distribution(x, x * x), lanes);
  });
}

void activate_backward(const Share& l) {
  along(l.rows() * l.outputs, [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
    const Vector x = get(l.x + i, lanes), g = get(l.y_grad + i, lanes), square = x * x;
    set(l.x_grad + i, l.kind == RELU ? passed(x, g) : g * slope(x, square, distribution(x, square)), lanes);
  });
}

void join(const Share& l) {  // Y = [relu] (other + factor * scale * X)
  const int64_t c = l.outputs, each = l.out_height * l.out_width;
  everywhere(l.rows(), c, [&](int64_t i, int64_t r, int64_t k, int64_t lanes) __attribute__((always_inline)) {
    Vector x = get(l.x + i, lanes);
    if (l.weight) x *= get(l.weight + k, lanes);
    if (l.factor) x *= l.factor[r / each];
    x += get(l.other + i, lanes);
    set(l.y + i, l.relu ? positive(x) : x, lanes);
  });
}

void join_backward(const Share& l) {
  const int64_t c = l.outputs, each = l.out_height * l.out_width;
  everywhere(l.rows(), c, [&](int64_t i, int64_t r, int64_t k, int64_t lanes) __attribute__((always_inline)) {
    Vector g = get(l.y_grad + i, lanes);
    if (l.relu) g = passed(get(l.y + i, lanes), g);
    set(l.other_grad + i, g, lanes);
    if (l.factor) g *= l.factor[r / each];
    set(l.x_grad + i, g, lanes);  // without the scale yet
  });
  if (!l.weight) return;
  std::vector<double> sums(c);
  column_sums<1>(l.rows(), c, sums.data(),
                 [&](int64_t r, int64_t k, int64_t lanes, Vector* s) __attribute__((always_inline)) {
                   s[0] += get(l.x_grad + r * c + k, lanes) * get(l.x + r * c + k, lanes);
                 });
  for (int64_t k = 0; k < c; ++k) l.weight_grad[k] = float(sums[k]);
  everywhere(l.rows(), c, [&](int64_t i, int64_t, int64_t k, int64_t lanes) __attribute__((always_inline)) {
    set(l.x_grad + i, get(l.x_grad + i, lanes) * get(l.weight + k, lanes), lanes);
  });
}

void split_backward(const Share& l) {  // what a block's input gets from the branch and from the shortcut
  if (!l.x_grad) return;
  along(l.rows() * l.outputs, [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
    set(l.x_grad + i, get(l.y_grad + i, lanes) + get(l.other + i, lanes), lanes);
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// All layers, by all threads

struct Team {
  int64_t most;                     // threads, that the memory below is for
  double* sums;                     // (2, most, 3, channels), of batch norms in turn
  int64_t of_sums;                  // most * 3 * channels
  float* grads = nullptr;           // (most - 1, parameters): the later threads' gradients
  int64_t parameters = 0;
  std::atomic<bool> failed{false};  // for want of memory; all threads still meet at the barriers

  Team(const Layer* layers, int64_t count, int64_t threads) : most(threads) {
    int64_t channels = 0;
    for (const Layer* l = layers; l < layers + count; ++l)
      if (l->kind == BATCH_NORM) channels = std::max(channels, l->outputs);
    of_sums = most * 3 * channels;
    sums = reinterpret_cast<double*>(scratch<5>(4 * of_sums));
  }

  // Where the next batch norm's sums go: others may still read the last one's.
  double* after(const double* last) const { return last == sums ? sums + of_sums : sums; }

  template <class F>
  void attempt(F f) {
    if (failed) return;
    try {
      f();
    } catch (...) {
      failed = true;
    }
  }

  template <class F>
  int run(F f) {  // f(thread, threads)
    if (most == 1) {
      f(0, 1);
    } else {
#pragma omp parallel num_threads(most)
      f(omp_get_thread_num(), omp_get_num_threads());
    }
    return failed;
  }
};

INLINE void meet(int64_t threads) {
  if (threads > 1) {
#pragma omp barrier
  }
}

void forward(const Share& l, const double* sums) {
  switch (l.kind) {
    case CONV: return conv_forward(l);
    case DEPTHWISE: return depthwise_forward(l);
    case BATCH_NORM: return batch_norm_forward(l, sums);
    case LAYER_NORM: return layer_norm_forward(l);
    case RELU: case GELU: return activate(l);
    case JOIN: return join(l);
    case PATCHES: return patches(l);
    case POOL: return pool(l);
  }
}

void backward(const Share& l, const double* sums) {
  switch (l.kind) {
    case CONV: return conv_backward(l);
    case DEPTHWISE: return depthwise_backward(l);
    case BATCH_NORM: return batch_norm_backward(l, sums);
    case LAYER_NORM: return layer_norm_backward(l);
    case RELU: case GELU: return activate_backward(l);
    case JOIN: return join_backward(l);
    case SPLIT: return split_backward(l);
    case PATCHES: return patches_backward(l);
    case POOL: return pool_backward(l);
  }
}

int forward(const Layer* layers, int64_t count, Team& team) {
  return team.run([&](int64_t thread, int64_t threads) {
    double* sums = team.sums;
    for (const Layer* at = layers; at < layers + count; ++at) {
      const Share l(*at, thread, threads);
      if (l.kind == BATCH_NORM) {
        sums = team.after(sums);
        team.attempt([&] { batch_norm_moments(l, sums + thread * 3 * l.outputs); });
        meet(threads);
      }
      team.attempt([&] { forward(l, sums); });
    }
  });
}

int backward(const Layer* layers, int64_t count, Team& team) {
  for (const Layer* l = layers; l < layers + count; ++l)
    team.parameters += (l->weight_grad ? l->weights() : 0) + (l->bias_grad ? l->outputs : 0);
  team.grads = scratch<6>((team.most - 1) * team.parameters);
  return team.run([&](int64_t thread, int64_t threads) {
    double* sums = team.sums;
    float* own = team.grads + (thread - 1) * team.parameters;
    for (const Layer* at = layers + count - 1; at >= layers; --at) {
      Share l(*at, thread, threads);
      if (thread) {
        if (l.weight_grad) l.weight_grad = own, own += l.weights();
        if (l.bias_grad) l.bias_grad = own, own += l.outputs;
      }
      if (l.kind == BATCH_NORM) {
        sums = team.after(sums);
        team.attempt([&] { batch_norm_grad_sums(l, sums + thread * 2 * l.outputs); });
        meet(threads);
      }
      team.attempt([&] { backward(l, sums); });
      // The next layer may write where this one read, in another layout.
      if (l.kind == CONV || l.kind == DEPTHWISE || l.kind == PATCHES || l.kind == POOL) meet(threads);
    }
    if (threads == 1) return;
    meet(threads);
    const float* theirs = team.grads;
    const auto add = [&](float* to, int64_t size) {
      if (!to) return;
      for (int64_t i = size * thread / threads; i < size * (thread + 1) / threads; ++i)
        for (int64_t t = 0; t < threads - 1; ++t) to[i] += theirs[t * team.parameters + i];
      theirs += size;
    };
    for (const Layer* l = layers + count - 1; l >= layers; --l) {
      add(l->weight_grad, l->weights());
      add(l->bias_grad, l->outputs);
    }
  });
}

int with_team(const Layer* layers, int64_t count, int64_t threads, int (*f)(const Layer*, int64_t, Team&)) {
  try {
    Team team(layers, count, threads);
    return f(layers, count, team);
  } catch (...) {
    return 1;
  }
}

// Both return 0, or 1 where memory ran out: C++ exceptions would end the process. There are at most as many threads as
// images.
extern "C" int nextify_layers(const Layer* layers, int64_t count, int64_t threads) {
  return with_team(layers, count, threads, forward);
}

extern "C" int nextify_layers_backward(const Layer* layers, int64_t count, int64_t threads) {
  return with_team(layers, count, threads, backward);
}
