#include "bitdial/train/recipe_keys.h"

#include <fmt/format.h>

#include <cmath>

namespace bitdial::train {
namespace {

using Words = std::vector<std::string>;

Limits at_least(double minimum) { return {.minimum = minimum}; }
Limits above(double minimum) { return {.minimum = minimum, .above_minimum = true}; }
Limits between(double minimum, double maximum) { return {.minimum = minimum, .maximum = maximum}; }

void visit(DataRecipe& data, KeyVisitor& visitor) {
  visitor.section("data", "what is learnt from");
  visitor.key("name", data.name,
              Words{"shapes", "cifar10", "cifar100", "mnist", "fashion-mnist", "emnist", "image-folder"},
              "data set; `shapes` is generated, the others are read from `directory`");
  visitor.key("directory", data.directory, Words{}, "folder of the data set's files, or the one above it");
  visitor.key("batch_size", data.batch_size, at_least(1),
              "images per optimiser step, all micro-batches together");
  visitor.key("evaluation_batch_size", data.evaluation_batch_size, at_least(1),
              "images at a time in evaluation");
  visitor.key("image_size", data.image_size, at_least(0),
              "edge of the square images in pixels; 0: the data set's own");
  visitor.key("shuffle", data.shuffle, "a new order every epoch, from the seed");
  visitor.key("drop_last", data.drop_last, "leave out a last batch that is short");
  visitor.key("workers", data.workers, between(0, 256), "threads that prepare batches beside training");
  visitor.key("prefetch", data.prefetch, between(1, 1024), "batches prepared ahead, at most");
  visitor.key("train_images", data.train_images, at_least(0),
              "use (shapes: generate) so many images for training; 0: the data set's own number");
  visitor.key("test_images", data.test_images, at_least(0), "the same for testing");
  visitor.key("generator_seed", data.generator_seed, at_least(0),
              "shapes: seed of its generator, not of training");
  visitor.key("validation", data.validation, between(0, 0.99),
              "share of the training images of each class that is held out; 0: none");
  visitor.key("fold", data.fold, Words{},
              "k/K: of K stratified folds of the training images the k-th (from 1) is held out; empty: none");
  visitor.key("split_seed", data.split_seed, at_least(0), "of validation and fold, not of training");
}

void visit(AugmentationRecipe& augmentation, KeyVisitor& visitor) {
  visitor.section("augmentation", "what happens to training images");
  visitor.key("preset", augmentation.preset, Words{"auto", "none", "custom"},
              "auto: as published for the data set; custom: the three keys below");
  visitor.key("crop_padding", augmentation.crop_padding, between(0, 1024),
              "custom: black border in pixels before a random crop of the original size");
  visitor.key("horizontal_flip", augmentation.horizontal_flip, "custom: mirror with probability 1/2");
  visitor.key("random_resized_crop", augmentation.random_resized_crop,
              "custom: cut 8 to 100 % of the area, aspect ratio 3/4 to 4/3, and resize");
  visitor.key("mean", augmentation.mean, between(0, 1),
              "per channel, of values in 0 .. 1, training and testing; empty: the data set's");
  visitor.key("std", augmentation.std, above(0), "standard deviation per channel; empty: the data set's");
}

void visit(ModelRecipe& model, KeyVisitor& visitor) {
  visitor.section("model", "the network");
  visitor.key("name", model.name, Words{}, "`bitdial models` lists them");
  visitor.key("init", model.init, Words{}, "PyTorch state dict or safetensors to start from; empty: random");
  visitor.key("normalization", model.normalization, Words{"auto", "batch", "range"},
              "auto: what the policy asks for; range: Range BN (Banner et al. 2018)");
  visitor.key("range_norm_bits", model.range_norm_bits, between(0, 16),
              "word length of the input and the output gradient of Range BN; 0: not quantised");
  visitor.key("zero_last_gamma", model.zero_last_gamma,
              "residual networks: the scale of the last normalisation of each block starts at 0");
  visitor.key("initializer", model.initializer, Words{"auto", "published", "tnvs"},
              "auto: what the policy asks for; published: the network's own; tnvs: AdaPT's truncated normal "
              "variance scaling");
  visitor.key("initializer_scale", model.initializer_scale, above(0),
              "tnvs: s in the variance s / fan-in, and the bound of biases drawn uniformly");
  visitor.key("linear_std", model.linear_std, at_least(0),
              "deviation of the last layer's initial weights, whose biases then start at 0; 0: the network's "
              "own");
  visitor.key("auxiliary_heads", model.auxiliary_heads,
              "googlenet-imagenet: two more classifiers in training, their losses weighted 0.3");
}

void visit(TrainRecipe& train, KeyVisitor& visitor) {
  visitor.section("train", "the loop");
  visitor.key("epochs", train.epochs, at_least(1), "passes over the training images");
  visitor.key("steps", train.steps, at_least(0),
              "optimiser steps at most, if need be in the middle of an epoch; 0: all of the epochs");
  visitor.key("seed", train.seed, at_least(0),
              "of initial weights, data order, augmentation and stochastic rounding");
  visitor.key("threads", train.threads, between(0, 1024), "0: as many as the process may use");
  visitor.key("micro_batches", train.micro_batches, at_least(1),
              "parts of a batch that gradients are accumulated over");
  visitor.key("clip_norm", train.clip_norm, at_least(0),
              "largest 2-norm of the whole gradient; 0: not clipped");
  visitor.key("label_smoothing", train.label_smoothing, between(0, 1),
              "share of the label spread over all classes");
  visitor.key("log_every", train.log_every, at_least(1), "steps between two step lines of metrics.jsonl");
  visitor.key("evaluate_every", train.evaluate_every, at_least(1), "epochs between two evaluations");
  visitor.key("checkpoint_every", train.checkpoint_every, at_least(1), "epochs between two checkpoints");
  visitor.key("checkpoint_steps", train.checkpoint_steps, at_least(0),
              "additionally a checkpoint every so many steps; 0: none");
  visitor.key("keep_checkpoints", train.keep_checkpoints, at_least(0), "newest checkpoints kept; 0: all");
}

void visit(OptimizerRecipe& optimizer, KeyVisitor& visitor) {
  visitor.section("optimizer", "the update rule, as in torch.optim");
  visitor.key("name", optimizer.name, Words{"sgd", "adam", "adamw"}, "update rule");
  visitor.key("learning_rate", optimizer.learning_rate, above(0), "before warm-up and schedule");
  visitor.key("weight_decay", optimizer.weight_decay, at_least(0),
              "L2 penalty (sgd, adam) or decoupled decay (adamw)");
  visitor.key("decay_norm_and_bias", optimizer.decay_norm_and_bias,
              "false: parameters of normalisation and biases are not decayed");
  visitor.key("decay_epochs", optimizer.decay_epochs, at_least(0),
              "the weight decay ends after so many epochs; 0: it does not");
  visitor.key("l1", optimizer.l1, at_least(0), "L1 penalty of every parameter, in any update rule");
  visitor.key("momentum", optimizer.momentum, between(0, 1), "sgd: share of the last update that is kept");
  visitor.key("dampening", optimizer.dampening, between(0, 1),
              "sgd: share of the gradient that does not enter the momentum");
  visitor.key("nesterov", optimizer.nesterov, "sgd: look ahead along the momentum");
  visitor.key("beta1", optimizer.beta1, between(0, 0.999999), "adam, adamw: decay of the mean");
  visitor.key("beta2", optimizer.beta2, between(0, 0.9999999), "adam, adamw: decay of the mean square");
  visitor.key("epsilon", optimizer.epsilon, above(0), "adam, adamw: added to the root of the mean square");
}

void visit(ScheduleRecipe& schedule, KeyVisitor& visitor) {
  visitor.section("schedule", "the learning rate over time");
  visitor.key("name", schedule.name, Words{"constant", "step", "cosine", "plateau"},
              "course after the warm-up");
  visitor.key("unit", schedule.unit, Words{"epoch", "step"}, "of warmup, milestones and step_size");
  visitor.key("warmup", schedule.warmup, at_least(0), "length of the linear warm-up; 0: none");
  visitor.key("warmup_factor", schedule.warmup_factor, between(0, 1),
              "share of the rate that warm-up starts from");
  visitor.key("milestones", schedule.milestones, above(0), "step: multiply by gamma at each");
  visitor.key("step_size", schedule.step_size, at_least(0),
              "step: multiply by gamma every so much; 0: at milestones only");
  visitor.key("gamma", schedule.gamma, above(0), "step: factor");
  visitor.key("minimum", schedule.minimum, at_least(0), "cosine, plateau: smallest rate");
  visitor.key("per", schedule.per, Words{"step", "epoch"}, "cosine: how often the rate changes");
  visitor.key("metric", schedule.metric, Words{"validation_loss", "validation_accuracy", "train_loss"},
              "plateau");
  visitor.key("factor", schedule.factor, Limits{.minimum = 0, .maximum = 1, .above_minimum = true},
              "plateau");
  visitor.key("patience", schedule.patience, at_least(0),
              "plateau: epochs without a better metric that are endured");
  visitor.key("threshold", schedule.threshold, at_least(0),
              "plateau: a metric must be better than the best by so much");
  visitor.key("threshold_mode", schedule.threshold_mode, Words{"relative", "absolute"},
              "plateau: threshold as a share of the best metric, or as a difference");
  visitor.key("cooldown", schedule.cooldown, at_least(0), "plateau: epochs not counted after a drop");
}

void visit(PrecisionRecipe& precision, KeyVisitor& visitor) {
  visitor.section("precision", "the numbers that the three GEMMs of training run on");
  visitor.key("policy", precision.policy, Words{},
              "who chooses the precisions: \"apt\", \"static:8/8/16\", \"float32\", ... (docs/policies.md)");
  visitor.key("arithmetic", precision.arithmetic, Words{"integer", "simulated"},
              "integer kernels, or float arithmetic on quantised values");
  visitor.key("reduced_axis", precision.reduced_axis, Words{"auto", "requantise", "float"},
              "an operand whose scales vary along the axis that a GEMM sums over is quantised again with one "
              "scale, or "
              "that GEMM runs in float32; auto: requantise in integer arithmetic, float in simulated");
  visitor.key(
      "fused", precision.fused,
      "run blocks of convolution, norm, residual and activation in one; false: one module after another");
  visitor.key("between", precision.between, Words{"auto", "float32", "bfloat16"},
              "what fused blocks store between their passes; auto: as the policy asks");
  visitor.key("previous_momentum", precision.previous_momentum, between(0, 1),
              "formats with range = previous: range <- m * range + (1 - m) * new");
  visitor.key("saturation_limit", precision.saturation_limit, between(0, 1),
              "formats with range = previous: a tensor that saturated by a larger share is measured at the "
              "next step");
  visitor.key("gradient_policy", precision.gradient_policy, Words{},
              "who chooses the precision of dY, where W and X are quantised; empty: the policy");
  visitor.key("first_layer", precision.first_layer, Words{},
              "of the first layer: policy, float32, word lengths (8, or W/A/G as 8/8/16) or a policy");
  visitor.key("last_layer", precision.last_layer, Words{}, "the same of the last layer");
  visitor.key("options", precision.options,
              "named options of the policy (`bitdial policies NAME` lists them)");
  visitor.key("gradient_options", precision.gradient_options, "named options of the gradient policy");
  visitor.key("override", precision.overrides,
              "operands that follow another policy; keys of one: layers (names, patterns, @first, @last; "
              "empty: all), tensors (w, x, dy, dy_bprop, dy_wtgrad; empty: all), policy, options; or match, "
              "weight, activation, gradient (bits)");
}

}  // namespace

std::string to_string(const Limits& limits) {
  const bool open_above = std::isinf(limits.maximum);
  if (std::isinf(limits.minimum) && open_above) return {};
  if (open_above) return fmt::format("{} {}", limits.above_minimum ? ">" : ">=", limits.minimum);
  if (limits.above_minimum) return fmt::format("> {}, <= {}", limits.minimum, limits.maximum);
  return fmt::format("{} .. {}", limits.minimum, limits.maximum);
}

void visit_keys(Recipe& recipe, KeyVisitor& visitor) {
  visit(recipe.data, visitor);
  visit(recipe.augmentation, visitor);
  visit(recipe.model, visitor);
  visit(recipe.train, visitor);
  visit(recipe.optimizer, visitor);
  visit(recipe.schedule, visitor);
  visit(recipe.precision, visitor);
}

}  // namespace bitdial::train
