#include "bitdial/data/resize.h"

#include "helpers.h"

namespace bitdial::data {
namespace {

Bytes pattern(int64_t height, int64_t width, int64_t channels) {
  Bytes image(static_cast<size_t>(height * width * channels));
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<uint8_t>(i * 37 + i * i * 11);
  return image;
}

Rect whole(int64_t height, int64_t width) {
  return {0, 0, static_cast<double>(width), static_cast<double>(height)};
}

TEST(Resize, KeepsAnImageOfTheRightSize) {
  const Bytes image = pattern(9, 6, 3);
  Bytes out(image.size());
  resize_region({image.data(), {3, 9, 6}}, whole(9, 6), 9, 6, out.data());
  EXPECT_EQ(out, image);
}

TEST(Resize, CutsWholePixels) {
  const Bytes image = pattern(9, 6, 1);
  Bytes out(6);
  resize_region({image.data(), {1, 9, 6}}, {2, 4, 3, 2}, 2, 3, out.data());
  EXPECT_EQ(out, (Bytes{image[4 * 6 + 2], image[4 * 6 + 3], image[4 * 6 + 4], image[5 * 6 + 2],
                        image[5 * 6 + 3], image[5 * 6 + 4]}));
}

// Computed with torch.nn.functional.interpolate(mode="bilinear", antialias=True, align_corners=False).
TEST(Resize, AgreesWithPyTorch) {
  {
    const Bytes image = pattern(5, 7, 1);
    Bytes out(12);
    resize_region({image.data(), {1, 5, 7}}, whole(5, 7), 3, 4, out.data());
    EXPECT_EQ(out, (Bytes{68, 161, 165, 139, 167, 143, 153, 82, 180, 73, 147, 138}));
  }
  {
    const Bytes image = pattern(3, 4, 1);
    Bytes out(30);
    resize_region({image.data(), {1, 3, 4}}, whole(3, 4), 5, 6, out.data());
    EXPECT_EQ(out, (Bytes{0,   24, 60, 106, 164, 210, 27,  69,  111, 113, 126, 138, 68,  136, 188,
                          122, 68, 30, 166, 184, 194, 164, 145, 133, 232, 216, 198, 192, 196, 202}));
  }
  {
    const Bytes image = pattern(8, 8, 1);
    Bytes out(9);
    resize_region({image.data(), {1, 8, 8}}, whole(8, 8), 3, 3, out.data());
    EXPECT_EQ(out, (Bytes{145, 147, 129, 137, 141, 136, 154, 127, 126}));
  }
}

TEST(Resize, KeepsAConstantAtEverySize) {
  const Bytes image(static_cast<size_t>(13 * 17 * 3), 201);
  for (int64_t size : {1, 2, 5, 13, 32, 57}) {
    Bytes out(static_cast<size_t>(size * size * 3));
    resize_region({image.data(), {3, 13, 17}}, {0.3, 1.7, 12.5, 9.1}, size, size, out.data());
    EXPECT_EQ(out, Bytes(out.size(), 201)) << size;
  }
}

TEST(Resize, ClipsRegionsAndRefusesEmptyOnes) {
  const Bytes image = pattern(4, 4, 1);
  Bytes clipped(4);
  Bytes inside(4);
  resize_region({image.data(), {1, 4, 4}}, {2, 2, 9, 9}, 2, 2, clipped.data());
  resize_region({image.data(), {1, 4, 4}}, {2, 2, 2, 2}, 2, 2, inside.data());
  EXPECT_EQ(clipped, inside);
  expect_error(
      [&] {
        resize_region({image.data(), {1, 4, 4}}, {4, 0, 2, 2}, 2, 2, clipped.data());
      },
      "[resize]", "empty");
}

TEST(Resize, CentersSquares) {
  const Rect r = center_square(300, 200, 0.5);
  EXPECT_EQ(r.width, 100);
  EXPECT_EQ(r.height, 100);
  EXPECT_EQ(r.x, 100);
  EXPECT_EQ(r.y, 50);
}

}  // namespace
}  // namespace bitdial::data
