// What a ConvNeXt block does to each pixel by itself, in inference, with matrix products of our own: norm, product, bias
// and GELU, product, and Z = S + scale * (Y + bias).
//
// Weights are brought into the order in which the product reads them by the thread that uses them, straight from their
// rows and types in memory, a panel of columns at a time; so a bfloat16 product reads float weights once and writes them
// nowhere but into its cache. Between the products nothing is written but the hidden activations of a strip of pixels.
// Sums are float32, in the order of the inner dimension, whatever the number of threads.
//
// Plain C interface; nextify/nn/pixelwise.py builds it, loads it and checks it.

#include <omp.h>

#include <cstdint>

#include "gelu.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

// A product's tile of accumulators: ROWS rows of COLUMNS vectors, and a panel's width in columns.
constexpr int ROWS = 6, COLUMNS = REGISTERS == 32 ? 4 : 2, WIDTH = COLUMNS * LANES;

constexpr int LINE = 64;                // bytes, of a cache
constexpr int PANEL_BYTES = 320 << 10;  // of a second cache, that a panel may take: a larger one is made of half the width

typedef uint32_t LooseBits __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// The inner dimension in words of 32 bits: a float, or two neighbouring bfloat16.
template <class T>
constexpr int IN_WORD = 4 / sizeof(T);

INLINE Vector add_product(float, Vector sum, uint32_t word, Bits weights) {
  float value;
  std::memcpy(&value, &word, 4);
  return sum + same(value) * (Vector)weights;
}
INLINE Vector add_product(uint16_t, Vector sum, uint32_t word, Bits weights) {
#if defined(__AVX512BF16__)
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)word), (__m512bh)weights);
#else
  const Bits words = Bits{} + word;
  return sum + (Vector)(words << 16) * (Vector)(weights << 16) +
         (Vector)(words & 0xffff0000u) * (Vector)(weights & 0xffff0000u);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Panels: words [inner / IN_WORD][columns of the panel], from weights (columns, inner)

INLINE Bits words(const float* p, float) { return *reinterpret_cast<const LooseBits*>(p); }
INLINE Bits words(const uint16_t* p, float) { return (Bits)load(p); }
INLINE Bits words(const uint16_t* p, uint16_t) { return *reinterpret_cast<const LooseBits*>(p); }
INLINE Bits words(const float* p, uint16_t) {
#if defined(__AVX512BF16__)
  return (Bits)_mm512_cvtne2ps_pbh((__m512)load(p + LANES), (__m512)load(p));
#else
  uint16_t halves[2 * LANES];
  store(halves, load(p));
  store(halves + LANES, load(p + LANES));
  return *reinterpret_cast<const LooseBits*>(halves);
#endif
}

// One exchange of a transposition: lanes whose index has the bit S of `low` for those without it of `high`.
template <int S, int... L>
INLINE void exchange(Bits& low, Bits& high, std::integer_sequence<int, L...>) {
  const Bits a = low, b = high;
  low = __builtin_shufflevector(a, b, ((L & S) ? LANES + L - S : L)...);
  high = __builtin_shufflevector(a, b, ((L & S) ? LANES + L : L + S)...);
}

template <int S>
INLINE void transpose(Bits* square) {  // LANES x LANES
  if constexpr (S > 0) {
    repeat<LANES>([&](auto i) __attribute__((always_inline)) {
      if constexpr (!(number<decltype(i)> & S))
        exchange<S>(square[number<decltype(i)>], square[number<decltype(i)> | S],
                    std::make_integer_sequence<int, LANES>{});
    });
    transpose<S / 2>(square);
  }
}

template <class T, class W>
void pack_from(const W* weight, int64_t inner, int64_t columns, int vectors, uint32_t* panel) {
  const int64_t steps = inner / IN_WORD<T>, whole = steps / LANES * LANES;
  for (int v = 0; v < vectors; ++v) {
    const int64_t first = int64_t(v) * LANES;
    for (int64_t k = 0; k < steps; k += LANES) {
      Bits square[LANES];
      repeat<LANES>([&](auto i) __attribute__((always_inline)) {
        constexpr int row = number<decltype(i)>;
        const W* at = weight + (first + row) * inner + k * IN_WORD<T>;
        if (__builtin_expect(first + row >= columns, 0)) {
          square[row] = Bits{};
        } else if (__builtin_expect(k < whole, 1)) {
          __builtin_prefetch(at + 512 / sizeof(W));
          square[row] = words(at, T{});
        } else {
          W rest[LANES * IN_WORD<T>] = {};
          std::memcpy(rest, at, (steps - k) * IN_WORD<T> * sizeof(W));
          square[row] = words(rest, T{});
        }
      });
      transpose<LANES / 2>(square);
      uint32_t* to = panel + k * vectors * LANES + first;
      const int64_t rows = steps - k < LANES ? steps - k : LANES;
      for (int64_t i = 0; i < rows; ++i) *reinterpret_cast<Bits*>(to + i * vectors * LANES) = square[i];
    }
  }
}

struct Part {  // of memory
  const char* start;
  int64_t bytes;
};

struct Matrix {  // (columns, inner), bfloat16 or float
  const void* start;
  bool half;

  Part part(int64_t first, int64_t count) const {  // in elements
    const int64_t size = half ? 2 : 4;
    return {static_cast<const char*>(start) + first * size, count * size};
  }
};

template <class T>
void pack(Matrix weight, int64_t first, int64_t inner, int64_t columns, int vectors, uint32_t* panel) {
  weight.half ? pack_from<T>(static_cast<const uint16_t*>(weight.start) + first * inner, inner, columns, vectors, panel)
              : pack_from<T>(static_cast<const float*>(weight.start) + first * inner, inner, columns, vectors, panel);
}

// ---------------------------------------------------------------------------------------------------------------------
// The product of rows with a panel

template <class T, int R, int V>
__attribute__((noinline)) void tile(const T* rows, int64_t inner, const uint32_t* panel, const char* ahead,
                                    int64_t stride, Vector* out) {
  Vector sums[R][V] = {};
  const int64_t steps = inner / IN_WORD<T>;
  for (int64_t k = 0; k < steps; ++k) {
    __builtin_prefetch(ahead + k * stride, 0, 2);
    Bits weights[V];
    repeat<V>([&](auto v) __attribute__((always_inline)) {
      weights[number<decltype(v)>] = *reinterpret_cast<const Bits*>(panel + (k * V + number<decltype(v)>) * LANES);
    });
    repeat<R>([&](auto r) __attribute__((always_inline)) {
      uint32_t word;
      std::memcpy(&word, rows + number<decltype(r)> * inner + k * IN_WORD<T>, 4);
      repeat<V>([&](auto v) __attribute__((always_inline)) {
        Vector& sum = sums[number<decltype(r)>][number<decltype(v)>];
        sum = add_product(T{}, sum, word, weights[number<decltype(v)>]);
      });
    });
  }
  repeat<R * V>([&](auto i) __attribute__((always_inline)) {
    out[number<decltype(i)>] = sums[number<decltype(i)> / V][number<decltype(i)> % V];
  });
}

template <class T>
using Tile = void (*)(const T*, int64_t, const uint32_t*, const char*, int64_t, Vector*);

template <class T, int... I>
Tile<T> choose_tile(int64_t rows, int64_t vectors, std::integer_sequence<int, I...>) {
  constexpr Tile<T> tiles[] = {tile<T, I / COLUMNS + 1, I % COLUMNS + 1>...};
  return tiles[(rows - 1) * COLUMNS + vectors - 1];
}

// finish(row, column, lanes, sums) on each vector of the product of `count` rows with a panel `width` columns wide. What
// is needed next is called for `ahead` meanwhile.
template <class T, class Finish>
INLINE void multiply(const T* rows, int64_t count, int64_t inner, const uint32_t* panel, int64_t width, Part ahead,
                     Finish finish) {
  const int64_t tiles = (count + ROWS - 1) / ROWS, vectors = (width + LANES - 1) / LANES, steps = inner / IN_WORD<T>;
  const int64_t even = (ahead.bytes + tiles * steps - 1) / (tiles * steps), stride = even < LINE ? even : LINE;
  for (int64_t t = 0, start = 0, end; t < tiles; ++t, start = end) {  // of about equal heights
    end = count * (t + 1) / tiles;
    Vector sums[ROWS * COLUMNS];
    choose_tile<T>(end - start, vectors, std::make_integer_sequence<int, ROWS * COLUMNS>{})(
        rows + start * inner, inner, panel, ahead.start + t * steps * stride, stride, sums);
    for (int64_t r = start, i = 0; r < end; ++r)
      along(width, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) { finish(r, c, lanes, sums[i++]); });
  }
}

template <class T>
int64_t panel_width(int64_t inner) {
  return inner / IN_WORD<T> * WIDTH * 4 > PANEL_BYTES ? WIDTH / 2 : WIDTH;
}

// finish(row, column, lanes, sums) on each vector of the product of `rows` (count, inner) with weights (columns, inner).
// Called by every thread of a team, which shares the work, each with memory for a panel.
template <class T, class Finish>
void product(const T* rows, int64_t count, int64_t inner, Matrix weight, int64_t columns, uint32_t* memory, int threads,
             Finish finish) {
  const int64_t widest = panel_width<T>(inner), panels = (columns + widest - 1) / widest;
  const int64_t wanted = (4 * threads + panels - 1) / panels, most = (count + 4 * ROWS - 1) / (4 * ROWS);
  const int64_t groups = wanted < most ? wanted : most;  // of rows, where there are few panels for the threads
  int64_t packed = -1;
#pragma omp for schedule(dynamic)
  for (int64_t item = 0; item < panels * groups; ++item) {
    const int64_t panel = item / groups, group = item % groups;
    const int64_t first = panel * widest, width = columns - first < widest ? columns - first : widest;
    const int vectors = int((width + LANES - 1) / LANES);
    if (packed != panel) pack<T>(weight, first, inner, width, vectors, memory), packed = panel;
    const int64_t start = count * group / groups, end = count * (group + 1) / groups;
    const int64_t later = (item + threads) / groups * widest;  // this thread's next panel, as long as all are as fast
    const bool another = later < columns && later != first;
    const int64_t later_width = columns - later < widest ? columns - later : widest;
    multiply(rows + start * inner, end - start, inner, memory, width,
             another ? weight.part(later * inner, later_width * inner) : weight.part(0, 0),
             [&](int64_t row, int64_t column, int64_t lanes, Vector sum) __attribute__((always_inline)) {
               finish(start + row, first + column, lanes, sum);
             });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// What stands before, between and after the products

// `store`, by the processor's own conversion where it has one, which takes denormal numbers for zero.
template <class T>
INLINE void put(T* p, Vector v, int64_t lanes) {
#if defined(__AVX512BF16__)
  if constexpr (sizeof(T) == 2)
    if (__builtin_expect(lanes >= LANES, 1)) {
      _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
      return;
    }
#endif
  store(p, v, lanes);
}

INLINE float total(Vector v) {
  float lanes[LANES], sum = 0;
  store(lanes, v);
  for (float lane : lanes) sum += lane;
  return sum;
}

// Rows with mean 0 and variance 1, times weight, plus bias; without a weight, the rows as they are.
template <class X, class T>
void normalize(const X* x, const float* weight, const float* bias, float eps, T* y, int64_t rows, int64_t columns) {
#pragma omp for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const X* from = x + r * columns;
    T* to = y + r * columns;
    float mean = 0, scale = 1;
    if (weight) {
      Vector sum{}, squares{};
      along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) { sum += load(from + c, lanes); });
      mean = total(sum) / columns;
      int64_t c = 0;
      for (; c + LANES <= columns; c += LANES) {
        const Vector d = load(from + c) - mean;
        squares += d * d;
      }
      float square = total(squares);
      for (; c < columns; ++c) {
        const float d = load(from + c, 1)[0] - mean;
        square += d * d;
      }
      scale = 1 / __builtin_sqrtf(square / columns + eps);
    }
    along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
      const Vector v = (load(from + c, lanes) - mean) * scale;
      put(to + c, weight ? v * load(weight + c, lanes) + load_or(bias, c, lanes, 0) : v, lanes);
    });
  }
}

struct Work {
  const void *x, *shortcut, *weight1, *weight2;                          // (rows, inputs), (rows, outputs), Linear's
  const float *norm_weight, *norm_bias, *bias1, *bias2, *scale;          // or null
  void *inputs, *hidden, *panels, *z;  // (strip, inputs), (strip, wide), a panel a thread, (rows, outputs)
  int64_t rows, columns, wide, outputs, strip;
  float eps;
  int x_half, shortcut_half, weight1_half, weight2_half, inner_half, z_half;  // bfloat16 (1) or float (0)
  int threads;
};

INLINE Vector load(const void* p, bool half, int64_t at, int64_t lanes) {
  return half ? load(static_cast<const uint16_t*>(p) + at, lanes) : load(static_cast<const float*>(p) + at, lanes);
}

// Bytes of a thread's panel.
extern "C" int64_t nextify_pixelwise_panel(int64_t columns, int64_t wide, int half) {
  const auto bytes = [&](int64_t inner) {
    return (half ? inner / 2 * panel_width<uint16_t>(inner) : inner * panel_width<float>(inner)) * 4;
  };
  const int64_t most = bytes(columns) > bytes(wide) ? bytes(columns) : bytes(wide);
  return (most + LINE - 1) / LINE * LINE;
}

template <class T>
void run(const Work& w) {
  T *inputs = static_cast<T*>(w.inputs), *hidden = static_cast<T*>(w.hidden);
  const int64_t panel_bytes = nextify_pixelwise_panel(w.columns, w.wide, w.inner_half);
#pragma omp parallel num_threads(w.threads)
  for (int64_t start = 0; start < w.rows; start += w.strip) {
    uint32_t* memory = reinterpret_cast<uint32_t*>(static_cast<char*>(w.panels) + omp_get_thread_num() * panel_bytes);
    const int64_t rows = w.rows - start < w.strip ? w.rows - start : w.strip, from = start * w.columns;
    if (w.x_half)
      normalize(static_cast<const uint16_t*>(w.x) + from, w.norm_weight, w.norm_bias, w.eps, inputs, rows, w.columns);
    else
      normalize(static_cast<const float*>(w.x) + from, w.norm_weight, w.norm_bias, w.eps, inputs, rows, w.columns);
    product(inputs, rows, w.columns, {w.weight1, w.weight1_half != 0}, w.wide, memory, w.threads,
            [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
              const Vector v = sum + load_or(w.bias1, c, lanes, 0);
              put(hidden + r * w.wide + c, v * distribution(v, v * v), lanes);
            });
    product(hidden, rows, w.wide, {w.weight2, w.weight2_half != 0}, w.outputs, memory, w.threads,
            [&](int64_t r, int64_t c, int64_t lanes, Vector sum) __attribute__((always_inline)) {
              const int64_t at = (start + r) * w.outputs + c;
              const Vector branch = sum + load_or(w.bias2, c, lanes, 0);
              const Vector z = load(w.shortcut, w.shortcut_half, at, lanes) + load_or(w.scale, c, lanes, 1) * branch;
              w.z_half ? put(static_cast<uint16_t*>(w.z) + at, z, lanes) : put(static_cast<float*>(w.z) + at, z, lanes);
            });
  }
}

// Returns 0, or 1 where a number of columns does not fill words of 32 bits.
extern "C" int nextify_pixelwise(const Work* work) {
  if (work->inner_half && (work->columns % 2 || work->wide % 2)) return 1;
  work->inner_half ? run<uint16_t>(*work) : run<float>(*work);
  return 0;
}
