#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "bitdial/core/policy.h"

/// What a training run is made of. Written as TOML, one table per struct below; every key has a default, an
/// unknown key is an error that names the nearest known one. docs/recipes.md lists all keys.
namespace bitdial::train {

struct DataRecipe {
  std::string name = "shapes";
  std::string directory = "data";
  int64_t batch_size = 128;  ///< images per optimiser step, all micro-batches together
  int64_t evaluation_batch_size = 256;
  int64_t image_size = 0;  ///< edge of the square images, pixels; 0: the data set's own
  bool shuffle = true;
  bool drop_last = false;
  int64_t workers = 1;       ///< loading threads
  int64_t prefetch = 4;      ///< batches prepared ahead
  int64_t train_images = 0;  ///< use (shapes: generate) so many; 0: the data set's own number
  int64_t test_images = 0;
  int64_t generator_seed = 0;  ///< shapes: the seed of its generator, not of training
  double validation = 0.0;     ///< share of the training images held out, stratified by class; 0: none
  std::string fold;            ///< "k/K": fold k of K is held out, k from 1; empty: no cross validation
  int64_t split_seed = 0;      ///< of validation and folds: runs of other train.seed hold out the same images

  bool operator==(const DataRecipe&) const = default;
};

struct AugmentationRecipe {
  std::string preset = "auto";   ///< auto: the data set's published one; none; custom: the three keys below
  int64_t crop_padding = 0;      ///< black border in pixels before a random crop of the original size
  bool horizontal_flip = false;  ///< with probability 1/2
  bool random_resized_crop = false;  ///< area 8..100 %, aspect ratio 3/4..4/3
  std::vector<double> mean;          ///< every preset: per channel, of values in 0..1; empty: the data set's
  std::vector<double> std;

  bool operator==(const AugmentationRecipe&) const = default;
};

struct ModelRecipe {
  std::string name = "resnet20-cifar";
  std::string init;                    ///< PyTorch state dict or safetensors to start from; empty: random
  std::string normalization = "auto";  ///< auto: what the policy asks for
  int64_t range_norm_bits = 8;         ///< Range BN: of its input and output gradient; 0: float
  bool zero_last_gamma = false;        ///< residual networks
  std::string initializer = "auto";    ///< auto: what the policy asks for
  double initializer_scale = 0.5;      ///< tnvs: s
  double linear_std = 0.0;             ///< of the last layer's normal initialiser; 0: the network's own
  bool auxiliary_heads = false;        ///< googlenet-imagenet

  bool operator==(const ModelRecipe&) const = default;
};

struct TrainRecipe {
  int64_t epochs = 10;
  int64_t steps = 0;  ///< optimiser steps at most, if need be in the middle of an epoch; 0: all of the epochs
  int64_t seed = 1;
  int64_t threads = 0;        ///< 0: as many as the process may use
  int64_t micro_batches = 1;  ///< gradients are accumulated over so many parts of a batch
  double clip_norm = 0.0;     ///< largest global 2-norm of the gradient; 0: not clipped
  double label_smoothing = 0.0;
  int64_t log_every = 10;        ///< steps between two step lines of metrics.jsonl
  int64_t evaluate_every = 1;    ///< epochs
  int64_t checkpoint_every = 1;  ///< epochs
  int64_t checkpoint_steps = 0;  ///< additionally every so many steps; 0: off
  int64_t keep_checkpoints = 2;  ///< newest kept; 0: all

  bool operator==(const TrainRecipe&) const = default;
};

struct OptimizerRecipe {
  std::string name = "sgd";
  double learning_rate = 0.1;
  double weight_decay = 1e-4;
  bool decay_norm_and_bias = true;  ///< false: normalisation parameters and biases are not decayed
  int64_t decay_epochs = 0;         ///< no weight decay from this epoch on; 0: always
  double l1 = 0.0;                  ///< of every parameter: l1 * sign(w) joins its gradient
  double momentum = 0.9;            ///< sgd
  double dampening = 0.0;           ///< sgd
  bool nesterov = false;            ///< sgd
  double beta1 = 0.9;               ///< adam, adamw
  double beta2 = 0.999;             ///< adam, adamw
  double epsilon = 1e-8;            ///< adam, adamw

  bool operator==(const OptimizerRecipe&) const = default;
};

struct ScheduleRecipe {
  std::string name = "cosine";
  std::string unit = "epoch";               ///< of milestones, step_size and warmup: "epoch" or "step"
  double warmup = 0.0;                      ///< length of the linear warm-up
  double warmup_factor = 0.1;               ///< share of the learning rate that warm-up starts from
  std::vector<double> milestones;           ///< step: multiply by gamma at each
  double step_size = 0.0;                   ///< step: multiply by gamma every so much; 0: milestones only
  double gamma = 0.1;                       ///< step
  double minimum = 0.0;                     ///< cosine, plateau: smallest learning rate
  std::string per = "step";                 ///< cosine: the rate changes every "step" or every "epoch"
  std::string metric = "validation_loss";   ///< plateau
  double factor = 0.1;                      ///< plateau
  int64_t patience = 10;                    ///< plateau, epochs
  double threshold = 1e-4;                  ///< plateau
  std::string threshold_mode = "relative";  ///< plateau
  int64_t cooldown = 0;                     ///< plateau, epochs

  bool operator==(const ScheduleRecipe&) const = default;
};

/// Operands that follow another policy than the network's (policies/overrides.h).
struct PrecisionOverride {
  /// Names, patterns with * and ?, "@first", "@last"; empty: every layer.
  std::vector<std::string> layers;
  std::vector<std::string> tensors;  ///< "w", "x", "dy", "dy_bprop", ...; empty: every tensor
  std::string policy = "float32";
  nlohmann::json options = nlohmann::json::object();

  bool operator==(const PrecisionOverride&) const = default;
};

struct PrecisionRecipe {
  std::string policy = "apt";
  std::string arithmetic = "integer";
  std::string reduced_axis = "auto";
  bool fused = true;
  std::string between = "auto";
  double previous_momentum = 0.9;                     ///< formats with range = previous
  double saturation_limit = 1e-3;                     ///< formats with range = previous
  nlohmann::json options = nlohmann::json::object();  ///< of the policy
  std::string gradient_policy;                        ///< of dY; empty: the policy
  nlohmann::json gradient_options = nlohmann::json::object();
  std::string first_layer = "policy";  ///< "policy", "float32", bits ("8", "8/8/16") or a policy's name
  std::string last_layer = "policy";
  std::vector<PrecisionOverride> overrides;  ///< [[precision.override]]; the first match counts

  bool operator==(const PrecisionRecipe&) const = default;
};

struct Recipe {
  DataRecipe data;
  AugmentationRecipe augmentation;
  ModelRecipe model;
  TrainRecipe train;
  OptimizerRecipe optimizer;
  ScheduleRecipe schedule;
  PrecisionRecipe precision;

  bool operator==(const Recipe&) const = default;
};

/// Optimiser steps of a whole run.
int64_t total_steps(const TrainRecipe& train, int64_t steps_per_epoch);

/// Which part of a cross validation is held out.
struct Fold {
  int64_t number = 1;  ///< 1 .. count
  int64_t count = 2;
};

/// Reads "3/10". Throws Error unless it is two numbers with 1 <= k <= K and K >= 2.
Fold parse_fold(std::string_view text);

/// Parses TOML. Throws Error with source, line and column on bad syntax, a key that is unknown, has the wrong
/// type or a value out of its range.
Recipe parse_recipe(std::string_view toml, const std::string& source = "recipe");

Recipe load_recipe(const std::filesystem::path& file);

/// Applies one "--set": "train.epochs=3", "model.name=lenet5", "precision.options.alpha=0.02". The value is
/// TOML; a string needs no quotes. Another policy starts without the options of the one before.
void set_recipe_value(Recipe& recipe, std::string_view assignment);

/// Checks what concerns several keys: the policy with its options, momentum for Nesterov, and the like.
void check_recipe(const Recipe& recipe);

/// The policy with its options and, in the order in which they count: overrides, the rules of the first and
/// the last layer, the policy of gradients.
std::shared_ptr<Policy> make_policy(const PrecisionRecipe& recipe);

/// "cpt", or "cpt, gradients apt".
std::string describe_policy(const PrecisionRecipe& recipe);

/// The fully resolved recipe: every key, in the order of the structs. parse_recipe(to_toml(r)) equals r.
std::string to_toml(const Recipe& recipe);

/// One line of the table of keys.
struct RecipeKey {
  std::string key;            ///< "train.epochs"
  std::string type;           ///< "integer", "number", "text", "true or false", "list of numbers", "table"
  std::string default_value;  ///< as TOML
  std::string allowed;        ///< "sgd | adam | adamw", ">= 1"; empty: anything
  std::string help;
};
std::vector<RecipeKey> recipe_keys();

}  // namespace bitdial::train
