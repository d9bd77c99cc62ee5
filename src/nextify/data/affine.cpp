// Affine transforms of RGB images with bicubic interpolation, bit for bit as Pillow's Image.transform(AFFINE, BICUBIC).
//
// Pillow takes 16 pixels in doubles for each output pixel and channel. Here the pixels that a row needs are first
// gathered into lines, one line a tap, so that the arithmetic runs over whole lines in SIMD; and a shear or translation
// along an axis needs the four taps of that axis only, as all others have the weight 0.
//
// Compiled without contraction to fused multiply-adds, which round once where Pillow's instructions round twice.

#include <cstdint>
#include <cstring>
#include <vector>

using Line = std::vector<uint32_t>;  // of pixels of four bytes

// Places along one axis: the pixel before each, cut to the image, and how far each lies behind it.
struct Places {
  std::vector<double> at, distance;    // a pixel, and each of its four bytes
  std::vector<int32_t> before, index;  // index: of the tap that was asked for last
  int32_t end;

  Places(int64_t count, int64_t end)
      : at(count), distance(4 * count), before(count), index(count), end(static_cast<int32_t>(end)) {}

  void split(const uint8_t* outside) {
    const int64_t count = static_cast<int64_t>(at.size());
    for (int64_t x = 0; x < count; ++x) {
      const double place = (outside[x] ? 0.5 : at[x]) - 0.5;  // outside: anything that can be read
      const int32_t cut = static_cast<int32_t>(place);
      before[x] = cut - (place < cut);
      at[x] = place - before[x];
    }
    for (int64_t x = 0; x < count; ++x) {
      for (int k = 0; k < 4; ++k) distance[4 * x + k] = at[x];
    }
  }

  // Of tap k, 0 to 3, times `stride`; the edges go on as they end.
  const int32_t* tap(int k, int32_t stride) {
    const int64_t count = static_cast<int64_t>(at.size());
    const int32_t last = end - 1, step = k - 1;
    for (int64_t x = 0; x < count; ++x) {
      const int32_t place = before[x] + step, low = place < 0 ? 0 : place;
      index[x] = (low > last ? last : low) * stride;
    }
    return index.data();
  }
};

// The value at a distance d behind b, with a before it and c and e behind.
static inline double cubic(double a, double b, double c, double e, double d) {
  return b + d * (-a + c + d * (2 * (a - b) + c - e + d * (-a + b - c + e)));
}

static void cubic_lines(const Line* taps, const double* d, double* out, int64_t size) {
  const uint8_t* bytes[4];
  for (int k = 0; k < 4; ++k) bytes[k] = reinterpret_cast<const uint8_t*>(taps[k].data());
  const uint8_t *a = bytes[0], *b = bytes[1], *c = bytes[2], *e = bytes[3];
  for (int64_t i = 0; i < size; ++i) out[i] = cubic(a[i], b[i], c[i], e[i], d[i]);
}

static void to_levels(const double* value, uint8_t* out, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    const double cut = value[i] <= 0 ? 0 : value[i] >= 255 ? 255 : value[i];
    out[i] = static_cast<uint8_t>(static_cast<int>(cut));
  }
}

static void gather(const uint32_t* image, const int32_t* rows, const int32_t* columns, Line& line) {
  const int64_t count = static_cast<int64_t>(line.size());
  uint32_t* out = line.data();
  for (int64_t x = 0; x < count; ++x) out[x] = image[rows[x] + columns[x]];
}

// pixels and out: (height, width, 3), fewer than 2^31 pixels. matrix: of the place (x, y) that an output pixel comes
// from. fill: 3 bytes, for what comes from outside.
extern "C" void nextify_affine(const uint8_t* pixels, uint8_t* out, int64_t height, int64_t width, const double* matrix,
                               const uint8_t* fill) {
  const double a = matrix[0], b = matrix[1], c = matrix[2], d = matrix[3], e = matrix[4], f = matrix[5];
  const bool along_x = d == 0 && e == 1 && f == 0, along_y = a == 1 && b == 0 && c == 0;
  const int64_t size = 4 * width;
  const int32_t stride = static_cast<int32_t>(width);
  Line image(height * width);
  for (int64_t i = 0; i < height * width; ++i) {
    image[i] = pixels[3 * i] | pixels[3 * i + 1] << 8 | static_cast<uint32_t>(pixels[3 * i + 2]) << 16;
  }
  Places across(width, width), down(width, height);
  std::vector<double> values[4];
  std::vector<uint8_t> levels(size), outside(width);
  for (auto& line : values) line.resize(size);
  Line taps[4];
  for (auto& line : taps) line.resize(width);

  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const double from_x = a * (x + 0.5) + b * (y + 0.5) + c, from_y = d * (x + 0.5) + e * (y + 0.5) + f;
      across.at[x] = from_x, down.at[x] = from_y;
      outside[x] = (from_x < 0) | (from_x >= width) | (from_y < 0) | (from_y >= height);
    }
    across.split(outside.data()), down.split(outside.data());
    if (along_x) {
      const int32_t* rows = down.tap(1, stride);
      for (int k = 0; k < 4; ++k) gather(image.data(), rows, across.tap(k, 1), taps[k]);
      cubic_lines(taps, across.distance.data(), values[0].data(), size);
    } else if (along_y) {
      const int32_t* columns = across.tap(1, 1);
      for (int k = 0; k < 4; ++k) gather(image.data(), down.tap(k, stride), columns, taps[k]);
      cubic_lines(taps, down.distance.data(), values[0].data(), size);
    } else {
      for (int j = 0; j < 4; ++j) {
        const int32_t* rows = down.tap(j, stride);
        for (int k = 0; k < 4; ++k) gather(image.data(), rows, across.tap(k, 1), taps[k]);
        cubic_lines(taps, across.distance.data(), values[j].data(), size);
      }
      double* first = values[0].data();
      const double *second = values[1].data(), *third = values[2].data(), *fourth = values[3].data();
      const double* at = down.distance.data();
      for (int64_t i = 0; i < size; ++i) first[i] = cubic(first[i], second[i], third[i], fourth[i], at[i]);
    }
    to_levels(values[0].data(), levels.data(), size);
    uint8_t* to = out + 3 * y * width;
    for (int64_t x = 0; x < width; ++x) std::memcpy(to + 3 * x, outside[x] ? fill : levels.data() + 4 * x, 3);
  }
}
