#include "bitdial/data/shapes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/data/order.h"

namespace bitdial::data {
namespace {

constexpr int kSize = 32;
constexpr int kClasses = 10;
constexpr float kPi = std::numbers::pi_v<float>;
constexpr float kByteSumScale = 0.00676586F;  // 1 / sqrt(4 * (256^2 - 1) / 12)

// Ranges of everything that is random. Lengths in pixels, colours in 0..1.
constexpr float kRadiusMin = 5.5F;
constexpr float kRadiusMax = 11.0F;
constexpr float kMostOutside = 1.0F;  // how far an outline may stick out of the image
constexpr float kBrightestBackground = 0.6F;
constexpr float kLeastContrast = 0.15F;  // by which the outline is brighter than the background
constexpr float kGradient = 0.2F;        // largest change of the background's colour across the image
constexpr float kStrokeContrast = 0.4F;  // largest difference of a stroke's colour from the background's
constexpr float kMostRotation = kPi;
constexpr int kStrokesMin = 2;
constexpr int kStrokesMax = 6;
constexpr float kNoiseMin = 0.02F;
constexpr float kNoiseMax = 0.13F;

struct Point {
  float x = 0;
  float y = 0;
};

using Color = std::array<float, 3>;

class Draws {
 public:
  explicit Draws(RandomKey key) : key_(key) {}
  float uniform(float low, float high) { return low + (high - low) * random_uniform(key_, next_++); }
  int integer(int low, int high) {
    return low + static_cast<int>(
                     uint64_t{random_bits(key_, next_++)} * static_cast<uint64_t>(high - low + 1) >> 32);
  }
  Color color(float low, float high) { return {uniform(low, high), uniform(low, high), uniform(low, high)}; }
  // A colour near another one.
  Color color(const Color& near, float reach) {
    Color color = near;
    for (float& value : color) value = std::clamp(value + uniform(-reach, reach), 0.0F, 1.0F);
    return color;
  }
  // Sum of four random bytes: bell-shaped, mean 0, variance 1, within +-3.46.
  float bell() {
    const uint32_t bits = random_bits(key_, next_++);
    const uint32_t sum = (bits & 0xFFU) + (bits >> 8 & 0xFFU) + (bits >> 16 & 0xFFU) + (bits >> 24);
    return (static_cast<float>(sum) - 510.0F) * kByteSumScale;
  }

 private:
  RandomKey key_;
  uint64_t next_ = 0;
};

float length(float x, float y) { return std::sqrt(x * x + y * y); }

float segment_distance(Point p, Point a, Point b) {
  const float dx = b.x - a.x;
  const float dy = b.y - a.y;
  const float t = std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / (dx * dx + dy * dy), 0.0F, 1.0F);
  return length(p.x - a.x - t * dx, p.y - a.y - t * dy);
}

// Signed distance to a closed polygon, negative inside (even-odd rule).
float polygon_distance(Point p, std::span<const Point> corners) {
  float distance = 1e9F;
  bool inside = false;
  for (size_t i = 0, j = corners.size() - 1; i < corners.size(); j = i++) {
    const Point a = corners[i];
    const Point b = corners[j];
    distance = std::min(distance, segment_distance(p, a, b));
    if ((a.y > p.y) != (b.y > p.y) && p.x < (b.x - a.x) * (p.y - a.y) / (b.y - a.y) + a.x) inside = !inside;
  }
  return inside ? -distance : distance;
}

float box_distance(Point p, float half_width, float half_height) {
  const float x = std::abs(p.x) - half_width;
  const float y = std::abs(p.y) - half_height;
  return length(std::max(x, 0.0F), std::max(y, 0.0F)) + std::min(std::max(x, y), 0.0F);
}

std::vector<Point> star_corners() {
  std::vector<Point> corners;
  for (int i = 0; i < 10; ++i) {
    const float radius = i % 2 == 0 ? 1.05F : 0.42F;
    const float angle = static_cast<float>(i) * kPi / 5;
    corners.push_back({radius * std::sin(angle), -radius * std::cos(angle)});
  }
  return corners;
}

// The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, centred and scaled into the unit
// circle.
std::vector<Point> heart_corners() {
  std::vector<Point> corners;
  constexpr int kCorners = 24;
  for (int i = 0; i < kCorners; ++i) {
    const float t = 2 * kPi * static_cast<float>(i) / kCorners;
    const float s = std::sin(t);
    const float y = 13 * std::cos(t) - 5 * std::cos(2 * t) - 2 * std::cos(3 * t) - std::cos(4 * t);
    corners.push_back({s * s * s * 16 / 16.5F, -(y + 2.5F) / 16.5F});
  }
  return corners;
}

constexpr std::array kTriangle{Point{0, -1}, Point{0.95F, 0.7F}, Point{-0.95F, 0.7F}};
constexpr std::array kArrow{Point{0, -1},    Point{0.8F, -0.1F},  Point{0.3F, -0.1F}, Point{0.3F, 1},
                            Point{-0.3F, 1}, Point{-0.3F, -0.1F}, Point{-0.8F, -0.1F}};
constexpr std::array kHourglass{Point{-0.8F, -0.9F}, Point{0.8F, -0.9F}, Point{0.12F, 0},
                                Point{0.8F, 0.9F},   Point{-0.8F, 0.9F}, Point{-0.12F, 0}};

float disk(Point p) { return length(p.x, p.y) - 0.9F; }
float ring(Point p) { return std::abs(length(p.x, p.y) - 0.72F) - 0.21F; }
float square(Point p) { return box_distance(p, 0.78F, 0.78F); }
float triangle(Point p) { return polygon_distance(p, kTriangle); }
float star(Point p) {
  static const auto corners = star_corners();
  return polygon_distance(p, corners);
}
float cross(Point p) { return std::min(box_distance(p, 0.95F, 0.28F), box_distance(p, 0.28F, 0.95F)); }
float crescent(Point p) { return std::max(length(p.x, p.y) - 0.95F, 0.75F - length(p.x - 0.5F, p.y)); }
float heart(Point p) {
  static const auto corners = heart_corners();
  return polygon_distance(p, corners);
}
float arrow(Point p) { return polygon_distance(p, kArrow); }
float hourglass(Point p) { return polygon_distance(p, kHourglass); }

constexpr float kReach = 1.25F;  // every outline lies within this distance of its centre, in radii

struct Outline {
  const char* name;
  float (*distance)(Point);  // signed, in units of the outline's radius; negative inside
};

constexpr std::array<Outline, kClasses> kOutlines{{{"disk", disk},
                                                   {"ring", ring},
                                                   {"square", square},
                                                   {"triangle", triangle},
                                                   {"star", star},
                                                   {"cross", cross},
                                                   {"crescent", crescent},
                                                   {"heart", heart},
                                                   {"arrow", arrow},
                                                   {"hourglass", hourglass}}};

// Rec. 601 luma.
float brightness(const Color& c) { return 0.299F * c[0] + 0.587F * c[1] + 0.114F * c[2]; }

class Canvas {
 public:
  // A background whose colour changes from `from` to `to` along a direction.
  Canvas(const Color& from, const Color& to, float angle) {
    const float x = std::cos(angle) / kSize;
    const float y = std::sin(angle) / kSize;
    for (int row = 0; row < kSize; ++row) {
      for (int column = 0; column < kSize; ++column) {
        const float t =
            0.5F + x * (static_cast<float>(column) - 15.5F) + y * (static_cast<float>(row) - 15.5F);
        Color& pixel = at(row, column);
        for (size_t c = 0; c < 3; ++c) pixel[c] = from[c] + std::clamp(t, 0.0F, 1.0F) * (to[c] - from[c]);
      }
    }
  }

  // Paints the inside of a signed distance field (pixels) that lies within the circle (center, reach); an
  // edge covers its pixels in part.
  template <class Distance>
  void paint(Point center, float reach, const Color& color, const Distance& distance) {
    const auto low = [](float value) { return std::clamp(static_cast<int>(value) - 1, 0, kSize); };
    const auto high = [](float value) { return std::clamp(static_cast<int>(value) + 2, 0, kSize); };
    for (int row = low(center.y - reach); row < high(center.y + reach); ++row) {
      for (int column = low(center.x - reach); column < high(center.x + reach); ++column) {
        const Point p{static_cast<float>(column) + 0.5F, static_cast<float>(row) + 0.5F};
        const float cover = std::clamp(0.5F - distance(p), 0.0F, 1.0F);
        if (cover == 0) continue;
        Color& pixel = at(row, column);
        for (size_t c = 0; c < 3; ++c) pixel[c] += cover * (color[c] - pixel[c]);
      }
    }
  }

  void write(Draws& draws, float noise, uint8_t* hwc) const {
    for (const Color& pixel : pixels_) {
      for (float value : pixel) {
        *hwc++ = static_cast<uint8_t>(std::clamp(value + noise * draws.bell(), 0.0F, 1.0F) * 255.0F + 0.5F);
      }
    }
  }

 private:
  Color& at(int row, int column) { return pixels_[static_cast<size_t>(row * kSize + column)]; }
  std::array<Color, static_cast<size_t>(kSize) * kSize> pixels_{};
};

// Short strokes of any colour: as many edges as an outline has, but no class.
void paint_clutter(Canvas& canvas, const Color& background, Draws& draws) {
  const int strokes = draws.integer(kStrokesMin, kStrokesMax);
  for (int s = 0; s < strokes; ++s) {
    const Point a{draws.uniform(0, kSize), draws.uniform(0, kSize)};
    const float angle = draws.uniform(0, 2 * kPi);
    const float reach = draws.uniform(3.0F, 12.0F);
    const Point b{a.x + reach * std::cos(angle), a.y + reach * std::sin(angle)};
    const float half_width = draws.uniform(0.4F, 1.1F);
    const Point middle{(a.x + b.x) / 2, (a.y + b.y) / 2};
    canvas.paint(middle, reach / 2 + half_width, draws.color(background, kStrokeContrast),
                 [&](Point p) { return segment_distance(p, a, b) - half_width; });
  }
}

// Any colour that is bright enough; the brightest of many tries when none is.
Color brighter_color(Draws& draws, float least) {
  Color best{};
  for (int attempt = 0; attempt < 32 && brightness(best) < least; ++attempt) {
    const Color color = draws.color(0, 1);
    if (brightness(color) > brightness(best)) best = color;
  }
  return best;
}

void draw_image(int label, RandomKey key, uint8_t* hwc) {
  Draws draws(key);
  const Color from = draws.color(0, kBrightestBackground);
  const Color to = draws.color(from, kGradient);
  Canvas canvas(from, to, draws.uniform(0, 2 * kPi));
  paint_clutter(canvas, from, draws);

  const float radius = draws.uniform(kRadiusMin, kRadiusMax);
  const float margin = radius - kMostOutside;
  const Point center{draws.uniform(margin, kSize - margin), draws.uniform(margin, kSize - margin)};
  const float angle = draws.uniform(-kMostRotation, kMostRotation);
  const float cosine = std::cos(angle) / radius;
  const float sine = std::sin(angle) / radius;
  const auto outline = kOutlines[static_cast<size_t>(label)].distance;
  const Color color = brighter_color(draws, std::max(brightness(from), brightness(to)) + kLeastContrast);
  canvas.paint(center, kReach * radius, color, [&](Point p) {
    const float x = p.x - center.x;
    const float y = p.y - center.y;
    return radius * outline({cosine * x + sine * y, cosine * y - sine * x});
  });
  canvas.write(draws, draws.uniform(kNoiseMin, kNoiseMax), hwc);
}

}  // namespace

std::shared_ptr<const MemoryDataset> make_shapes(Split split, int64_t images, uint64_t seed) {
  require(images > 0 && images <= 10'000'000, "shapes", "{} images, expected 1..10 000 000", images);
  constexpr ImageShape kShape{3, kSize, kSize};
  std::vector<uint8_t> pixels(static_cast<size_t>(images * kShape.elements()));
  std::vector<int32_t> labels(static_cast<size_t>(images));
  parallel_for(images, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int label = static_cast<int>(i % kClasses);
      labels[static_cast<size_t>(i)] = label;
      draw_image(label, shapes_key(seed, i, split == Split::kTrain), pixels.data() + i * kShape.elements());
    }
  });
  std::vector<std::string> names;
  for (const Outline& outline : kOutlines) names.emplace_back(outline.name);
  return std::make_shared<MemoryDataset>(kShape, std::move(pixels), std::move(labels), std::move(names));
}

Image sample_sheet(const Dataset& dataset, int64_t rows, int64_t zoom) {
  const ImageShape shape = dataset.shape();
  constexpr int64_t kGap = 2;
  const int64_t cell_w = shape.width * zoom + kGap;
  const int64_t cell_h = shape.height * zoom + kGap;
  Image sheet{dataset.classes() * cell_w + kGap, rows * cell_h + kGap, {}};
  sheet.rgb.assign(static_cast<size_t>(sheet.width * sheet.height * 3), 255);
  std::vector<int64_t> filled(static_cast<size_t>(dataset.classes()));
  std::vector<uint8_t> image(static_cast<size_t>(shape.elements()));
  for (int64_t i = 0; i < dataset.size(); ++i) {
    const int64_t column = dataset.label(i);
    const int64_t row = filled[static_cast<size_t>(column)]++;
    if (row >= rows) continue;
    dataset.read(i, image.data());
    for (int64_t y = 0; y < shape.height * zoom; ++y) {
      for (int64_t x = 0; x < shape.width * zoom; ++x) {
        const int64_t to = ((row * cell_h + kGap + y) * sheet.width + column * cell_w + kGap + x) * 3;
        const int64_t from = (y / zoom * shape.width + x / zoom) * shape.channels;
        for (int64_t c = 0; c < 3; ++c) {
          sheet.rgb[static_cast<size_t>(to + c)] = image[static_cast<size_t>(from + c % shape.channels)];
        }
      }
    }
  }
  return sheet;
}

}  // namespace bitdial::data
