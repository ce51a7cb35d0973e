#include "bitdial/train/tensor_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "bitdial/core/error.h"

namespace bitdial::train {

namespace {

struct TypeRow {
  DType type;
  std::string_view name;
  int64_t size;
};

constexpr std::array<TypeRow, 10> kTypes{{{DType::kBool, "bool", 1},
                                          {DType::kUInt8, "uint8", 1},
                                          {DType::kInt8, "int8", 1},
                                          {DType::kInt16, "int16", 2},
                                          {DType::kInt32, "int32", 4},
                                          {DType::kInt64, "int64", 8},
                                          {DType::kFloat16, "float16", 2},
                                          {DType::kBFloat16, "bfloat16", 2},
                                          {DType::kFloat32, "float32", 4},
                                          {DType::kFloat64, "float64", 8}}};

}  // namespace

std::string_view to_string(DType type) { return kTypes[static_cast<size_t>(type)].name; }
int64_t size_of(DType type) { return kTypes[static_cast<size_t>(type)].size; }

int64_t StoredTensor::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

const StoredTensor* TensorFile::find(std::string_view name) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const StoredTensor& tensor) { return tensor.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

std::string shape_text(std::span<const int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

TensorFile read_weights(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::array<char, 2> magic{};
  stream.read(magic.data(), magic.size());
  require(magic != std::array<char, 2>{'\x80', '\x02'}, "state dict",
          "{} is in PyTorch's format before 1.6: load it in Python and save it again with torch.save",
          path.string());
  // A zip archive starts with "PK"; a safetensors file with the length of its header, which is never that
  // long.
  return magic == std::array<char, 2>{'P', 'K'} ? read_state_dict(path) : read_safetensors(path);
}

void write_weights(const std::filesystem::path& path, const TensorFile& file) {
  const std::string extension = path.extension().string();
  if (extension == ".safetensors") return write_safetensors(path, file);
  require(extension == ".pt" || extension == ".pth", "export",
          "file name must end in .safetensors, .pt or .pth, got \"{}\"", path.filename().string());
  write_state_dict(path, file);
}

}  // namespace bitdial::train
