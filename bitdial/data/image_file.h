#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "bitdial/data/dataset.h"

namespace bitdial::data {

/// An RGB image: height x width x 3.
struct Image {
  int64_t width = 0;
  int64_t height = 0;
  std::vector<uint8_t> rgb;
};

/// How much smaller than stored an image may be decoded: 1, 2, 4 or 8, given its stored size.
using ShrinkChooser = std::function<int(int64_t width, int64_t height)>;

struct DecodedImage {
  Image image;
  int64_t stored_width = 0;
  int64_t stored_height = 0;
};

/// Reads a PNG or JPEG file as RGB; the kind is taken from the content, not from the name. Grey, palette,
/// 16-bit and CMYK images are converted, transparency is put on white. JPEG files are decoded at the reduced
/// size that `shrink` allows, which is much faster. Throws Error naming the file when it is missing, of
/// another kind, truncated, corrupt, or larger than 2^28 pixels.
DecodedImage read_image(const std::filesystem::path& file, const ShrinkChooser& shrink = {});

/// Writes an RGB PNG file.
void write_png(const std::filesystem::path& file, const Image& image);

}  // namespace bitdial::data
