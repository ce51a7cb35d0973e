#include "bitdial/kernels/weight_packing.h"

#include "bitdial/kernels/conv2d_kernels.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/vector/conv2d.h"

namespace bitdial::kernels {
namespace {

// A whole number of vectors of every instruction set, and of fours.
constexpr int64_t kPartChannels = 16;

}  // namespace

std::unique_ptr<WeightPacking> WeightPacking::of(const ConvShape& shape, CodeType type) {
  const vector::Engine* engine = conv2d_engine(active_isa(), shape);
  const bool is_whole = shape.in_channels % kPartChannels == 0 && shape.out_channels % kPartChannels == 0;
  if (engine == nullptr || shape.groups != 1 || !is_whole || type != CodeType::kS8) return nullptr;
  return std::unique_ptr<WeightPacking>(new WeightPacking(*engine, shape));
}

WeightPacking::WeightPacking(const vector::Engine& engine, const ConvShape& shape)
    : engine_(engine),
      problems_{std::make_shared<vector::GatherProblem>(vector::forward_gather(shape)),
                std::make_shared<vector::GatherProblem>(vector::backward_gather(shape))},
      elements_(shape.weight_elements()),
      channels_(shape.out_channels) {}

int64_t WeightPacking::parts() const { return channels_ / kPartChannels; }

CodePacking::Part WeightPacking::part(int64_t index) const {
  const int64_t length = elements_ / channels_ * kPartChannels;
  return {.first = index * length, .length = length};
}

void WeightPacking::pack(int64_t index, int64_t, int64_t, const void* codes) const {
  void* const targets[2] = {forward_, backward_data_};
  for (int i = 0; i < 2; ++i) {
    vector::GatherProblem problem = *problems_[i];
    problem.weight.codes = codes;
    engine_.pack_weight(problem, index * kPartChannels, (index + 1) * kPartChannels, targets[i]);
  }
}

}  // namespace bitdial::kernels
