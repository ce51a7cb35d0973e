#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/cost/kernel_table.h"
#include "bitdial/models/zoo.h"
#include "bitdial/nn/session.h"

namespace bitdial::models {
class Network;
}

/// Measured times for policies that decide by speed.
namespace bitdial::train {

/// Whether a layer has GEMMs: convolutions and linear layers.
bool has_gemms(const models::LayerRow& row);

/// The GEMM shape of a layer for `batch` samples.
kernels::ConvShape gemm_shape(const models::LayerRow& row, int64_t batch);

/// Called before and after each measurement.
using MeasureProgress = std::function<void(int64_t done, int64_t all)>;

/// Times of these layers' GEMMs and passes; the index is the layer. Measures first what the table does not
/// know of them, without `with_int16` the GEMMs in int16 when they are asked for.
std::shared_ptr<Timings> make_timings(std::shared_ptr<cost::KernelTable> table,
                                      std::vector<kernels::ConvShape> shapes, bool with_int16,
                                      const MeasureProgress& progress = {});

/// The GEMMs of these layers in int8, bfloat16 and float32 (`with_int16`: in int16, too); the first layer has
/// no BPROP.
std::vector<cost::GemmWork> gemm_works(std::span<const kernels::ConvShape> shapes, bool with_int16);

/// Gives the session's policy the times of its network's layers for batches of `batch` samples, if it asks
/// for them. After attach. `trusting`: as KernelTable::open. Throws Error when the session has a layer that
/// the network's table does not list.
void provide_timings(nn::Session& session, const models::Network& network, int64_t batch,
                     const MeasureProgress& progress = {}, bool trusting = false);

}  // namespace bitdial::train
