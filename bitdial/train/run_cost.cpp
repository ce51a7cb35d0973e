// What a run has cost, from its logs.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "bitdial/core/error.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/cost_estimate.h"
#include "bitdial/train/json_lines.h"
#include "bitdial/train/network_charge.h"
#include "bitdial/train/recipe.h"
#include "bitdial/train/run_directory.h"

namespace bitdial::train {

namespace {

/// One layer's operands as far as precision.jsonl has said; what was not decided has the bits of the other
/// copy of the same tensor, or 32.
struct KnownBits {
  std::array<std::optional<double>, kTensorRoles> bits;

  double of(TensorRole role, TensorRole other) const {
    const auto& own = bits[static_cast<size_t>(role)];
    return own ? *own : bits[static_cast<size_t>(other)].value_or(32.0);
  }
  LayerBits layer_bits() const {
    LayerBits result;
    result.w = of(TensorRole::kWeight, TensorRole::kWeight);
    result.x = of(TensorRole::kInput, TensorRole::kInputWtgrad);
    result.x_wtgrad = of(TensorRole::kInputWtgrad, TensorRole::kInput);
    result.dy_bprop = of(TensorRole::kGradBprop, TensorRole::kGradWtgrad);
    result.dy_wtgrad = of(TensorRole::kGradWtgrad, TensorRole::kGradBprop);
    return result;
  }
};

/// Follows the decisions of a run over its steps.
class DecisionReader {
 public:
  DecisionReader(const cost::NetworkCharge& network, std::optional<double> all)
      : network_(network), known_(network.layers.size()) {
    for (KnownBits& layer : known_) layer.bits.fill(all);
  }

  void apply(const nlohmann::json& line) {
    const auto layer = line.at("layer").get<std::string>();
    const auto found = std::find_if(network_.layers.begin(), network_.layers.end(),
                                    [&](const cost::LayerCharge& charge) { return charge.name == layer; });
    if (found == network_.layers.end()) return;
    const auto index = static_cast<size_t>(found - network_.layers.begin());
    const auto tensor = line.at("tensor").get<std::string>();
    for (int role = 0; role < kTensorRoles; ++role) {
      if (to_string(static_cast<TensorRole>(role)) == tensor)
        known_[index].bits[static_cast<size_t>(role)] = line.at("bits").get<double>();
    }
  }

  std::vector<LayerBits> bits() const {
    std::vector<LayerBits> all;
    for (const KnownBits& layer : known_) all.push_back(layer.layer_bits());
    return all;
  }

 private:
  const cost::NetworkCharge& network_;
  std::vector<KnownBits> known_;
};

/// Bits of a policy that quantises nothing and therefore decides nothing.
std::optional<double> float_bits(const Policy& policy) {
  if (policy.quantizes()) return std::nullopt;
  return policy.float_arithmetic() == FloatArithmetic::kBFloat16Autocast ? 16.0 : 32.0;
}

}  // namespace

CostEstimate cost_of_run(const std::filesystem::path& run, CostSource source) {
  require(RunDirectory::is_run(run), "cost", "{} holds no run: it has no recipe.toml", run.string());
  const Recipe recipe = load_recipe(run / "recipe.toml");
  const Checkpoint checkpoint = read_checkpoint(find_checkpoint(run, /*best=*/false));
  CostEstimate estimate;
  estimate.model = checkpoint.network.model;
  estimate.policy = recipe.precision.policy;
  estimate.batch = recipe.data.batch_size;
  estimate.network = charge_of(layer_table(checkpoint.network));
  cost::CostMeter meter(estimate.network, estimate.batch);
  DecisionReader decisions(estimate.network, float_bits(*make_policy(recipe.precision)));
  const int64_t steps = checkpoint.progress.step;
  int64_t counted = 0;  // steps that the meter has
  for_each_line(run / "precision.jsonl", [&](const nlohmann::json& line) {
    const int64_t step = std::min(line.at("step").get<int64_t>(), steps);
    if (step > counted) meter.add(decisions.bits(), step - counted);
    counted = std::max(counted, step);
    if (step < steps) decisions.apply(line);
  });
  if (steps > counted) meter.add(decisions.bits(), steps - counted);
  estimate.last_bits = decisions.bits();
  // A gate's choices differ from sample to sample: what the run counted, then, not what it logged.
  if (source == CostSource::kCounted && !checkpoint.cost.is_null())
    meter.load_state(checkpoint.cost.at("operations"));
  estimate.totals = meter.totals();
  return estimate;
}

}  // namespace bitdial::train
