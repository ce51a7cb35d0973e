#include "bitdial/train/reproduce.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/models/zoo.h"
#include "bitdial/train/reproduce_cells.h"

namespace bitdial::train {

namespace {

constexpr std::array kGroups{
    ReproducedGroup{"adapt-model", "AdaPT: identities of its performance model, MuPPET's schedules replayed",
                    "1e-12; replays 0.001", cells::adapt_model},
    ReproducedGroup{"apt-throughput", "APT: speedup that its formats allow on a CPU and a GPU", "0.005",
                    cells::apt_throughput},
    ReproducedGroup{"fractrain-options", "FracTrain: cp of DFQ's options and of static bits, PFQ's stages",
                    "last printed digit", cells::fractrain_options},
    ReproducedGroup{"cpt-schedule", "CPT: levels of the cyclic schedule, means of b and b^2",
                    "exact; means: last printed digit", cells::cpt_schedule},
    ReproducedGroup{"network-macs", "MACs, batch norm elements and M* of the networks", "exact",
                    cells::network_macs},
    ReproducedGroup{"training-cost", "FW8/BW8 training of the networks by formula, GBitOPs", "0.1 %",
                    cells::training_cost},
    ReproducedGroup{"cpt-cifar", "CPT: training costs of its CIFAR-100 figure, GBitOPs", "0.3 %",
                    cells::cpt_cifar},
    ReproducedGroup{"cpt-imagenet", "CPT: static columns of its ImageNet table, GBitOPs", "0.3 %",
                    cells::cpt_imagenet},
    ReproducedGroup{"cpt-imagenet-cyclic", "CPT: cyclic columns of its ImageNet table, GBitOPs", "0.6 %",
                    cells::cpt_imagenet_cyclic},
    ReproducedGroup{"cpt-savings", "CPT: percent saved against static bits",
                    "0.01 points to the formula, 0.5 to print", cells::cpt_savings},
    ReproducedGroup{"ldp-training", "LDP: Table 3, training of ResNet-38 and 74 with SBM 8/8, GBitOPs",
                    "0.7 %", cells::ldp_training},
    ReproducedGroup{"ldp-inference", "LDP: Table 3, inference of SBM 8/8, GBitOPs", "0.8 %",
                    cells::ldp_inference},
    ReproducedGroup{"ldp-training-resnet20", "LDP: Table 3, training of ResNet-20 with SBM 8/8, GBitOPs",
                    "5 %", cells::ldp_training_resnet20},
    ReproducedGroup{"ldp-random", "LDP: Tables 1 and 2, rotated and random bits (expectation), GBitOPs",
                    "0.5 %", cells::ldp_random},
    ReproducedGroup{"inference", "LDP: inference of PAN at 16 bits and ResNet-18 at 8, GBitOPs", "0.5 %",
                    cells::inference},
    ReproducedGroup{"fractrain-macs", "FracTrain: MACs to the best epoch, eight rows", "0.5 %",
                    cells::fractrain_macs},
    ReproducedGroup{"ldp-unit", "LDP: the gradient of beta of one tensor, step by step", "1e-9",
                    cells::ldp_unit},
};

}  // namespace

std::span<const ReproducedGroup> reproduced_groups() { return kGroups; }

const ReproducedGroup& reproduced_group(std::string_view name) {
  const auto* const found =
      std::find_if(kGroups.begin(), kGroups.end(), [&](const auto& group) { return group.name == name; });
  if (found != kGroups.end()) return *found;
  std::vector<std::string> known;
  for (const ReproducedGroup& group : kGroups) known.emplace_back(group.name);
  fail("reproduce", "there is no group \"{}\"{} (bitdial reproduce --list)", name, suggestion(name, known));
}

nlohmann::ordered_json to_json(const ReproducedGroup& group, const ReproducedCell& cell) {
  return {{"name", std::string(group.name) + ": " + cell.name},
          {"paper", cell.paper},
          {"ours", cell.ours},
          {"difference", cell.difference()},
          {"tolerance", cell.tolerance},
          {"ok", cell.ok()}};
}

namespace cells {

ReproducedCell relative(std::string name, double paper, double ours, double tolerance) {
  return {std::move(name), paper, ours, tolerance * std::fabs(paper)};
}

double m_star(const char* model, int64_t classes) {
  static std::map<std::pair<std::string, int64_t>, double> known;  // building a network takes a moment
  const auto key = std::make_pair(std::string(model), classes);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  models::Options options;
  options.classes = classes;
  return known[key] = static_cast<double>(models::m_star(models::layer_table(model, options)));
}

}  // namespace cells

}  // namespace bitdial::train
