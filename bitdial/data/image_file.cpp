#include "bitdial/data/image_file.h"

#include <jpeglib.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>
// After jpeglib.h, which it needs.
#include <jerror.h>
#include <png.h>

#include "bitdial/core/error.h"
#include "bitdial/data/files.h"

// libpng and libjpeg report errors by longjmp. Between a setjmp and the calls that may jump back to it no
// object with a destructor is created or changed: buffers are sized by the caller in between.
namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostPixels = int64_t{1} << 28;
constexpr size_t kErrorLength = 256;

struct Dimensions {
  int64_t width = 0;
  int64_t height = 0;
  int channels = 3;
};

class PngReader {
 public:
  explicit PngReader(std::span<const uint8_t> bytes) : bytes_(bytes) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    info_ = png_ != nullptr ? png_create_info_struct(png_) : nullptr;
    if (info_ != nullptr) png_set_read_fn(png_, this, on_read);
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  const char* error() const { return error_; }

  // Reads up to the pixels; rows come out as 8-bit RGBA.
  bool read_header(Dimensions* to) {
    if (info_ == nullptr) return false;
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_info(png_, info_);
    png_set_expand(png_);
    png_set_strip_16(png_);
    png_set_gray_to_rgb(png_);
    png_set_add_alpha(png_, 0xFF, PNG_FILLER_AFTER);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    to->width = png_get_image_width(png_, info_);
    to->height = png_get_image_height(png_, info_);
    to->channels = 4;
    return true;
  }

  bool read_rows(png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_image(png_, rows);
    png_read_end(png_, nullptr);
    return true;
  }

 private:
  static void on_error(png_structp png, png_const_charp text) {
    auto* self = static_cast<PngReader*>(png_get_error_ptr(png));
    std::snprintf(self->error_, kErrorLength, "%s", text);
    png_longjmp(png, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}
  static void on_read(png_structp png, png_bytep to, png_size_t count) {
    auto* self = static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > self->bytes_.size() - self->position_) png_error(png, "file ends too early");
    std::memcpy(to, self->bytes_.data() + self->position_, count);
    self->position_ += count;
  }

  std::span<const uint8_t> bytes_;
  size_t position_ = 0;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  char error_[kErrorLength] = "out of memory";
};

class JpegReader {
 public:
  explicit JpegReader(std::span<const uint8_t> bytes) : bytes_(bytes) {
    info_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = on_error;
    errors_.base.emit_message = on_message;
    created_ = create();
  }
  ~JpegReader() {
    if (created_) jpeg_destroy_decompress(&info_);
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  const char* error() const { return errors_.text; }

  bool read_header(Dimensions* stored) {
    if (!created_ || setjmp(errors_.jump) != 0) return false;
    jpeg_mem_src(&info_, bytes_.data(), static_cast<unsigned long>(bytes_.size()));
    jpeg_read_header(&info_, TRUE);
    stored->width = info_.image_width;
    stored->height = info_.image_height;
    return true;
  }

  bool start(int shrink, Dimensions* to) {
    if (setjmp(errors_.jump) != 0) return false;
    // Libjpeg does not convert CMYK to RGB: the caller does.
    const bool cmyk = info_.jpeg_color_space == JCS_CMYK || info_.jpeg_color_space == JCS_YCCK;
    info_.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    info_.scale_num = 1;
    info_.scale_denom = static_cast<unsigned>(shrink);
    jpeg_start_decompress(&info_);
    to->width = info_.output_width;
    to->height = info_.output_height;
    to->channels = info_.output_components;
    return true;
  }

  // Data that libjpeg mends with a warning (it fills a truncated image with grey) is an error here.
  bool read_rows(JSAMPARRAY rows) {
    if (setjmp(errors_.jump) != 0) return false;
    while (info_.output_scanline < info_.output_height) {
      jpeg_read_scanlines(&info_, rows + info_.output_scanline, info_.output_height - info_.output_scanline);
    }
    jpeg_finish_decompress(&info_);
    return !errors_.damaged;
  }

  // Adobe's programs store CMYK inverted, and say so with their own marker.
  bool inverted_cmyk() const { return info_.saw_Adobe_marker != 0; }

 private:
  struct Errors {
    jpeg_error_mgr base;  // first: libjpeg hands out a pointer to it
    std::jmp_buf jump;
    char text[JMSG_LENGTH_MAX];
    bool damaged;
  };

  bool create() {
    if (setjmp(errors_.jump) != 0) return false;
    jpeg_create_decompress(&info_);
    return true;
  }

  static void on_error(j_common_ptr info) {
    auto* errors = reinterpret_cast<Errors*>(info->err);
    info->err->format_message(info, errors->text);
    std::longjmp(errors->jump, 1);
  }
  static void on_message(j_common_ptr info, int level) {
    auto* errors = reinterpret_cast<Errors*>(info->err);
    if (level >= 0 || errors->damaged) return;
    // Bytes between two markers are junk that no decoder minds.
    if (info->err->msg_code == JWRN_EXTRANEOUS_DATA) return;
    info->err->format_message(info, errors->text);
    errors->damaged = true;
  }

  std::span<const uint8_t> bytes_;
  jpeg_decompress_struct info_{};
  Errors errors_{};
  bool created_ = false;
};

std::vector<uint8_t*> row_pointers(std::vector<uint8_t>& pixels, const Dimensions& size) {
  std::vector<uint8_t*> rows(static_cast<size_t>(size.height));
  for (int64_t r = 0; r < size.height; ++r) {
    rows[static_cast<size_t>(r)] = pixels.data() + r * size.width * size.channels;
  }
  return rows;
}

void check_size(const fs::path& file, const Dimensions& size) {
  require(size.width > 0 && size.height > 0 && size.width * size.height <= kMostPixels, "image",
          "{}: is {}x{} pixels, expected at most 2^28 in all", file.string(), size.width, size.height);
}

uint8_t blend(int value, int alpha, int behind) {
  return static_cast<uint8_t>((value * alpha + behind * (255 - alpha) + 127) / 255);
}

// Four values per pixel to three: transparency on white, or CMYK as the light that its inks let through.
std::vector<uint8_t> to_rgb(const std::vector<uint8_t>& pixels, bool cmyk, bool inverted) {
  std::vector<uint8_t> rgb(pixels.size() / 4 * 3);
  for (size_t p = 0; p < pixels.size() / 4; ++p) {
    const uint8_t* from = pixels.data() + p * 4;
    int fourth = from[3];
    if (cmyk && !inverted) fourth = 255 - fourth;
    for (size_t c = 0; c < 3; ++c) {
      const int value = cmyk && !inverted ? 255 - from[c] : from[c];
      rgb[p * 3 + c] = blend(value, fourth, cmyk ? 0 : 255);
    }
  }
  return rgb;
}

DecodedImage read_png(const fs::path& file, std::span<const uint8_t> bytes) {
  PngReader reader(bytes);
  Dimensions size;
  require(reader.read_header(&size), "image", "{}: corrupt PNG: {}", file.string(), reader.error());
  check_size(file, size);
  std::vector<uint8_t> pixels(static_cast<size_t>(size.width * size.height * size.channels));
  auto rows = row_pointers(pixels, size);
  require(reader.read_rows(rows.data()), "image", "{}: corrupt PNG: {}", file.string(), reader.error());
  return {{size.width, size.height, to_rgb(pixels, false, false)}, size.width, size.height};
}

DecodedImage read_jpeg(const fs::path& file, std::span<const uint8_t> bytes, const ShrinkChooser& shrink) {
  JpegReader reader(bytes);
  Dimensions stored;
  require(reader.read_header(&stored), "image", "{}: corrupt JPEG: {}", file.string(), reader.error());
  check_size(file, stored);
  Dimensions size;
  require(reader.start(shrink ? shrink(stored.width, stored.height) : 1, &size), "image",
          "{}: corrupt JPEG: {}", file.string(), reader.error());
  std::vector<uint8_t> pixels(static_cast<size_t>(size.width * size.height * size.channels));
  auto rows = row_pointers(pixels, size);
  require(reader.read_rows(rows.data()), "image", "{}: corrupt JPEG: {}", file.string(), reader.error());
  if (size.channels == 4) pixels = to_rgb(pixels, true, reader.inverted_cmyk());
  return {{size.width, size.height, std::move(pixels)}, stored.width, stored.height};
}

bool starts_with(std::span<const uint8_t> bytes, std::initializer_list<uint8_t> magic) {
  return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
}

}  // namespace

DecodedImage read_image(const fs::path& file, const ShrinkChooser& shrink) {
  const auto bytes = read_file("image", file);
  if (starts_with(bytes, {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'})) return read_png(file, bytes);
  if (starts_with(bytes, {0xFF, 0xD8, 0xFF})) return read_jpeg(file, bytes, shrink);
  fail("image", "{}: expected a PNG or JPEG file, found {}", file.string(),
       bytes.empty() ? std::string("an empty file")
                     : fmt::format("one that starts with byte {:#04x}", bytes[0]));
}

void write_png(const fs::path& file, const Image& image) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = PNG_FORMAT_RGB;
  require(static_cast<int64_t>(image.rgb.size()) == image.width * image.height * 3, "image",
          "a {}x{} image needs {} bytes, got {}", image.width, image.height, image.width * image.height * 3,
          image.rgb.size());
  require(png_image_write_to_file(&png, file.c_str(), 0, image.rgb.data(), 0, nullptr) != 0, "image",
          "{}: cannot write PNG: {}", file.string(), png.message);
}

}  // namespace bitdial::data
