#pragma once

#include <jpeglib.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <vector>

namespace bitdial::data {

/// Writes a JPEG file of 1 (grey), 3 (RGB) or 4 (CMYK) channels.
inline void write_jpeg(const std::filesystem::path& file, unsigned width, unsigned height, int channels,
                       const std::vector<uint8_t>& pixels, int quality = 95) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  std::filesystem::create_directories(file.parent_path());
  std::FILE* to = std::fopen(file.c_str(), "wb");
  jpeg_stdio_dest(&info, to);
  info.image_width = width;
  info.image_height = height;
  info.input_components = channels;
  info.in_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < height) {
    auto* row = const_cast<JSAMPROW>(pixels.data() +
                                     size_t{info.next_scanline} * width * static_cast<size_t>(channels));
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::fclose(to);
}

}  // namespace bitdial::data
