// Matrix products of our own: rows (count, inner) times a matrix of which a thread brings one panel of columns at a time
// into the order in which it multiplies by it, straight from its rows and type in memory. Numbers are float, or bfloat16
// in pairs; sums are float, in the order of the inner dimension, whatever the number of threads. What is done with a sum
// is the caller's, while it is in a register.

#pragma once

#include <omp.h>

#include "simd.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

// A product's tile of accumulators: ROWS rows of COLUMNS vectors, and a panel's width in columns.
constexpr int ROWS = 6, COLUMNS = REGISTERS == 32 ? 4 : 2, WIDTH = COLUMNS * LANES;

constexpr int LINE = 64;                // bytes, of a cache
constexpr int PANEL_BYTES = 320 << 10;  // of a second cache, that a panel may take: a larger one is made of half the width

typedef uint32_t LooseBits __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// The inner dimension in words of 32 bits: a float, or two neighbouring bfloat16.
template <class T>
constexpr int IN_WORD = 4 / sizeof(T);

template <class T>
constexpr int64_t words_of(int64_t inner) {
  return (inner + IN_WORD<T> - 1) / IN_WORD<T>;
}

constexpr int64_t up_to(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

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

// What is not read again soon, past the caches, where it fills whole vectors; `streamed` before others may read it.
INLINE void stream(float* p, Vector v, int64_t lanes) {
#if defined(__AVX512F__)
  if (lanes >= LANES && reinterpret_cast<uintptr_t>(p) % sizeof(Vector) == 0) return _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX__)
  if (lanes >= LANES && reinterpret_cast<uintptr_t>(p) % sizeof(Vector) == 0) return _mm256_stream_ps(p, (__m256)v);
#endif
  store(p, v, lanes);
}
INLINE void streamed() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

// Memory that is about to be written comes in large pages where the system has them: of those of 4 KB, fresh ones of a
// batch's activations would take longer than the products.
INLINE void in_large_pages(void* p, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t start = (reinterpret_cast<uintptr_t>(p) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / page * page;
  if (end > start) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);  // or not: it is advice
#endif
}

INLINE Vector load(const void* p, bool half, int64_t at, int64_t lanes) {
  return half ? load(static_cast<const uint16_t*>(p) + at, lanes) : load(static_cast<const float*>(p) + at, lanes);
}

INLINE float total(Vector v) {
  float lanes[LANES], sum = 0;
  store(lanes, v);
  for (float lane : lanes) sum += lane;
  return sum;
}

// ---------------------------------------------------------------------------------------------------------------------
// Words of neighbours in a row, and of neighbours in a column

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

// A word of each of `lanes` columns: from the row at `at`, or from it and the next, of `rows` that are left.
template <class T, class W>
INLINE Bits across(const W* at, int64_t stride, int64_t rows, int64_t lanes, const float* factor = nullptr) {
  Vector first = load(at, lanes), second{};
  if (factor) first *= factor[0];
  if constexpr (IN_WORD<T> == 1) return (Bits)first;
  if (rows > 1) {
    second = load(at + stride, lanes);
    if (factor) second *= factor[1];
  }
  return rounded(first) >> 16 | rounded(second);
}

INLINE Vector sum_of_word(float, Bits word) { return (Vector)word; }
INLINE Vector sum_of_word(uint16_t, Bits word) { return (Vector)(word << 16) + (Vector)(word & 0xffff0000u); }

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

// `from` (rows, columns) as words of T by columns, `stride` elements from one to the next, and the sum of each column,
// added to what `sums` holds unless these are the first.
template <class T, class W>
void turn(const W* from, int64_t rows, int64_t columns, T* to, int64_t stride, float* sums, bool first) {
  const int64_t steps = words_of<T>(rows);
#pragma omp for schedule(static) nowait
  for (int64_t c = 0; c < columns; c += LANES) {
    const int64_t lanes = columns - c < LANES ? columns - c : LANES;
    Vector sum = first ? Vector{} : load(sums + c, lanes);
    for (int64_t k = 0; k < steps; k += LANES) {
      Bits square[LANES];
      repeat<LANES>([&](auto i) __attribute__((always_inline)) {
        const int64_t row = (k + number<decltype(i)>) * IN_WORD<T>;
        Bits& own = square[number<decltype(i)>];
        own = row < rows ? across<T>(from + row * columns + c, columns, rows - row, lanes) : Bits{};
        sum += sum_of_word(T{}, own);
      });
      transpose<LANES / 2>(square);
      repeat<LANES>([&](auto i) __attribute__((always_inline)) {
        if (number<decltype(i)> < lanes)
          *reinterpret_cast<Bits*>(to + (c + number<decltype(i)>) * stride + k * IN_WORD<T>) =
              square[number<decltype(i)>];
      });
    }
    store(sums + c, sum, lanes);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Panels: words [inner / IN_WORD][columns of the panel], of a matrix in memory, bfloat16 or float

struct Part {  // of memory
  const char* start;
  int64_t bytes;
};

// As (columns, inner): a row for each column.
struct ByColumn {
  const void* start;
  bool half;

  template <class T>
  void pack(int64_t first, int64_t inner, int64_t columns, int vectors, uint32_t* panel) const {
    half ? pack_from<T>(static_cast<const uint16_t*>(start) + first * inner, inner, columns, vectors, panel)
         : pack_from<T>(static_cast<const float*>(start) + first * inner, inner, columns, vectors, panel);
  }

  Part part(int64_t first, int64_t inner, int64_t columns) const {
    const int64_t size = half ? 2 : 4;
    return {static_cast<const char*>(start) + first * inner * size, columns * inner * size};
  }

 private:
  template <class T, class W>
  static void pack_from(const W* weight, int64_t inner, int64_t columns, int vectors, uint32_t* panel) {
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
};

// As (inner, columns), `stride` elements from row to row; each row times its factor, where there are factors.
struct ByRow {
  const void* start;
  bool half;
  int64_t stride;
  const float* factor = nullptr;

  template <class T>
  void pack(int64_t first, int64_t inner, int64_t columns, int vectors, uint32_t* panel) const {
    half ? pack_from<T>(static_cast<const uint16_t*>(start) + first, inner, columns, vectors, panel)
         : pack_from<T>(static_cast<const float*>(start) + first, inner, columns, vectors, panel);
  }

  Part part(int64_t, int64_t, int64_t) const { return {static_cast<const char*>(start), 0}; }

 private:
  template <class T, class W>
  void pack_from(const W* matrix, int64_t inner, int64_t columns, int vectors, uint32_t* panel) const {
    for (int64_t k = 0; k < inner; k += IN_WORD<T>) {
      for (int v = 0; v < vectors; ++v, panel += LANES) {
        const W* at = matrix + k * stride + v * LANES;
        __builtin_prefetch(at + 8 * IN_WORD<T> * stride);
        const float* own = factor ? factor + k : nullptr;
        *reinterpret_cast<Bits*>(panel) = across<T>(at, stride, inner - k, columns - v * LANES, own);
      }
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// The product of rows with a panel

template <class T, int R, int V>
__attribute__((noinline)) void tile(const T* rows, int64_t stride, int64_t steps, const uint32_t* panel,
                                    const char* ahead, int64_t ahead_stride, Vector* out) {
  Vector sums[R][V] = {};
  for (int64_t k = 0; k < steps; ++k) {
    __builtin_prefetch(ahead + k * ahead_stride, 0, 2);
    Bits weights[V];
    repeat<V>([&](auto v) __attribute__((always_inline)) {
      weights[number<decltype(v)>] = *reinterpret_cast<const Bits*>(panel + (k * V + number<decltype(v)>) * LANES);
    });
    repeat<R>([&](auto r) __attribute__((always_inline)) {
      uint32_t word;
      std::memcpy(&word, rows + number<decltype(r)> * stride + k * IN_WORD<T>, 4);
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
using Tile = void (*)(const T*, int64_t, int64_t, const uint32_t*, const char*, int64_t, Vector*);

template <class T, int... I>
Tile<T> choose_tile(int64_t rows, int64_t vectors, std::integer_sequence<int, I...>) {
  constexpr Tile<T> tiles[] = {tile<T, I / COLUMNS + 1, I % COLUMNS + 1>...};
  return tiles[(rows - 1) * COLUMNS + vectors - 1];
}

template <class T>
struct Rows {  // of words of T, `stride` elements from one to the next; the last word is filled up with zeros
  const T* start;
  int64_t stride;
};

// finish(row, column, lanes, sums) on each vector of the product of `count` rows with a panel `width` columns wide. What
// is needed next is called for `ahead` meanwhile.
template <class T, class Finish>
INLINE void multiply(Rows<T> rows, int64_t count, int64_t inner, const uint32_t* panel, int64_t width, Part ahead,
                     Finish finish) {
  const int64_t tiles = (count + ROWS - 1) / ROWS, vectors = (width + LANES - 1) / LANES, steps = words_of<T>(inner);
  const int64_t even = (ahead.bytes + tiles * steps - 1) / (tiles * steps), stride = even < LINE ? even : LINE;
  for (int64_t t = 0, start = 0, end; t < tiles; ++t, start = end) {  // of about equal heights
    end = count * (t + 1) / tiles;
    Vector sums[ROWS * COLUMNS];
    choose_tile<T>(end - start, vectors, std::make_integer_sequence<int, ROWS * COLUMNS>{})(
        rows.start + start * rows.stride, rows.stride, steps, panel, ahead.start + t * steps * stride, stride, sums);
    for (int64_t r = start, i = 0; r < end; ++r)
      along(width, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) { finish(r, c, lanes, sums[i++]); });
  }
}

template <class T>
int64_t panel_width(int64_t inner) {
  return words_of<T>(inner) * WIDTH * 4 > PANEL_BYTES ? WIDTH / 2 : WIDTH;
}

// Whole lines that hold a thread's panel of any inner dimension up to this: shorter ones may be wider.
template <class T>
int64_t panel_bytes(int64_t inner) {
  const int64_t width = panel_width<T>(inner), own = up_to(words_of<T>(inner) * width * 4, LINE);
  return width < WIDTH && own < PANEL_BYTES ? PANEL_BYTES : own;
}

// finish(row, column, lanes, sums) on each vector of the product of `count` rows with a matrix of `columns`. Called by
// every thread of a team, which shares the work, each with memory for a panel; a thread returns when there is nothing
// left to take, and the others may not be done.
template <class T, class M, class Finish>
void product(Rows<T> rows, int64_t count, int64_t inner, M matrix, int64_t columns, uint32_t* memory, int threads,
             Finish finish) {
  const int64_t widest = panel_width<T>(inner), panels = (columns + widest - 1) / widest;
  const int64_t wanted = (4 * threads + panels - 1) / panels, most = (count + 4 * ROWS - 1) / (4 * ROWS);
  const int64_t groups = wanted < most ? wanted : most;  // of rows, where there are few panels for the threads
  int64_t packed = -1;
#pragma omp for schedule(dynamic) nowait
  for (int64_t item = 0; item < panels * groups; ++item) {
    const int64_t panel = item / groups, group = item % groups;
    const int64_t first = panel * widest, width = columns - first < widest ? columns - first : widest;
    const int vectors = int((width + LANES - 1) / LANES);
    if (packed != panel) matrix.template pack<T>(first, inner, width, vectors, memory), packed = panel;
    const int64_t start = count * group / groups, end = count * (group + 1) / groups;
    const int64_t later = (item + threads) / groups * widest;  // this thread's next panel, as long as all are as fast
    const bool another = later < columns && later != first;
    const int64_t later_width = columns - later < widest ? columns - later : widest;
    const Rows<T> own = {rows.start + start * rows.stride, rows.stride};
    multiply(own, end - start, inner, memory, width,
             another ? matrix.part(later, inner, later_width) : matrix.part(0, inner, 0),
             [&](int64_t row, int64_t column, int64_t lanes, Vector sum) __attribute__((always_inline)) {
               finish(start + row, first + column, lanes, sum);
             });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Layer norm's rows

struct Statistics {  // of a row
  float mean, scale;
};

template <class X>
INLINE Statistics statistics(const X* row, int64_t columns, float eps) {
  Vector sum{}, squares{};
  along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) { sum += load(row + c, lanes); });
  const float mean = total(sum) / columns;
  int64_t c = 0;
  for (; c + LANES <= columns; c += LANES) {
    const Vector d = load(row + c) - mean;
    squares += d * d;
  }
  float square = total(squares);
  for (; c < columns; ++c) {
    const float d = load(row + c, 1)[0] - mean;
    square += d * d;
  }
  return {mean, 1 / __builtin_sqrtf(square / columns + eps)};
}

// Rows with mean 0 and variance 1, times weight, plus bias; without a weight, the rows as they are. The statistics are
// kept where there is memory for them.
template <class X, class T>
void normalize(const X* x, const float* weight, const float* bias, float eps, T* y, int64_t rows, int64_t columns,
               Statistics* kept = nullptr) {
#pragma omp for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const X* from = x + r * columns;
    T* to = y + r * columns;
    const Statistics own = weight ? statistics(from, columns, eps) : Statistics{0, 1};
    if (kept) kept[r] = own;
    along(columns, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
      const Vector v = (load(from + c, lanes) - own.mean) * own.scale;
      put(to + c, weight ? v * load(weight + c, lanes) + load_or(bias, c, lanes, 0) : v, lanes);
    });
  }
}
