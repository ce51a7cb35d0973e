#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Named tensors on disk: safetensors and PyTorch state dicts, read and written without LibTorch.
namespace bitdial::train {

enum class DType : uint8_t {
  kBool,
  kUInt8,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64
};
std::string_view to_string(DType type);  ///< "bool", "uint8", ..., "float32"
int64_t size_of(DType type);             ///< bytes of one element

/// A dense tensor in row-major order.
struct StoredTensor {
  std::string name;
  DType type = DType::kFloat32;
  std::vector<int64_t> shape;
  std::vector<std::byte> data;

  int64_t elements() const;
};

struct TensorFile {
  std::vector<StoredTensor> tensors;
  std::map<std::string, std::string> metadata;  ///< safetensors only

  const StoredTensor* find(std::string_view name) const;
};

/// Throws Error that names the file and what is wrong with it: no file, header longer than the file, offsets
/// outside the data or overlapping, sizes that do not fit shape and type.
TensorFile read_safetensors(const std::filesystem::path& path);

/// Atomic: a temporary file, fsync, rename.
void write_safetensors(const std::filesystem::path& path, const TensorFile& file);

/// The tensors of a file written by torch.save(model.state_dict()), in the zip format of PyTorch >= 1.6. Only
/// tensors and plain containers are interpreted; nothing in the file is executed. A dictionary that holds a
/// state dict under "state_dict", "model_state_dict", "model" or "net" is unwrapped, and a prefix "module."
/// common to all names dropped.
TensorFile read_state_dict(const std::filesystem::path& path);

/// What torch.load(path, weights_only=True) reads as a dictionary. Atomic.
void write_state_dict(const std::filesystem::path& path, const TensorFile& file);

/// Either format, told apart by content.
TensorFile read_weights(const std::filesystem::path& path);

/// By extension: .safetensors, or .pt / .pth for a state dict.
void write_weights(const std::filesystem::path& path, const TensorFile& file);

/// "[64, 3, 3, 3]"
std::string shape_text(std::span<const int64_t> shape);

}  // namespace bitdial::train
