#include "bitdial/data/image_file.h"

#include <png.h>

#include <cstdlib>

#include "helpers.h"
#include "jpeg_writer.h"

namespace bitdial::data {
namespace {

Image gradient(int64_t width, int64_t height) {
  Image image{width, height, {}};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      image.rgb.push_back(static_cast<uint8_t>(x * 255 / width));
      image.rgb.push_back(static_cast<uint8_t>(y * 255 / height));
      image.rgb.push_back(128);
    }
  }
  return image;
}

void write_png_as(const std::filesystem::path& file, uint32_t format, int width, int height,
                  const Bytes& pixels, const Bytes& palette = {}) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(width);
  png.height = static_cast<png_uint_32>(height);
  png.format = format;
  png.colormap_entries = static_cast<png_uint_32>(palette.size() / 3);
  ASSERT_NE(png_image_write_to_file(&png, file.c_str(), 0, pixels.data(), 0, palette.data()), 0)
      << png.message;
}

TEST(ImageFile, PngComesBackExactly) {
  const TempDir dir;
  const Image image = gradient(37, 23);
  write_png(dir / "a.png", image);
  const DecodedImage decoded = read_image(dir / "a.png");
  EXPECT_EQ(decoded.image.width, 37);
  EXPECT_EQ(decoded.image.height, 23);
  EXPECT_EQ(decoded.stored_width, 37);
  EXPECT_EQ(decoded.image.rgb, image.rgb);
}

TEST(ImageFile, ConvertsGreyPaletteAndTransparency) {
  const TempDir dir;
  write_png_as(dir / "grey.png", PNG_FORMAT_GRAY, 2, 1, {10, 200});
  EXPECT_EQ(read_image(dir / "grey.png").image.rgb, (Bytes{10, 10, 10, 200, 200, 200}));
  write_png_as(dir / "palette.png", PNG_FORMAT_RGB_COLORMAP, 2, 1, {1, 0}, {1, 2, 3, 40, 50, 60});
  EXPECT_EQ(read_image(dir / "palette.png").image.rgb, (Bytes{40, 50, 60, 1, 2, 3}));
  write_png_as(dir / "alpha.png", PNG_FORMAT_RGBA, 3, 1, {9, 8, 7, 255, 9, 8, 7, 0, 100, 0, 255, 51});
  EXPECT_EQ(read_image(dir / "alpha.png").image.rgb, (Bytes{9, 8, 7, 255, 255, 255, 224, 204, 255}));
}

TEST(ImageFile, JpegIsCloseAndKnownByContent) {
  const TempDir dir;
  const Image image = gradient(64, 48);
  write_jpeg(dir / "named.png", 64, 48, 3, image.rgb);
  const DecodedImage decoded = read_image(dir / "named.png");
  ASSERT_EQ(decoded.image.rgb.size(), image.rgb.size());
  for (size_t i = 0; i < image.rgb.size(); ++i) ASSERT_NEAR(decoded.image.rgb[i], image.rgb[i], 8) << i;
}

TEST(ImageFile, JpegGreyAndCmyk) {
  const TempDir dir;
  write_jpeg(dir / "grey.jpg", 16, 16, 1, Bytes(256, 77));
  for (uint8_t value : read_image(dir / "grey.jpg").image.rgb) ASSERT_NEAR(value, 77, 2);
  // Inverted, as Adobe stores it: 255 = no ink. Red = all of cyan let through, none of the others.
  Bytes cmyk;
  for (int p = 0; p < 256; ++p) cmyk.insert(cmyk.end(), {255, 0, 0, 200});
  write_jpeg(dir / "cmyk.jpg", 16, 16, 4, cmyk);
  const auto red = read_image(dir / "cmyk.jpg").image.rgb;
  ASSERT_EQ(red.size(), 768U);
  EXPECT_NEAR(red[0], 200, 3);
  EXPECT_NEAR(red[1], 0, 3);
  EXPECT_NEAR(red[2], 0, 3);
}

TEST(ImageFile, JpegShrinksWhileDecoding) {
  const TempDir dir;
  write_jpeg(dir / "a.jpg", 64, 48, 3, gradient(64, 48).rgb);
  const DecodedImage decoded = read_image(dir / "a.jpg", [](int64_t width, int64_t height) {
    EXPECT_EQ(width, 64);
    EXPECT_EQ(height, 48);
    return 4;
  });
  EXPECT_EQ(decoded.image.width, 16);
  EXPECT_EQ(decoded.image.height, 12);
  EXPECT_EQ(decoded.stored_width, 64);
  EXPECT_EQ(decoded.stored_height, 48);
}

TEST(ImageFile, NamesMissingAndForeignFiles) {
  const TempDir dir;
  expect_error([&] { read_image(dir / "none.jpg"); }, "none.jpg", "cannot open");
  write_file(dir / "empty.png", {});
  expect_error([&] { read_image(dir / "empty.png"); }, "empty.png", "expected a PNG or JPEG", "empty file");
  write_file(dir / "text.jpg", {'h', 'e', 'l', 'l', 'o'});
  expect_error([&] { read_image(dir / "text.jpg"); }, "text.jpg", "expected a PNG or JPEG", "0x68");
}

// Every truncation is an error; libjpeg alone would fill the rest with grey.
TEST(ImageFile, TruncationIsAnError) {
  const TempDir dir;
  write_png(dir / "a.png", gradient(40, 30));
  write_jpeg(dir / "a.jpg", 40, 30, 3, gradient(40, 30).rgb);
  for (const char* name : {"a.png", "a.jpg"}) {
    const Bytes good = read_back(dir / name);
    for (size_t keep = 8; keep + 2 < good.size(); keep += 13) {
      write_file(dir / name, Bytes(good.begin(), good.begin() + static_cast<int64_t>(keep)));
      expect_error([&] { read_image(dir / name); }, "[image]", name, "corrupt");
    }
  }
}

// Any damaged byte gives an image of the stored size or an error that names the file; never a crash.
TEST(ImageFile, DamageIsAnErrorOrAnImage) {
  const TempDir dir;
  write_png(dir / "a.png", gradient(40, 30));
  write_jpeg(dir / "a.jpg", 40, 30, 3, gradient(40, 30).rgb);
  int errors = 0;
  for (const char* name : {"a.png", "a.jpg"}) {
    const Bytes good = read_back(dir / name);
    for (size_t at = 3; at < good.size(); ++at) {
      Bytes damaged = good;
      damaged[at] ^= static_cast<uint8_t>(1 + at % 255);
      write_file(dir / name, damaged);
      try {
        const DecodedImage decoded = read_image(dir / name);
        ASSERT_EQ(static_cast<int64_t>(decoded.image.rgb.size()),
                  decoded.image.width * decoded.image.height * 3);
      } catch (const Error& e) {
        ++errors;
        ASSERT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
      }
    }
  }
  EXPECT_GT(errors, 100);
}

TEST(ImageFile, WritingChecksItsArguments) {
  const TempDir dir;
  expect_error([&] { write_png(dir / "a.png", {4, 4, Bytes(47)}); }, "4x4", "48", "47");
  expect_error([&] { write_png(dir / "no/such/folder/a.png", gradient(2, 2)); }, "a.png", "cannot write");
}

}  // namespace
}  // namespace bitdial::data
