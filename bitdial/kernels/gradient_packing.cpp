#include "bitdial/kernels/gradient_packing.h"

#include <algorithm>
#include <numeric>

#include "bitdial/kernels/conv2d_kernels.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/vector/conv2d.h"

namespace bitdial::kernels {
namespace {

// Four images' codes stay in the L1 cache until they are packed: images lie at strides that share its sets.
// The packed form of 64 images, 128 KiB, stays in L2.
constexpr int64_t kTogether = 4;
constexpr int64_t kPartElements = 2048;
constexpr int64_t kSixteen = 16;

// The runs of larger images lie in so many pages that one pass for both layouts is slower than two
// (docs/kernels.md).
constexpr int64_t kMostElements = 32768;

}  // namespace

std::unique_ptr<GradientPacking> GradientPacking::of(const ConvShape& shape, CodeType type) {
  const vector::Engine* engine = conv2d_engine(active_isa(), shape);
  const int64_t image = shape.out_height() * shape.out_width() * shape.out_channels;
  if (engine == nullptr || shape.groups != 1 || image % kSixteen != 0 || image > kMostElements) {
    return nullptr;
  }
  return std::unique_ptr<GradientPacking>(new GradientPacking(*engine, shape, type));
}

GradientPacking::GradientPacking(const vector::Engine& engine, const ConvShape& shape, CodeType type)
    : engine_(engine),
      problem_(std::make_shared<vector::WeightGradientProblem>(vector::weight_gradient(shape))),
      elements_(shape.output_elements()),
      channels_(shape.out_channels),
      pixels_(shape.out_height() * shape.out_width()) {
  problem_->dy.type = type;
  const int64_t step = kSixteen / std::gcd(kSixteen, channels_);
  part_pixels_ = std::clamp(kPartElements / channels_ / step * step, step, pixels_);
  bytes_ = engine.gradient_bytes(*problem_);
}

int64_t GradientPacking::parts() const {
  return vector::ImageBlocks::of(problem_->batch).count * ((pixels_ + part_pixels_ - 1) / part_pixels_);
}

GradientPacking::Place GradientPacking::place(int64_t index) const {
  const int64_t images = vector::ImageBlocks::of(problem_->batch).images;
  const int64_t in_block = (pixels_ + part_pixels_ - 1) / part_pixels_;
  const int64_t block = index / in_block;
  const int64_t pixel = index % in_block * part_pixels_;
  return {block, std::min(block * images, problem_->batch), std::min((block + 1) * images, problem_->batch),
          pixel, std::min(pixel + part_pixels_, pixels_)};
}

CodePacking::Part GradientPacking::part(int64_t index) const {
  const Place at = place(index);
  return {.first = (at.first_image * pixels_ + at.first_pixel) * channels_,
          .length = (at.last_pixel - at.first_pixel) * channels_,
          .count = at.last_image - at.first_image,
          .stride = pixels_ * channels_,
          .together = kTogether};
}

void GradientPacking::pack(int64_t index, int64_t first, int64_t last, const void* codes) const {
  const Place at = place(index);
  vector::WeightGradientProblem problem = *problem_;
  problem.dy.codes = codes;
  vector::GradientPart part{.block = at.block,
                            .first_quad = first / 4,
                            .last_quad = (last + 3) / 4,
                            .first_pixel = at.first_pixel,
                            .last_pixel = at.last_pixel};
  // Missing images of a short block are zeros.
  if (last == at.last_image - at.first_image)
    part.last_quad = vector::ImageBlocks::of(problem.batch).images / 4;
  engine_.pack_gradient(problem, part, packed_);
}

void GradientPacking::finish(int64_t index) const {
  const Place at = place(index);
  const vector::GradientPart part{
      .block = at.block, .first_pixel = at.first_pixel, .last_pixel = at.last_pixel};
  engine_.finish_gradient(*problem_, part, packed_);
}

}  // namespace bitdial::kernels
