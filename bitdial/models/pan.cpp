#include "bitdial/models/pan.h"

namespace bitdial::models {

namespace {

constexpr int64_t kFeatures = 40, kHalf = kFeatures / 2, kUpFeatures = 24;
constexpr int kBlocks = 16;

class PanTable {
 public:
  explicit PanTable(const Options& options)
      : channels_(options.in_channels.value_or(3)), edge_(options.image_size.value_or(64)) {}

  std::vector<LayerRow> build() {
    add("conv_first", channels_, kFeatures, 3, true, LayerRole::kStem);
    for (int i = 0; i < kBlocks; ++i) add_scpa("SCPA_trunk." + std::to_string(i) + ".");
    add("trunk_conv", kFeatures, kFeatures, 3, true, LayerRole::kBody);
    add_enlargement("1", kFeatures);
    add_enlargement("2", kUpFeatures);
    add("conv_last", kUpFeatures, channels_, 3, true, LayerRole::kHead);
    return std::move(table_);
  }

 private:
  // Every convolution has stride 1 and keeps the image's size.
  void add(const std::string& name, int64_t in, int64_t out, int64_t kernel, bool bias, LayerRole role) {
    LayerRow row;
    row.name = name;
    row.kind = "conv2d";
    row.input = {in, edge_, edge_};
    row.output = {out, edge_, edge_};
    row.kernel = kernel;
    row.stride = 1;
    row.padding = kernel / 2;
    row.parameters = in * out * kernel * kernel + (bias ? out : 0);
    row.macs = in * out * kernel * kernel * edge_ * edge_;
    row.bias_adds = bias ? row.output_elements() : 0;
    row.role = role;
    table_.push_back(std::move(row));
  }

  // Self-calibrated convolution with pixel attention: two halves of the channels, of which one is weighted
  // pixel by pixel.
  void add_scpa(const std::string& prefix) {
    const auto body = [&](const char* name, int64_t in, int64_t out, int64_t kernel, bool bias) {
      add(prefix + name, in, out, kernel, bias, LayerRole::kBody);
    };
    body("conv1_a", kFeatures, kHalf, 1, false);
    body("conv1_b", kFeatures, kHalf, 1, false);
    body("k1.0", kHalf, kHalf, 3, false);
    body("PAConv.k2", kHalf, kHalf, 1, true);
    body("PAConv.k3", kHalf, kHalf, 3, false);
    body("PAConv.k4", kHalf, kHalf, 3, false);
    body("conv3", kFeatures, kFeatures, 1, false);
  }

  void add_enlargement(const std::string& number, int64_t in) {
    edge_ *= 2;
    add("upconv" + number, in, kUpFeatures, 3, true, LayerRole::kHead);
    add("att" + number + ".conv", kUpFeatures, kUpFeatures, 1, true, LayerRole::kHead);
    add("HRconv" + number, kUpFeatures, kUpFeatures, 3, true, LayerRole::kHead);
  }

  int64_t channels_, edge_;
  std::vector<LayerRow> table_;
};

}  // namespace

std::vector<LayerRow> pan_x4_table(const Options& options) { return PanTable(options).build(); }

}  // namespace bitdial::models
