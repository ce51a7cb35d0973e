#pragma once

#include <cstdint>

#include "bitdial/data/dataset.h"

namespace bitdial::data {

/// An image in memory: height x width x channels, 8 bits per value.
struct ImageView {
  const uint8_t* hwc = nullptr;
  ImageShape shape;
};

/// Resizes a region of an image to height x width. Bilinear; when shrinking, the triangle filter widens to
/// cover every source pixel (as Pillow's bilinear does), so nothing aliases. The region must not be empty and
/// is clipped to the image.
void resize_region(const ImageView& image, Rect region, int64_t height, int64_t width, uint8_t* hwc);

/// The centred square whose side is `share` of the shorter side of a width x height image.
Rect center_square(int64_t width, int64_t height, double share);

}  // namespace bitdial::data
