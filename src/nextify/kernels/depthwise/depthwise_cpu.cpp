// Depthwise convolution on NHWC activations for any CPU that GCC or Clang knows: the forward pass (which, with the
// kernel flipped, is the input gradient at stride 1) and the gradient of weight and bias.
//
//   Y[n, oh, ow, c]  = b[c] + sum over kh, kw of  X[n, oh*S + kh - K/2, ow*S + kw - K/2, c] * W[c, kh, kw]
//   dW[c, kh, kw]    = sum over n, oh, ow of  dY[n, oh, ow, c] * X[n, oh*S + kh - K/2, ow*S + kw - K/2, c]
//   db[c]            = sum over n, oh, ow of  dY[n, oh, ow, c]
//
// One SIMD vector holds LANES channels, and a task is a block of LANES channels of one or a few images. It copies the
// plane, zero padded and widened to float, into a scratch of about SCRATCH bytes, so that the inner loops know neither
// padding, nor bfloat16, nor the stride between pixels. Accumulators stay in registers: for the forward pass those of
// neighbouring output pixels, for the weight gradient the K of each of a few kernel rows, while the loop walks the
// output pixels; either way one load of an input vector serves several multiply-adds.
//
// Each task of the weight gradient writes partial sums of its own, added up in a fixed order: no result depends on the
// number of threads, nor on how tasks fall on them.
//
// Built once per kernel size, with -DKERNEL=7 and the like. The interface is plain C without torch's headers (compiles
// in seconds, no ABI to match); cpu.py builds, loads and checks it.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "simd.h"

constexpr int UNROLL = 4;                // output pixels per tile of the weight gradient
constexpr int WIDE = 8;                  // output pixels per tile of the forward pass
constexpr int64_t SCRATCH = 320 * 1024;  // bytes staged per thread: stays in a second-level cache
constexpr int64_t NEAR = 32 * 1024;      // bytes walked by all kernel rows in turn: stays in a first-level cache
constexpr int64_t TASKS = 128;           // tasks to aim for, where there are enough images

struct Problem {
  int64_t images, height, width, channels, out_height, out_width, threads;
  int64_t blocks() const { return (channels + LANES - 1) / LANES; }
  // The last block overlaps its neighbour rather than running out of channels.
  int64_t first(int64_t block) const {
    return block * LANES + LANES <= channels ? block * LANES : channels > LANES ? channels - LANES : 0;
  }
  int64_t lanes() const { return channels < LANES ? channels : LANES; }
};

// How much of a plane is staged and walked at once, in output rows; pitch: vectors of a padded input row that are read.
template <int K, int S>
struct Band {
  int64_t pitch, rows, near;
  Band(const Problem& p, bool with_grad) {
    pitch = (p.out_width - 1) * S + K;
    const int64_t row = (S * pitch + with_grad * p.out_width) * sizeof(Vector), halo = (K - S) * pitch * sizeof(Vector);
    rows = clip((SCRATCH - halo) / row, p.out_height);
    near = clip((NEAR - halo) / row, rows);
  }
  static int64_t clip(int64_t value, int64_t most) { return value < 1 ? 1 : value > most ? most : value; }
  int64_t input_rows(int64_t output_rows) const { return (output_rows - 1) * S + K; }
};

// Copies the input rows under output rows top … top + rows - 1 of one plane of LANES channels.
template <class T, int K, int S>
INLINE void stage(const Problem& p, const Band<K, S>& band, const T* x, int64_t top, int64_t rows, Vector* to) {
  constexpr int pad = K / 2;
  const int64_t lanes = p.lanes(), pitch = band.pitch;
  for (int64_t r = 0; r < band.input_rows(rows); ++r, to += pitch) {
    const int64_t h = top * S + r - pad;
    const bool inside = h >= 0 && h < p.height;
    const int64_t end = !inside ? 0 : p.width + pad < pitch ? p.width + pad : pitch;
    int64_t w = 0;
    for (; w < (inside ? pad : 0); ++w) to[w] = Vector{};
    const T* from = x + h * p.width * p.channels;
    for (; w < end; ++w, from += p.channels) to[w] = load(from, lanes);
    for (; w < pitch; ++w) to[w] = Vector{};
  }
}

// Multiply-adds of U neighbouring output pixels with R kernel rows.
template <int K, int S, int R, int U>
INLINE void tile(Vector (&sum)[R][K], const Vector* x, int64_t pitch, const Vector* grad) {
  Vector g[U];
  repeat<U>([&](auto u) __attribute__((always_inline)) { g[u] = grad[u]; });
  repeat<(U - 1) * S + K>([&](auto j) __attribute__((always_inline)) {
    repeat<R>([&](auto r) __attribute__((always_inline)) {
      const Vector value = x[r * pitch + j];
      repeat<U>([&](auto u) __attribute__((always_inline)) {
        constexpr int k = number<decltype(j)> - number<decltype(u)> * S;
        if constexpr (k >= 0 && k < K) sum[number<decltype(r)>][k] += g[u] * value;
      });
    });
  });
}

// R kernel rows over `rows` output rows; x points at the input row under the first of these kernel rows.
template <int K, int S, int R>
void walk(Vector* total, const Vector* x, int64_t pitch, const Vector* grad, int64_t rows, int64_t width) {
  Vector sum[R][K];
  repeat<R * K>([&](auto i) __attribute__((always_inline)) { sum[i / K][i % K] = total[i]; });
  for (int64_t row = 0; row < rows; ++row, x += S * pitch, grad += width) {
    int64_t w = 0;
    for (; w + UNROLL <= width; w += UNROLL) tile<K, S, R, UNROLL>(sum, x + w * S, pitch, grad + w);
    switch (width - w) {
      case 3: tile<K, S, R, 3>(sum, x + w * S, pitch, grad + w); break;
      case 2: tile<K, S, R, 2>(sum, x + w * S, pitch, grad + w); break;
      case 1: tile<K, S, R, 1>(sum, x + w * S, pitch, grad + w); break;
    }
  }
  repeat<R * K>([&](auto i) __attribute__((always_inline)) { total[i] = sum[i / K][i % K]; });
}

constexpr int rows_at_once(int kernel) {  // as many kernel rows as the registers hold, three at most
  int rows = (REGISTERS - 2 - UNROLL) / kernel;
  return rows < 1 ? 1 : rows > 3 ? 3 : rows;
}

template <int K, int S, int FROM = 0>
INLINE void walk_all(Vector* total, const Vector* x, int64_t pitch, const Vector* grad, int64_t rows, int64_t width) {
  constexpr int groups = (K - FROM + rows_at_once(K) - 1) / rows_at_once(K);  // of nearly equal size
  if constexpr (groups > 0) {
    constexpr int now = (K - FROM + groups - 1) / groups;
    walk<K, S, now>(total + FROM * K, x + FROM * pitch, pitch, grad, rows, width);
    walk_all<K, S, FROM + now>(total, x, pitch, grad, rows, width);
  }
}

Vector* allocate(int64_t vectors) {
  return static_cast<Vector*>(std::aligned_alloc(64, (vectors * sizeof(Vector) + 63) / 64 * 64));
}

struct Scratch {
  Vector* data = nullptr;
  int64_t size = 0;
  Vector* reserve(int64_t vectors) {
    if (vectors > size) {
      std::free(data);
      data = allocate(vectors);
      if (!data) std::abort();
      size = vectors;
    }
    return data;
  }
  ~Scratch() { std::free(data); }
};
static thread_local Scratch scratch;

struct WeightGradient {
  const void *x, *grad;
  float *weight_grad, *bias_grad;

  template <class T, int K, int S>
  int run(const Problem& p) const {
    const int64_t wanted = (TASKS + p.blocks() - 1) / p.blocks(), chunk = (p.images + wanted - 1) / wanted;
    const int64_t chunks = (p.images + chunk - 1) / chunk, blocks = p.blocks(), tasks = chunks * blocks;
    constexpr int64_t sums = (K * K + 1) * LANES;
    // (chunks, blocks, K*K + 1, LANES)
    float* partial = static_cast<float*>(std::malloc(tasks * sums * sizeof(float)));
    if (!partial) return 2;
    const int64_t share = tasks / (p.threads * 8) + 1;  // neighbouring tasks share cache lines
    (void)share;
#pragma omp parallel num_threads(p.threads) if (p.threads > 1)
    {
#pragma omp for schedule(dynamic, share)
      for (int64_t i = 0; i < tasks; ++i) {
        const int64_t begin = i / blocks * chunk, end = begin + chunk < p.images ? begin + chunk : p.images;
        sum<T, K, S>(p, i % blocks, begin, end, partial + i * sums);
      }
#pragma omp for schedule(static)
      for (int64_t c = 0; c < p.channels; ++c) {
        const float* from = partial + c / LANES * sums + c - p.first(c / LANES);
        for (int64_t tap = 0; tap <= K * K; ++tap) {
          double total = 0;
          for (int64_t i = 0; i < chunks; ++i) total += from[i * blocks * sums + tap * LANES];
          (tap < K * K ? weight_grad[c * K * K + tap] : bias_grad[c]) = float(total);
        }
      }
    }
    std::free(partial);
    return 0;
  }

  template <class T, int K, int S>
  void sum(const Problem& p, int64_t block, int64_t begin, int64_t end, float* out) const {
    const Band<K, S> band(p, true);
    Vector* xs = scratch.reserve(band.input_rows(band.rows) * band.pitch + band.rows * p.out_width);
    Vector* gs = xs + band.input_rows(band.rows) * band.pitch;
    Vector total[K * K] = {}, bias = {};
    for (int64_t n = begin; n < end; ++n)
      for (int64_t top = 0; top < p.out_height; top += band.rows) {
        const int64_t rows = top + band.rows < p.out_height ? band.rows : p.out_height - top;
        stage(p, band, static_cast<const T*>(x) + n * p.height * p.width * p.channels + p.first(block), top, rows, xs);
        const T* from = static_cast<const T*>(grad) + (n * p.out_height + top) * p.out_width * p.channels;
        from += p.first(block);
        for (int64_t i = 0; i < rows * p.out_width; ++i, from += p.channels) bias += gs[i] = load(from, p.lanes());
        for (int64_t r = 0; r < rows; r += band.near)
          walk_all<K, S>(total, xs + r * S * band.pitch, band.pitch, gs + r * p.out_width,
                         band.near < rows - r ? band.near : rows - r, p.out_width);
      }
    std::memcpy(out, total, sizeof(total));
    std::memcpy(out + K * K * LANES, &bias, sizeof(bias));
  }
};

struct Forward {
  const void* x;
  const float *weight, *bias;  // (C, K*K) and (C); bias may be null
  void* out;
  bool flip;  // the kernel, in both directions

  // U neighbouring output pixels.
  template <class T, int K, int S, int U>
  INLINE static void pixels(const Vector* x, int64_t pitch, const Vector* weight, Vector start, T* out,
                            int64_t channels, int64_t skip, int64_t lanes) {
    Vector sum[U];
    repeat<U>([&](auto u) __attribute__((always_inline)) { sum[u] = start; });
    for (int row = 0; row < K; ++row, x += pitch, weight += K)
      repeat<(U - 1) * S + K>([&](auto j) __attribute__((always_inline)) {
        const Vector value = x[j];
        repeat<U>([&](auto u) __attribute__((always_inline)) {
          constexpr int k = number<decltype(j)> - number<decltype(u)> * S;
          if constexpr (k >= 0 && k < K) sum[u] += weight[k] * value;
        });
      });
    if (__builtin_expect(skip == 0 && lanes == LANES, 1)) {
      repeat<U>([&](auto u) __attribute__((always_inline)) { store(out + u * channels, sum[u]); });
    } else {  // only the channels that no other task writes
      for (int u = 0; u < U; ++u) {
        T values[LANES];
        store(values, sum[u]);
        std::memcpy(out + u * channels + skip, values + skip, (lanes - skip) * sizeof(T));
      }
    }
  }

  template <class T, int K, int S>
  int run(const Problem& p) const {
    const int64_t blocks = p.blocks();
    Band<K, S> band(p, false);
    while (band.rows > 2 * K && p.images * blocks * ((p.out_height + band.rows - 1) / band.rows) < TASKS)
      band.rows = (band.rows + 1) / 2;
    const int64_t bands = (p.out_height + band.rows - 1) / band.rows, tasks = p.images * bands * blocks;
    Vector* weights = allocate(blocks * (K * K + 1));
    if (!weights) return 2;
    float* flat = reinterpret_cast<float*>(weights);  // (blocks, K*K + 1, LANES): the taps, then the bias
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t lane = 0; lane < LANES; ++lane) {
        const int64_t c = p.first(block) + lane;
        float* to = flat + block * (K * K + 1) * LANES + lane;
        for (int64_t tap = 0; tap < K * K; ++tap)
          to[tap * LANES] = c < p.channels ? weight[c * K * K + (flip ? K * K - 1 - tap : tap)] : 0;
        to[K * K * LANES] = c < p.channels && bias ? bias[c] : 0;
      }
    const int64_t share = tasks / (p.threads * 8) + 1;  // neighbouring tasks share cache lines
    (void)share;
#pragma omp parallel for schedule(dynamic, share) num_threads(p.threads) if (p.threads > 1)
    for (int64_t i = 0; i < tasks; ++i) {
      const int64_t block = i % blocks, top = i / blocks % bands * band.rows, n = i / blocks / bands;
      const int64_t rows = top + band.rows < p.out_height ? band.rows : p.out_height - top;
      const int64_t first = p.first(block), skip = block * LANES - first;
      const Vector* w = weights + block * (K * K + 1);
      Vector* xs = scratch.reserve(band.input_rows(band.rows) * band.pitch);
      stage(p, band, static_cast<const T*>(x) + n * p.height * p.width * p.channels + first, top, rows, xs);
      T* to = static_cast<T*>(out) + (n * p.out_height + top) * p.out_width * p.channels + first;
      for (int64_t r = 0; r < rows; ++r, xs += S * band.pitch) {
        int64_t left = p.out_width;
        const Vector* from = xs;
#define PIXELS(U) pixels<T, K, S, U>(from, band.pitch, w, w[K * K], to, p.channels, skip, p.lanes())
        for (; left >= WIDE; left -= WIDE, from += WIDE * S, to += WIDE * p.channels) PIXELS(WIDE);
        if (left & 4) PIXELS(4), from += 4 * S, to += 4 * p.channels;
        if (left & 2) PIXELS(2), from += 2 * S, to += 2 * p.channels;
        if (left & 1) PIXELS(1), to += p.channels;
#undef PIXELS
      }
    }
    std::free(weights);
    return 0;
  }
};

template <class Job>
int choose(const Job& job, const Problem& p, bool bfloat16, int stride) {
  if (stride == 1) return bfloat16 ? job.template run<uint16_t, KERNEL, 1>(p) : job.template run<float, KERNEL, 1>(p);
  if (stride == 2) return bfloat16 ? job.template run<uint16_t, KERNEL, 2>(p) : job.template run<float, KERNEL, 2>(p);
  return 1;
}

// Shapes: x (N, H, W, C); out and grad (N, H', W', C) with H' = (H - 1) / stride + 1; all contiguous and of one type,
// float (bfloat16 = 0) or bfloat16 (1). weight and weight_grad (C, K*K), bias and bias_grad (C): float.
// Result: 0, or 1 for a stride that is not built, or 2 where memory is short.
extern "C" int nextify_depthwise_forward(const void* x, const float* weight, const float* bias, void* out, int bfloat16,
                                         int64_t images, int64_t height, int64_t width, int64_t channels, int stride,
                                         int flip, int threads) {
  const Problem p{images, height, width, channels, (height - 1) / stride + 1, (width - 1) / stride + 1, threads};
  const Forward job{x, weight, bias, out, flip != 0};
  return choose(job, p, bfloat16 != 0, stride);
}

extern "C" int nextify_depthwise_weight_grad(const void* x, const void* grad, float* weight_grad, float* bias_grad,
                                             int bfloat16, int64_t images, int64_t height, int64_t width,
                                             int64_t channels, int stride, int threads) {
  const Problem p{images, height, width, channels, (height - 1) / stride + 1, (width - 1) / stride + 1, threads};
  const WeightGradient job{x, grad, weight_grad, bias_grad};
  return choose(job, p, bfloat16 != 0, stride);
}
