#pragma once

#include <torch/torch.h>

#include <map>
#include <string>

#include "bitdial/train/tensor_file.h"

/// Between tensors in memory and tensors in files.
namespace bitdial::train {

StoredTensor to_stored(const std::string& name, const torch::Tensor& tensor);
torch::Tensor from_stored(const StoredTensor& stored);
/// All of them, by name.
std::map<std::string, torch::Tensor> from_stored(const TensorFile& file);

/// Parameters and buffers by their names in the module tree, as PyTorch's state_dict().
TensorFile export_weights(const torch::nn::Module& module);

/// Copies every tensor of `file` into the module. Throws Error that names the tensor and both shapes on a
/// mismatch, a tensor that the module does not have, and a parameter that the file lacks. `source` names the
/// file in messages. The counter num_batches_tracked may be missing: it does not enter any result.
void import_weights(torch::nn::Module& module, const TensorFile& file, const std::string& source);

}  // namespace bitdial::train
