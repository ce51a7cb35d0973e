#include "bitdial/train/recipe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "bitdial/core/error.h"

namespace bitdial::train {
namespace {

std::string error_of(std::string_view toml) {
  try {
    check_recipe(parse_recipe(toml, "a.toml"));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string set_error(std::string_view assignment) {
  Recipe recipe;
  try {
    set_recipe_value(recipe, assignment);
    check_recipe(recipe);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream stream(path);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

TEST(Recipe, EmptyIsAllDefaults) {
  EXPECT_EQ(parse_recipe(""), Recipe{});
  EXPECT_NO_THROW(check_recipe(Recipe{}));
}

constexpr const char* kFull = R"(
[data]
name = "cifar10"
directory = 'C:\odd "path" ☃'
batch_size = 32
drop_last = true
[augmentation]
preset = "custom"
crop_padding = 4
horizontal_flip = true
mean = [0.5, 0.25, 1]
std = [1e-3, 0.2, 2]
[model]
name = "lenet5"
[train]
epochs = 3
clip_norm = 1
label_smoothing = 0.1
[optimizer]
name = "adamw"
learning_rate = 3e-4
[schedule]
name = "step"
milestones = [1, 2.5]
[precision]
policy = "static:8/8/16"
options = { range = "exact", "gradient_rounding" = "nearest", running_momentum = 0.1, exact_zero = false }
[[precision.override]]
layers = ["conv1", "layer?.*"]
policy = "float32"
[[precision.override]]
tensors = ["dy"]
policy = "apt"
options.alpha = 0.02
)";

TEST(Recipe, ReadsEveryKind) {
  const Recipe recipe = parse_recipe(kFull);
  EXPECT_EQ(recipe.data.name, "cifar10");
  EXPECT_EQ(recipe.data.batch_size, 32);
  EXPECT_TRUE(recipe.data.drop_last);
  EXPECT_EQ(recipe.augmentation.mean, (std::vector<double>{0.5, 0.25, 1.0}));
  EXPECT_EQ(recipe.train.clip_norm, 1.0) << "an integer serves as a number";
  EXPECT_EQ(recipe.optimizer.learning_rate, 3e-4);
  EXPECT_EQ(recipe.schedule.milestones, (std::vector<double>{1.0, 2.5}));
  EXPECT_EQ(recipe.precision.options.at("range"), "exact");
  EXPECT_EQ(recipe.precision.options.at("exact_zero"), false);
  ASSERT_EQ(recipe.precision.overrides.size(), 2U);
  EXPECT_EQ(recipe.precision.overrides[0].layers, (std::vector<std::string>{"conv1", "layer?.*"}));
  EXPECT_EQ(recipe.precision.overrides[1].options.at("alpha"), 0.02);
  EXPECT_EQ(recipe.optimizer.momentum, 0.9) << "what is not named keeps its default";
  EXPECT_NO_THROW(check_recipe(recipe));
  EXPECT_EQ(make_policy(recipe.precision)->name(), "static");
}

TEST(Recipe, RoundTrip) {
  Recipe odd = parse_recipe(kFull);
  odd.data.directory = "tab\there \x01 \"quotes\" \\ back\nline";
  odd.optimizer.learning_rate = 0.1 + 0.2;
  odd.optimizer.epsilon = 1e-300;
  odd.optimizer.weight_decay = 12345678901234567.0;
  odd.precision.options = {{"odd key", {1, 2.0, "x"}}, {"nested", {{"a", true}}}};
  for (const Recipe& recipe : {Recipe{}, parse_recipe(kFull), odd}) {
    const std::string text = to_toml(recipe);
    EXPECT_EQ(parse_recipe(text), recipe) << text;
    EXPECT_EQ(to_toml(parse_recipe(text)), text);
  }
  // "Fully resolved": every key is written.
  const std::string text = to_toml(Recipe{});
  for (const RecipeKey& key : recipe_keys()) {
    const std::string name = key.key.substr(key.key.find('.') + 1);
    if (key.type == "list of tables") continue;
    const std::string written = key.type == "table" ? "[" + key.key + "]" : "\n" + name + " = ";
    EXPECT_NE(text.find(written), std::string::npos) << key.key;
  }
}

TEST(Recipe, UnknownKeysSuggestTheNearest) {
  EXPECT_EQ(error_of("[train]\nepoch = 3"),
            "[recipe] a.toml:2:9: unknown key \"train.epoch\"; did you mean "
            "\"train.epochs\"?");
  EXPECT_EQ(error_of("[optimiser]\nname = 'sgd'"),
            "[recipe] a.toml:1:1: unknown table \"optimiser\"; did you mean \"optimizer\"?");
  // The right key in the wrong table, or in none.
  EXPECT_NE(error_of("[train]\nlearning_rate = 1.0").find("did you mean \"optimizer.learning_rate\"?"),
            std::string::npos);
  EXPECT_NE(error_of("epochs = 1").find("did you mean \"train.epochs\"?"), std::string::npos);
  EXPECT_NE(error_of("[[precision.override]]\nlayer = ['fc']").find("did you mean \"layers\"?"),
            std::string::npos);
  EXPECT_NE(error_of("[precision.options]\naplha = 0.1").find("did you mean \"alpha\"?"), std::string::npos);
  EXPECT_NE(error_of("[precision]\npolicy = 'atp'").find("did you mean \"apt\"?"), std::string::npos);
  EXPECT_NE(error_of("[train]\nzzzzzz = 1").find("unknown key \"train.zzzzzz\""), std::string::npos);
}

TEST(Recipe, WrongTypesAndValuesNameLineAndFind) {
  EXPECT_EQ(error_of("[train]\nepochs = 'ten'"),
            "[recipe] a.toml:2:10: train.epochs must be an integer >= 1, got \"ten\"");
  EXPECT_EQ(error_of("[train]\nepochs = 0"),
            "[recipe] a.toml:2:10: train.epochs must be an integer >= 1, got 0");
  EXPECT_EQ(error_of("[train]\nepochs = 1.5"),
            "[recipe] a.toml:2:10: train.epochs must be an integer >= 1, got 1.5");
  EXPECT_EQ(
      error_of("[optimizer]\nname = 'adm'"),
      "[recipe] a.toml:2:8: optimizer.name must be \"sgd\" | \"adam\" | \"adamw\", got \"adm\"; did you mean "
      "\"adam\"?");
  for (const char* bad : {"[optimizer]\nlearning_rate = 0", "[optimizer]\nlearning_rate = nan",
                          "[optimizer]\nlearning_rate = inf", "[optimizer]\nlearning_rate = true",
                          "[optimizer]\nnesterov = 1", "[data]\nname = 3", "[data]\nbatch_size = true",
                          "[schedule]\nmilestones = 3", "[schedule]\nmilestones = ['a']", "train = 3",
                          "[precision]\noptions = 3", "[precision]\noptions = {a = 1979-05-27}",
                          "[precision]\noverride = 3", "[[precision.override]]\nlayers = 'fc'",
                          "[[precision.override]]\npolicy = 8", "[train]\nepochs = 1979-05-27"}) {
    const std::string text = error_of(bad);
    EXPECT_NE(text.find(" must "), std::string::npos) << bad << ": " << text;
    EXPECT_NE(text.find("a.toml:"), std::string::npos) << bad << ": " << text;
  }
  EXPECT_NE(error_of("[train\nepochs = 1").find("a.toml:1:"), std::string::npos);
  EXPECT_NE(error_of("[train]\nepochs = 1\nepochs = 2").find("a.toml:3:"), std::string::npos);
}

TEST(Recipe, ChecksAcrossKeys) {
  for (const char* bad : {"[schedule]\nname = 'step'",
                          "[schedule]\nname = 'step'\nmilestones = [3, 2]",
                          "[schedule]\nminimum = 1.0",
                          "[schedule]\nwarmup = 10",
                          "[data]\nbatch_size = 2\n[train]\nmicro_batches = 3",
                          "[optimizer]\nnesterov = true\nmomentum = 0",
                          "[optimizer]\nnesterov = true\ndampening = 0.1",
                          "[augmentation]\ncrop_padding = 4",
                          "[augmentation]\nmean = [0.5]",
                          "[augmentation]\nmean=[0,0]\nstd=[1,1]",
                          "[data]\nfold = '0/5'",
                          "[data]\nfold = '6/5'",
                          "[data]\nfold = '1/1'",
                          "[data]\nfold = '1'",
                          "[data]\nfold = '1/5x'",
                          "[data]\nfold = '1/5'\nvalidation = 0.1",
                          "[data]\nvalidation = 1.0",
                          "[model]\nauxiliary_heads = true",
                          "[model]\ninitializer = 'tnvs'\ninitializer_scale = 0",
                          "[[precision.override]]\ntensors = ['grad']",
                          "[precision]\npolicy = 'static:8'"}) {
    EXPECT_NE(error_of(bad), "no error") << bad;
  }
}

TEST(Recipe, ReadsFolds) {
  const Fold fold = parse_fold("3/10");
  EXPECT_EQ(fold.number, 3);
  EXPECT_EQ(fold.count, 10);
  EXPECT_EQ(error_of("[data]\nfold = '11/10'"),
            "[recipe] a fold is k/K with 1 <= k <= K and K >= 2, as \"3/10\", got \"11/10\"");
}

TEST(Recipe, SetOverridesOneKey) {
  Recipe recipe;
  set_recipe_value(recipe, "train.epochs=3");
  set_recipe_value(recipe, " model.name = lenet5 ");
  set_recipe_value(recipe, "data.directory=/data/with space");
  set_recipe_value(recipe, "model.init=\"quoted.pt\"");
  set_recipe_value(recipe, "optimizer.learning_rate=1");
  set_recipe_value(recipe, "optimizer.nesterov=true");
  set_recipe_value(recipe, "schedule.milestones=[1, 2.5]");
  set_recipe_value(recipe, "precision.options.alpha=0.02");
  set_recipe_value(recipe, "precision.options.M0=first_s");
  set_recipe_value(recipe, "precision.override=[{layers=['fc'], policy='float32'}]");
  EXPECT_EQ(recipe.train.epochs, 3);
  EXPECT_EQ(recipe.model.name, "lenet5");
  EXPECT_EQ(recipe.data.directory, "/data/with space");
  EXPECT_EQ(recipe.model.init, "quoted.pt");
  EXPECT_EQ(recipe.optimizer.learning_rate, 1.0);
  EXPECT_TRUE(recipe.optimizer.nesterov);
  EXPECT_EQ(recipe.schedule.milestones, (std::vector<double>{1.0, 2.5}));
  EXPECT_EQ(recipe.precision.options, (nlohmann::json{{"alpha", 0.02}, {"M0", "first_s"}}));
  ASSERT_EQ(recipe.precision.overrides.size(), 1U);
  EXPECT_NO_THROW(check_recipe(recipe));
  set_recipe_value(recipe, "data.directory=123");
  EXPECT_EQ(recipe.data.directory, "123") << "a text needs no quotes, whatever it looks like";
  set_recipe_value(recipe, "model.init=");
  EXPECT_EQ(recipe.model.init, "");
}

TEST(Recipe, ForwardAndGradientPolicies) {
  Recipe recipe;
  set_recipe_value(recipe, "precision.policy=cpt:3-8/8");
  set_recipe_value(recipe, "precision.gradient_policy=apt");
  set_recipe_value(recipe, "precision.gradient_options.quantify_rate=1.0");
  set_recipe_value(recipe, "precision.first_layer=8/8/16");
  set_recipe_value(recipe, "precision.last_layer=8");
  EXPECT_EQ(describe_policy(recipe.precision), "cpt:3-8/8, gradients apt");
  EXPECT_EQ(recipe.precision.last_layer, "8");
  const std::string text = to_toml(recipe);
  EXPECT_EQ(parse_recipe(text), recipe) << text;

  const auto policy = make_policy(recipe.precision);
  policy->attach(std::vector<LayerInfo>{{.name = "conv1", .kernel = 3, .is_first = true},
                                        {.name = "conv2", .kernel = 3},
                                        {.name = "middle", .kind = LayerKind::kLinear},
                                        {.name = "fc", .kind = LayerKind::kLinear, .is_last = true}});
  EXPECT_EQ(policy->name(), "cpt");
  EXPECT_TRUE(policy->has_final_precision());
  const auto format = [&](int layer, TensorRole role) { return policy->evaluation_format({layer, role}); };
  EXPECT_EQ(format(0, TensorRole::kWeight).rule, ScaleRule::kSymmetric) << "the first layer is static's";
  EXPECT_EQ(format(0, TensorRole::kGradBprop).word_length, 16);
  EXPECT_EQ(format(1, TensorRole::kWeight).rule, ScaleRule::kAffine);
  EXPECT_EQ(format(1, TensorRole::kGradBprop).rule, ScaleRule::kPowerOfTwo) << "apt";
  EXPECT_EQ(format(1, TensorRole::kGradWtgrad).rule, ScaleRule::kPowerOfTwo);
  EXPECT_EQ(policy->final_evaluation_format({1, TensorRole::kWeight}).word_length, 8);
  EXPECT_TRUE(format(2, TensorRole::kGradBprop).is_float()) << "cpt leaves linear layers in float32";
  EXPECT_EQ(format(3, TensorRole::kGradBprop).word_length, 8);

  Recipe baseline = recipe;
  set_recipe_value(baseline, "precision.override=[{match='conv2', weight=4}]");
  set_recipe_value(baseline, "precision.policy=float32");
  EXPECT_FALSE(make_policy(baseline.precision)->quantizes()) << "nothing of the policy stays";
  set_recipe_value(baseline, "precision.gradient_policy=apt");
  EXPECT_TRUE(make_policy(baseline.precision)->quantizes()) << "what is asked for after it counts";

  set_recipe_value(recipe, "precision.gradient_policy=static:8/8/16");
  EXPECT_TRUE(recipe.precision.gradient_options.empty()) << "another policy starts without the old options";
  set_recipe_value(recipe, "precision.gradient_policy=");
  EXPECT_NO_THROW(check_recipe(recipe));
  set_recipe_value(recipe, "precision.gradient_options.alpha=0.1");
  EXPECT_THROW(check_recipe(recipe), Error) << "options of no policy";
}

TEST(Recipe, LayerRulesNameWhatIsWrong) {
  EXPECT_NE(set_error("precision.first_layer=flaot32").find("did you mean \"float32\""), std::string::npos);
  EXPECT_NE(set_error("precision.last_layer=8/8"), "no error");
  EXPECT_NE(set_error("precision.last_layer=1"), "no error");
  EXPECT_NE(set_error("precision.gradient_policy=atp").find("did you mean \"apt\""), std::string::npos);
  EXPECT_EQ(set_error("precision.first_layer=float32"), "no error");
  EXPECT_EQ(set_error("precision.first_layer=policy"), "no error");
}

TEST(Recipe, FixedWidthsByPattern) {
  const Recipe recipe = parse_recipe(
      "[precision]\npolicy = 'apt'\n"
      "[[precision.override]]\nmatch = 'layer1.*'\nweight = 4\n"
      "[[precision.override]]\nmatch = ['fc', 'conv1']\nactivation = 8\ngradient = 16\n"
      "options = { preset = 'shared', layers = 'all' }\n"
      "[[precision.override]]\nlayers = ['@last']\n");
  const auto& overrides = recipe.precision.overrides;
  ASSERT_EQ(overrides.size(), 3U);
  EXPECT_EQ(
      overrides[0],
      (PrecisionOverride{
          .layers = {"layer1.*"}, .tensors = {"w"}, .policy = "static", .options = {{"weight_bits", 4}}}));
  EXPECT_EQ(overrides[1].layers, (std::vector<std::string>{"fc", "conv1"}));
  EXPECT_EQ(overrides[1].tensors, (std::vector<std::string>{"x", "dy"}));
  EXPECT_EQ(overrides[1].options,
            (nlohmann::json{
                {"activation_bits", 8}, {"gradient_bits", 16}, {"layers", "all"}, {"preset", "shared"}}));
  EXPECT_EQ(overrides[2].policy, "float32");
  EXPECT_EQ(parse_recipe(to_toml(recipe)), recipe);

  const auto policy = make_policy(recipe.precision);
  policy->attach(std::vector<LayerInfo>{{.name = "conv1", .is_first = true},
                                        {.name = "layer1.0"},
                                        {.name = "fc", .kind = LayerKind::kLinear, .is_last = true}});
  const auto format = [&](int layer, TensorRole role) { return policy->evaluation_format({layer, role}); };
  EXPECT_EQ(format(1, TensorRole::kWeight).word_length, 4);
  EXPECT_EQ(format(1, TensorRole::kWeight).rule, ScaleRule::kSymmetric);
  EXPECT_EQ(format(1, TensorRole::kInput).rule, ScaleRule::kPowerOfTwo) << "what is not named follows apt";
  EXPECT_EQ(format(0, TensorRole::kGradBprop).word_length, 16);
  EXPECT_EQ(format(2, TensorRole::kInput).rule, ScaleRule::kAffine);
  EXPECT_TRUE(format(2, TensorRole::kWeight).is_float()) << "@last";

  EXPECT_NE(error_of("[[precision.override]]\nmatch = 'fc'\nweigth = 4").find("did you mean \"weight\""),
            std::string::npos);
  EXPECT_NE(error_of("[[precision.override]]\nmatch = 'fc'\nweight = 1"), "no error");
  EXPECT_NE(error_of("[[precision.override]]\nmatch = 3"), "no error");
}

TEST(Recipe, AnotherPolicyStartsWithoutTheOldOptions) {
  Recipe recipe = parse_recipe("[precision]\npolicy = 'static:8/8/8'\noptions.range = 'exact'");
  set_recipe_value(recipe, "precision.policy=static:8/8/16");
  EXPECT_EQ(recipe.precision.options.size(), 1U) << "the same policy keeps them";
  set_recipe_value(recipe, "precision.policy=float32");
  EXPECT_TRUE(recipe.precision.options.empty());
  EXPECT_NO_THROW(check_recipe(recipe));
}

TEST(Recipe, SetErrorsChangeNothing) {
  EXPECT_EQ(set_error("train.epoch=3"),
            "[recipe] --set: unknown key \"train.epoch\"; did you mean \"train.epochs\"?");
  EXPECT_EQ(set_error("train.epochs=three"),
            "[recipe] --set: train.epochs must be an integer >= 1, got \"three\"");
  for (const char* bad : {"train.epochs", "epochs=3", "=3", "", ".=1", "train.=1", "train.epochs=", "train=3",
                          "train.epochs.x=1", "train.epochs=1\nseed=2"}) {
    EXPECT_NE(set_error(bad), "no error") << bad;
  }
  Recipe recipe;
  EXPECT_THROW(set_recipe_value(recipe, "precision.policy.x=1"), Error);
  EXPECT_EQ(recipe, Recipe{});
}

TEST(Recipe, UnreadableFiles) {
  EXPECT_THROW(load_recipe("no/such/recipe.toml"), Error);
  EXPECT_THROW(load_recipe(std::filesystem::temp_directory_path()), Error);
}

// Every recipe that ships with the program.
TEST(Recipe, ShippedRecipes) {
  std::vector<std::string> names;
  const std::string documentation = read_text(BITDIAL_SOURCE_DIR "/docs/recipes.md");
  for (const auto& entry : std::filesystem::directory_iterator(BITDIAL_SOURCE_DIR "/recipes")) {
    if (entry.path().extension() != ".toml") continue;
    SCOPED_TRACE(entry.path().string());
    const Recipe recipe = load_recipe(entry.path());
    EXPECT_NO_THROW(check_recipe(recipe));
    EXPECT_EQ(parse_recipe(to_toml(recipe)), recipe);
    names.push_back(entry.path().stem().string());
    EXPECT_NE(documentation.find("`" + names.back() + ".toml`"), std::string::npos);
    // DATA-NETWORK.toml or DATA-NETWORK-SYSTEM.toml says what it holds.
    const std::string data = recipe.data.name == "image-folder" ? "imagenet" : recipe.data.name;
    EXPECT_TRUE(names.back().starts_with(data + "-")) << recipe.data.name;
    const std::string network = names.back().substr(data.size() + 1);
    const std::string without_system = network.substr(0, network.rfind('-'));
    EXPECT_TRUE(recipe.model.name.starts_with(network) || recipe.model.name.starts_with(without_system))
        << recipe.model.name;
  }
  std::sort(names.begin(), names.end());
  const std::vector<std::string> expected{"cifar10-alexnet",   "cifar10-resnet18",  "cifar10-resnet20",
                                          "cifar10-vgg16",     "cifar100-resnet20", "fashion-mnist-lenet5",
                                          "imagenet-resnet18", "mnist-lenet5",      "shapes-resnet20"};
  for (const std::string& name : expected) {
    EXPECT_TRUE(std::find(names.begin(), names.end(), name) != names.end()) << name;
  }
}

// docs/recipes.md holds a row for every key, with type, default, limits and help as in the program.
TEST(Recipe, DocumentationListsEveryKey) {
  const std::string text = read_text(BITDIAL_SOURCE_DIR "/docs/recipes.md");
  for (const RecipeKey& key : recipe_keys()) {
    std::string allowed;
    for (const char c : key.allowed) allowed += c == '|' ? std::string("\\|") : std::string(1, c);
    const std::string row = "| `" + key.key + "` | " + key.type + " | `" + key.default_value + "` | " +
                            allowed + " | " + key.help + " |\n";
    EXPECT_NE(text.find(row), std::string::npos) << row;
  }
}

}  // namespace
}  // namespace bitdial::train
