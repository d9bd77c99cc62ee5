// A part of a JPEG, at 1, 1/2, 1/4 or 1/8 of its size, by libjpeg-turbo: the Huffman code is undone down to the part's
// lower edge, which must be, and only the part's own blocks are transformed, upsampled and coloured.
//
// nextify/data/jpeg.py builds this where libjpeg-turbo's header and library are installed, loads it and checks it.

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <jpeglib.h>

namespace {

struct Errors {
  jpeg_error_mgr base;
  std::jmp_buf escape;
};

void leave(j_common_ptr info) { std::longjmp(reinterpret_cast<Errors*>(info->err)->escape, 1); }
void count(j_common_ptr info, int level) { info->err->num_warnings += level < 0; }
void silent(j_common_ptr) {}

// Blocks beyond the part on each side: the upsampling of colours looks at neighbours.
constexpr int MARGIN = 1;

}  // namespace

// out: (height, width, 3), the part at (top, left) of the image as it is at `shrink`; gray is replicated. Result: 0, or
// 1 where the data are damaged as far as they were read, or the part does not lie within the image.
extern "C" int nextify_jpeg_part(const uint8_t* data, uint64_t size, int shrink, int64_t top, int64_t left,
                                 int64_t height, int64_t width, uint8_t* out) {
  jpeg_decompress_struct info;
  Errors errors;
  info.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = leave;
  errors.base.emit_message = count;
  errors.base.output_message = silent;
  uint8_t* volatile line = nullptr;
  if (setjmp(errors.escape)) {
    std::free(line);
    jpeg_destroy_decompress(&info);
    return 1;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, const_cast<uint8_t*>(data), size);
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_RGB;
  info.scale_num = 1;
  info.scale_denom = shrink;
  jpeg_start_decompress(&info);
  bool good = top >= 0 && left >= 0 && height > 0 && width > 0 && top + height <= info.output_height &&
              left + width <= info.output_width;
  if (good) {
    const int64_t across = MARGIN * info.max_h_samp_factor * DCTSIZE, down = MARGIN * info.max_v_samp_factor * DCTSIZE;
    const int64_t right = left + width + across < info.output_width ? left + width + across : info.output_width;
    JDIMENSION from = left > across ? left - across : 0, columns = right - from;
    if (columns < info.output_width) jpeg_crop_scanline(&info, &from, &columns);
    line = static_cast<uint8_t*>(std::malloc(static_cast<size_t>(columns) * 3));
    if (!line) leave(reinterpret_cast<j_common_ptr>(&info));
    if (top > down) jpeg_skip_scanlines(&info, top - down);
    uint8_t* row = line;
    for (int64_t y = info.output_scanline; y < top + height; ++y) {
      if (jpeg_read_scanlines(&info, &row, 1) != 1) leave(reinterpret_cast<j_common_ptr>(&info));
      if (y >= top) std::memcpy(out + (y - top) * width * 3, line + (left - from) * 3, width * 3);
    }
    good = info.err->num_warnings == 0;
    std::free(line);
    line = nullptr;
  }
  jpeg_destroy_decompress(&info);
  return !good;
}
