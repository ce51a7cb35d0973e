// Published accuracies beside published costs: the recipe of each row. Best of a run, as those papers report,
// or the mean of three runs (LDP, Tables 1 and 2).
#include <fmt/format.h>

#include <array>

#include "bitdial/train/reproduce_training.h"

namespace bitdial::train {

namespace {

using Trainings = std::vector<ReproducedTraining>;

constexpr const char* kStatic = "cifar100-resnet38-shared";
constexpr const char* kCpt = "cifar100-resnet38-cpt";
constexpr const char* kLdp = "cifar100-resnet38-ldp";

std::string model_is(const char* model) { return fmt::format("model.name={}", model); }
std::string policy_is(const std::string& policy) { return fmt::format("precision.policy={}", policy); }

// Fu et al. 2021 (CPT), figure of CIFAR-100.
Trainings cpt_cifar() {
  struct Row {
    const char* title;
    const char* model;
    double fixed, cyclic;
  };
  constexpr std::array<Row, 6> kRows{{{"ResNet-38", "resnet38-cifar", 69.80, 70.24},
                                      {"ResNet-74", "resnet74-cifar", 71.45, 72.35},
                                      {"ResNet-110", "resnet110-cifar", 71.46, 72.19},
                                      {"ResNet-152", "resnet152-cifar", 72.59, 73.08},
                                      {"ResNet-164", "resnet164-cifar", 72.49, 72.69},
                                      {"MobileNetV2", "mobilenet-v2-cifar", 75.27, 75.65}}};
  Trainings rows;
  for (const Row& row : kRows) {
    rows.push_back({fmt::format("{} 8/8", row.title), kStatic, {model_is(row.model)}, row.fixed});
    rows.push_back({fmt::format("{} 3-8/8", row.title), kCpt, {model_is(row.model)}, row.cyclic});
  }
  return rows;
}

struct ImageNetRow {
  const char* title;
  const char* model;
  double eight, six;
};

Trainings cpt_imagenet(const char* recipe, std::span<const ImageNetRow> published, const char* eight,
                       const char* six) {
  Trainings rows;
  for (const ImageNetRow& row : published) {
    const auto add = [&](const std::string& policy, double accuracy) {
      rows.push_back({fmt::format("{} {}", row.title, policy.substr(policy.rfind(':') + 1)),
                      recipe,
                      {model_is(row.model), policy_is(policy)},
                      accuracy});
    };
    add(eight, row.eight);
    add(six, row.six);
  }
  return rows;
}

// Fu et al. 2021 (CPT), ImageNet table.
Trainings cpt_imagenet_static() {
  constexpr std::array<ImageNetRow, 3> kRows{{{"ResNet-18", "resnet18-imagenet", 69.60, 69.30},
                                              {"ResNet-34", "resnet34-imagenet", 73.32, 72.82},
                                              {"ResNet-50", "resnet50-imagenet", 76.29, 75.72}}};
  return cpt_imagenet("imagenet-resnet18-shared", kRows, "static:shared:8/8", "static:shared:6/6");
}

Trainings cpt_imagenet_cyclic() {
  constexpr std::array<ImageNetRow, 3> kRows{{{"ResNet-18", "resnet18-imagenet", 69.64, 69.33},
                                              {"ResNet-34", "resnet34-imagenet", 73.12, 72.74},
                                              {"ResNet-50", "resnet50-imagenet", 76.35, 75.74}}};
  return cpt_imagenet("imagenet-resnet18-cpt", kRows, "cpt:4-8/8", "cpt:4-6/6");
}

// Yu et al. 2022 (LDP), Table 3.
struct LdpRow {
  const char* title;
  const char* model;
  const char* data;
  double fixed, from3, from4;
};

Trainings ldp_rows(std::span<const LdpRow> published) {
  Trainings rows;
  for (const LdpRow& row : published) {
    const std::vector<std::string> settings{model_is(row.model), fmt::format("data.name={}", row.data)};
    const std::string name = fmt::format("{} {}", row.title, row.data);
    rows.push_back({name + " SBM 8/8", kStatic, settings, row.fixed});
    rows.push_back({name + " LDP 3-8/8", kLdp, settings, row.from3});
    std::vector<std::string> from4 = settings;
    from4.emplace_back("precision.options.min_bits=4");
    rows.push_back({name + " LDP 4-8/8", kLdp, std::move(from4), row.from4});
  }
  return rows;
}

Trainings ldp_training() {
  constexpr std::array<LdpRow, 4> kRows{{{"ResNet-38", "resnet38-cifar", "cifar100", 69.38, 69.77, 69.81},
                                         {"ResNet-38", "resnet38-cifar", "cifar10", 92.69, 92.73, 92.69},
                                         {"ResNet-74", "resnet74-cifar", "cifar100", 71.05, 71.28, 71.21},
                                         {"ResNet-74", "resnet74-cifar", "cifar10", 93.30, 93.63, 93.50}}};
  return ldp_rows(kRows);
}

Trainings ldp_training_resnet20() {
  constexpr std::array<LdpRow, 2> kRows{{{"ResNet-20", "resnet20-cifar", "cifar100", 67.24, 67.88, 67.64},
                                         {"ResNet-20", "resnet20-cifar", "cifar10", 91.86, 92.08, 91.86}}};
  return ldp_rows(kRows);
}

// Yu et al. 2022 (LDP), Tables 1 and 2; 160 epochs.
Trainings ldp_random() {
  Trainings rows{{"Table 2, static 8/8", kStatic, {}, 69.62}};
  constexpr std::array<std::pair<int, double>, 3> kEvery{{{1, 68.27}, {10, 69.71}, {100, 69.40}}};
  for (const auto& [every, accuracy] : kEvery)
    rows.push_back({fmt::format("Table 2, k = {}", every),
                    kStatic,
                    {policy_is("random"), fmt::format("precision.options.every={}", every)},
                    accuracy});
  constexpr std::array<std::pair<const char*, double>, 3> kTables{
      {{"ldp-1", 68.88}, {"ldp-2", 69.63}, {"ldp-3", 69.36}}};
  for (const auto& [table, accuracy] : kTables)
    rows.push_back({fmt::format("Table 1, {}", table),
                    kStatic,
                    {policy_is(fmt::format("schedule:{}", table))},
                    accuracy});
  return rows;
}

// Fu et al. 2020 (FracTrain), result tables.
Trainings fractrain_macs() {
  struct Row {
    const char* title;
    const char* model;
    const char* data;
    double sbm, dfq;
  };
  constexpr std::array<Row, 4> kRows{{{"ResNet-38 C10", "resnet38-cifar", "cifar10", 92.66, 92.49},
                                      {"ResNet-38 C100", "resnet38-cifar", "cifar100", 69.78, 69.81},
                                      {"ResNet-74 C10", "resnet74-cifar", "cifar10", 93.04, 93.09},
                                      {"ResNet-74 C100", "resnet74-cifar", "cifar100", 71.01, 70.58}}};
  Trainings rows;
  for (const Row& row : kRows) {
    const std::vector<std::string> settings{model_is(row.model), fmt::format("data.name={}", row.data)};
    rows.push_back({fmt::format("{} SBM 8/8", row.title), kStatic, settings, row.sbm});
    std::vector<std::string> gated = settings;
    gated.push_back(policy_is("dfq"));
    rows.push_back({fmt::format("{} DFQ", row.title), kStatic, std::move(gated), row.dfq});
  }
  return rows;
}

struct TrainedGroup {
  std::string_view name;
  Trainings (*rows)();
};

constexpr std::array kTrainedGroups{TrainedGroup{"cpt-cifar", cpt_cifar},
                                    TrainedGroup{"cpt-imagenet", cpt_imagenet_static},
                                    TrainedGroup{"cpt-imagenet-cyclic", cpt_imagenet_cyclic},
                                    TrainedGroup{"ldp-training", ldp_training},
                                    TrainedGroup{"ldp-training-resnet20", ldp_training_resnet20},
                                    TrainedGroup{"ldp-random", ldp_random},
                                    TrainedGroup{"fractrain-macs", fractrain_macs}};

}  // namespace

std::vector<ReproducedTraining> reproduced_trainings(std::string_view group) {
  for (const TrainedGroup& trained : kTrainedGroups)
    if (trained.name == group) return trained.rows();
  return {};
}

}  // namespace bitdial::train
