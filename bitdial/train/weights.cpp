#include "bitdial/train/weights.h"

#include <array>
#include <cstring>
#include <map>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"

namespace bitdial::train {

namespace {

/// In the order of DType.
constexpr std::array<torch::ScalarType, 10> kScalarTypes{
    torch::kBool,  torch::kUInt8, torch::kInt8,     torch::kInt16,   torch::kInt32,
    torch::kInt64, torch::kHalf,  torch::kBFloat16, torch::kFloat32, torch::kFloat64};

DType dtype_of(const std::string& name, torch::ScalarType type) {
  const auto* const found = std::find(kScalarTypes.begin(), kScalarTypes.end(), type);
  require(found != kScalarTypes.end(), "weights", "tensor \"{}\" has a type that cannot be stored: {}", name,
          c10::toString(type));
  return static_cast<DType>(found - kScalarTypes.begin());
}

std::map<std::string, torch::Tensor> named_tensors(const torch::nn::Module& module) {
  std::map<std::string, torch::Tensor> tensors;
  for (const auto& item : module.named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) tensors[item.key()] = item.value();
  return tensors;
}

}  // namespace

StoredTensor to_stored(const std::string& name, const torch::Tensor& tensor) {
  const torch::Tensor dense = tensor.detach().cpu().contiguous();
  StoredTensor stored;
  stored.name = name;
  stored.type = dtype_of(name, dense.scalar_type());
  stored.shape = dense.sizes().vec();
  stored.data.resize(dense.nbytes());
  if (!stored.data.empty()) std::memcpy(stored.data.data(), dense.const_data_ptr(), stored.data.size());
  return stored;
}

torch::Tensor from_stored(const StoredTensor& stored) {
  torch::Tensor tensor = torch::empty(stored.shape, kScalarTypes[static_cast<size_t>(stored.type)]);
  require(tensor.nbytes() == stored.data.size(), "weights", "tensor \"{}\" has {} bytes, its shape needs {}",
          stored.name, stored.data.size(), tensor.nbytes());
  if (!stored.data.empty()) std::memcpy(tensor.mutable_data_ptr(), stored.data.data(), stored.data.size());
  return tensor;
}

std::map<std::string, torch::Tensor> from_stored(const TensorFile& file) {
  std::map<std::string, torch::Tensor> tensors;
  for (const StoredTensor& tensor : file.tensors) tensors[tensor.name] = from_stored(tensor);
  return tensors;
}

TensorFile export_weights(const torch::nn::Module& module) {
  // PyTorch's order: a module's parameters, its buffers, then its children.
  TensorFile file;
  for (const auto& child : module.named_modules("", /*include_self=*/true)) {
    const std::string prefix = child.key().empty() ? "" : child.key() + ".";
    for (const auto& item : child.value()->named_parameters(/*recurse=*/false)) {
      file.tensors.push_back(to_stored(prefix + item.key(), item.value()));
    }
    for (const auto& item : child.value()->named_buffers(/*recurse=*/false)) {
      file.tensors.push_back(to_stored(prefix + item.key(), item.value()));
    }
  }
  return file;
}

void import_weights(torch::nn::Module& module, const TensorFile& file, const std::string& source) {
  torch::NoGradGuard no_grad;
  auto expected = named_tensors(module);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : expected) names.push_back(name);
  for (const StoredTensor& stored : file.tensors) {
    const auto found = expected.find(stored.name);
    if (found == expected.end()) {
      fail("init", "{} holds tensor \"{}\" of shape {}, which the network does not have{}", source,
           stored.name, shape_text(stored.shape), suggestion(stored.name, names));
    }
    require(found->second.sizes() == stored.shape, "init",
            "tensor \"{}\" has shape {} in {}, the network expects {}", stored.name, shape_text(stored.shape),
            source, shape_text(found->second.sizes()));
    found->second.copy_(from_stored(stored));
    expected.erase(found);
  }
  for (const auto& [name, tensor] : expected) {
    require(name.ends_with("num_batches_tracked"), "init", "{} lacks tensor \"{}\" of shape {}", source, name,
            shape_text(tensor.sizes()));
  }
}

}  // namespace bitdial::train
