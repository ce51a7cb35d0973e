#pragma once

#include <cstdint>
#include <span>

#include "bitdial/core/layer_bits.h"
#include "bitdial/core/precision_schedule.h"

/// Costs in bit operations, as CPT, FracTrain and LDP count them: a GEMM of M multiply-accumulates whose
/// operands have a and b bits costs M a b. Nothing here measures time.
namespace bitdial::cost {

/// Samples that the published training costs count: 64000 iterations of 128, on ImageNet too.
inline constexpr int64_t kPublishedIterations = 64000;
inline constexpr int64_t kPublishedBatch = 128;

/// Bit operations of the three GEMMs of one step, per multiply-accumulate: FPROP w x, BPROP w dy, WTGRAD
/// x dy; b^2 + 2 b g where W and X have b bits and dY g.
double training_factor(const LayerBits& bits);
double training_factor(double forward, double gradient);

/// b^2 + 2 b g averaged over the iterations. Throws Error when the schedule is empty.
double mean_training_factor(const BitSchedule& schedule);

inline constexpr double kFloat32Factor = 3 * 32.0 * 32.0;
inline constexpr double kFw8Bw8Factor = 3 * 8.0 * 8.0;

/// 1 - cost(schedule) / cost(reference), both over their own mean iteration.
double saving(const BitSchedule& schedule, const BitSchedule& reference);

/// The operations that CPT and LDP charge a network with, for one sample: multiply-accumulates of every
/// convolution and linear layer, 2 for each output element of batch normalisation, and those of a pooling
/// module (the 8x8 pool of the CIFAR ResNets: 65 per channel).
double charged_macs(int64_t macs, int64_t norm_elements, int64_t pool_operations = 0);

/// Training cost of CPT and LDP in units of 1e9 bit operations: M* (b^2 + 2 b g) summed over iterations and
/// the samples of each.
double training_gbitops(double charged, double mean_factor, int64_t iterations = kPublishedIterations,
                        int64_t batch = kPublishedBatch);

/// Inference cost in LDP's tables, units of 1e9: M* b^2 / 2 for CIFAR, M* b^2 / 8 elsewhere. The two differ
/// by 4, so only ratios within one convention mean something.
enum class InferenceConvention : uint8_t { kCifar, kImageNet };
double inference_gbitops(double charged, double bits, InferenceConvention convention);

/// LDP, eq. 4 with the backward products of the authors' code: ((b/Bmax)^2 + 2 b/Bmax) / 3; `forward_only`:
/// (b/Bmax)^2.
double ldp_relative_cost(double bits, double max_bits, bool forward_only);
/// The same over layers that weigh f_l (operations; layers that are not quantised enter at Bmax). Throws
/// Error unless both lists have the same, positive length.
double ldp_relative_cost(std::span<const double> weights, std::span<const double> bits, double max_bits,
                         bool forward_only);
/// The one word length of all layers whose relative cost is `limit` (0 < limit <= 1).
double ldp_uniform_bits(double limit, double max_bits, bool forward_only);

/// DFQ: one option's cost in percent of float32, (a w + g w + a g) / (3 * 1024): W has w bits, X a, dY g.
double fractrain_cost_percent(double weight, double activation, double gradient);

/// The "MACs" of FracTrain's tables: cp (a fraction of float32) times the iterations until the best accuracy,
/// 128 samples each, three GEMMs of `macs` multiply-accumulates.
double fractrain_macs(double cp, int64_t iterations, double macs);

}  // namespace bitdial::cost
