#include "bitdial/train/timings.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"

namespace bitdial::train {
namespace {

/// The pass that makes a form of an operand for this layer's GEMMs, none where it costs nothing.
std::optional<cost::PassWork> conversion(const kernels::ConvShape& s, bool is_first, TensorRole role,
                                         bool to_bfloat16) {
  // Blocks write the codes that convolutions read in a pass that they have anyway; the images of the first
  // layer and what linear layers read take one more.
  const bool is_convolution = s.in_height * s.in_width > 1;
  const bool is_written_by_block =
      role == TensorRole::kGradBprop || (role == TensorRole::kInput && !is_first);
  if (!to_bfloat16 && is_convolution && is_written_by_block) return std::nullopt;
  const int64_t elements = role == TensorRole::kWeight  ? s.weight_elements()
                           : role == TensorRole::kInput ? s.input_elements()
                                                        : s.output_elements();
  return cost::PassWork{.pass = to_bfloat16 ? cost::Pass::kBFloat16 : cost::Pass::kQuantize,
                        .elements = elements};
}

std::vector<cost::PassWork> conversions(std::span<const kernels::ConvShape> shapes) {
  std::vector<cost::PassWork> passes;
  for (size_t i = 0; i < shapes.size(); ++i) {
    for (const TensorRole role : {TensorRole::kWeight, TensorRole::kInput, TensorRole::kGradBprop}) {
      for (const bool to_bfloat16 : {false, true}) {
        if (const auto pass = conversion(shapes[i], i == 0, role, to_bfloat16)) passes.push_back(*pass);
      }
    }
  }
  return passes;
}

class LayerTimings : public Timings {
 public:
  LayerTimings(std::shared_ptr<cost::KernelTable> table, std::vector<kernels::ConvShape> shapes)
      : table_(std::move(table)), shapes_(std::move(shapes)) {}

  double gemm(int layer, Gemm gemm, GemmArithmetic arithmetic) override {
    return table_->gemm({.shape = shape(layer), .gemm = gemm, .arithmetic = arithmetic});
  }

  double convert(int layer, TensorRole role, bool to_bfloat16) override {
    const auto pass = conversion(shape(layer), layer == 0, role, to_bfloat16);
    return pass ? table_->pass(pass->pass, pass->elements) : 0.0;
  }

 private:
  const kernels::ConvShape& shape(int layer) const { return shapes_.at(static_cast<size_t>(layer)); }

  std::shared_ptr<cost::KernelTable> table_;
  std::vector<kernels::ConvShape> shapes_;
};

}  // namespace

bool has_gemms(const models::LayerRow& row) { return row.macs > 0; }

kernels::ConvShape gemm_shape(const models::LayerRow& row, int64_t batch) {
  const int64_t kernel = std::max<int64_t>(row.kernel, 1);
  const int64_t pixels = row.output.height * row.output.width;
  const int64_t products = row.macs / (row.output.channels * pixels);  // of one output element
  kernels::ConvShape shape;
  shape.batch = batch;
  shape.in_channels = row.input.channels;
  shape.in_height = row.input.height;
  shape.in_width = row.input.width;
  shape.out_channels = row.output.channels;
  shape.kernel_height = shape.kernel_width = kernel;
  shape.stride_height = shape.stride_width = std::max<int64_t>(row.stride, 1);
  shape.padding_height = shape.padding_width = row.padding;
  shape.groups = row.input.channels * kernel * kernel / products;
  kernels::check(shape);
  require(shape.macs() == batch * row.macs, "timings", "{} is no convolution with square kernel and stride",
          row.name);
  return shape;
}

std::shared_ptr<Timings> make_timings(std::shared_ptr<cost::KernelTable> table,
                                      std::vector<kernels::ConvShape> shapes, bool with_int16,
                                      const MeasureProgress& progress) {
  table->prepare(gemm_works(shapes, with_int16), conversions(shapes), progress);
  return std::make_shared<LayerTimings>(std::move(table), std::move(shapes));
}

std::vector<cost::GemmWork> gemm_works(std::span<const kernels::ConvShape> shapes, bool with_int16) {
  std::vector<cost::GemmWork> works;
  for (size_t i = 0; i < shapes.size(); ++i) {
    for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
      if (i == 0 && gemm == Gemm::kBprop) continue;  // nobody reads the first layer's dX
      // float32 first: the table gives up on what is far slower.
      for (const GemmArithmetic arithmetic : {GemmArithmetic::kFloat32, GemmArithmetic::kInt8,
                                              GemmArithmetic::kInt16, GemmArithmetic::kBFloat16}) {
        if (arithmetic == GemmArithmetic::kInt16 && !with_int16) continue;
        works.push_back({.shape = shapes[i], .gemm = gemm, .arithmetic = arithmetic});
      }
    }
  }
  return works;
}

void provide_timings(nn::Session& session, const models::Network& network, int64_t batch,
                     const MeasureProgress& progress, bool trusting) {
  if (!session.policy().needs_timings()) return;
  const auto& rows = network.layer_table();
  std::vector<kernels::ConvShape> shapes;
  for (const LayerInfo& layer : session.layers()) {
    const auto row =
        std::find_if(rows.begin(), rows.end(), [&](const auto& one) { return one.name == layer.name; });
    require(row != rows.end(), "timings", "the network's table does not list the layer {}", layer.name);
    shapes.push_back(gemm_shape(*row, batch));
  }
  auto table = std::make_shared<cost::KernelTable>(cost::KernelTable::open(trusting));
  session.policy().set_timings(make_timings(std::move(table), std::move(shapes), false, progress));
}

}  // namespace bitdial::train
