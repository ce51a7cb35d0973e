#pragma once

#include <vector>

#include "bitdial/train/reproduce.h"

/// The cells of each group: published figures with their source, and the call that computes ours. Not part of
/// the public interface.
namespace bitdial::train::cells {

std::vector<ReproducedCell> adapt_model();
std::vector<ReproducedCell> apt_throughput();
std::vector<ReproducedCell> fractrain_options();
std::vector<ReproducedCell> fractrain_macs();
std::vector<ReproducedCell> cpt_schedule();
std::vector<ReproducedCell> cpt_cifar();
std::vector<ReproducedCell> cpt_imagenet();
std::vector<ReproducedCell> cpt_imagenet_cyclic();
std::vector<ReproducedCell> cpt_savings();
std::vector<ReproducedCell> network_macs();
std::vector<ReproducedCell> training_cost();
std::vector<ReproducedCell> ldp_training();
std::vector<ReproducedCell> ldp_training_resnet20();
std::vector<ReproducedCell> ldp_inference();
std::vector<ReproducedCell> ldp_random();
std::vector<ReproducedCell> ldp_unit();
std::vector<ReproducedCell> inference();

/// A tolerance relative to the published figure.
ReproducedCell relative(std::string name, double paper, double ours, double tolerance);

/// M* of a network of the zoo.
double m_star(const char* model, int64_t classes);

}  // namespace bitdial::train::cells
