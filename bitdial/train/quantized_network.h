#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/train/checkpoint.h"
#include "bitdial/train/tensor_file.h"

/// What a run delivers whose policy quantises the parameters themselves (AdaPT, MuPPET): the network as it
/// computes, where checkpoints hold the float32 masters.
namespace bitdial::train {

/// How a parameter of the file is to be read.
struct QuantizedTensor {
  std::string name;
  int word_length = 32;                ///< bits; 32 without a fraction length: not quantised
  std::optional<int> fraction_length;  ///< values are multiples of 2^-fraction_length
  double zeros = 0.0;                  ///< share
};

/// A safetensors file with the names and shapes of PyTorch's state_dict() and float32 values, which hold the
/// fixed-point values exactly: whatever reads weights reads it. Metadata: "bitdial_formats", per parameter
/// {word_length, fraction_length, zeros} as JSON, and "bitdial_network", everything that evaluation needs.
struct QuantizedNetwork {
  NetworkDescription network;
  int64_t epochs = 0, steps = 0;  ///< trained
  nlohmann::json session;         ///< formats of the other operands, policy state, running ranges
  double zeros = 0.0;             ///< share in the weights of layers: what sparse inference could skip
  std::vector<QuantizedTensor> formats;
  TensorFile weights;  ///< parameters and buffers
};

/// Atomic: the old file or the new one, never a part.
void write_quantized_network(const std::filesystem::path& path, const QuantizedNetwork& quantized);

/// Throws Error that names the file and what is wrong with it.
QuantizedNetwork read_quantized_network(const std::filesystem::path& path);

/// What evaluation needs, of a checkpoint or of a quantised network.
struct TrainedNetwork {
  Checkpoint checkpoint;      ///< of a quantised network only what evaluation finds in a checkpoint
  bool is_quantized = false;  ///< the weights are those that the network computes with
};

/// Throws Error as read_checkpoint and read_quantized_network do.
TrainedNetwork read_trained_network(const std::filesystem::path& path);

}  // namespace bitdial::train
