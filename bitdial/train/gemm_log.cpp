#include "bitdial/train/gemm_log.h"

#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"

namespace bitdial::train {

GemmLog::GemmLog(const cost::NetworkCharge& network) {
  for (const cost::LayerCharge& layer : network.layers) layers_.push_back({layer.name, layer.macs, {}});
}

std::vector<GemmLine> GemmLog::add(int64_t step, std::span<const nn::LayerArithmetic> layers) {
  require(layers.size() == layers_.size(), "train", "{} layers ran, the network has {}", layers.size(),
          layers_.size());
  std::vector<GemmLine> changes;
  for (size_t l = 0; l < layers.size(); ++l) {
    Layer& layer = layers_[l];
    for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
      const std::string_view now = layers[l][static_cast<size_t>(gemm)];
      if (now.empty()) continue;
      std::string& known = layer.arithmetic[static_cast<size_t>(gemm)];
      if (known != now) {
        known = now;
        changes.push_back({step, layer.name, gemm, known, layer.macs});
      }
      macs_[known] += static_cast<double>(layer.macs);
    }
  }
  return changes;
}

std::map<std::string, double> GemmLog::percent() const {
  double all = 0.0;
  for (const auto& [name, macs] : macs_) all += macs;
  std::map<std::string, double> shares;
  for (const auto& [name, macs] : macs_) shares[name] = 100.0 * macs / all;
  return shares;
}

GemmLog::Shares GemmLog::now() const {
  Shares shares;
  double all = 0.0;
  for (const Layer& layer : layers_) {
    for (const std::string& arithmetic : layer.arithmetic) {
      if (arithmetic.empty()) continue;
      const bool is_integer = arithmetic.starts_with("int");
      const bool is_wide = arithmetic.find("int16") != std::string::npos;
      double& share = !is_integer ? shares.floating : is_wide ? shares.int16 : shares.int8;
      share += static_cast<double>(layer.macs);
      all += static_cast<double>(layer.macs);
    }
  }
  if (all == 0.0) return {.floating = 1.0};
  return {shares.int8 / all, shares.int16 / all, shares.floating / all};
}

nlohmann::json GemmLog::state() const {
  nlohmann::json layers = nlohmann::json::array();
  for (const Layer& layer : layers_) layers.push_back(layer.arithmetic);
  return {{"layers", layers}, {"macs", macs_}};
}

void GemmLog::load_state(const nlohmann::json& state) {
  const nlohmann::json& layers = state.at("layers");
  require(layers.size() == layers_.size(), "train", "the checkpoint has {} layers, the network has {}",
          layers.size(), layers_.size());
  for (size_t l = 0; l < layers_.size(); ++l) layers.at(l).get_to(layers_[l].arithmetic);
  state.at("macs").get_to(macs_);
}

}  // namespace bitdial::train
