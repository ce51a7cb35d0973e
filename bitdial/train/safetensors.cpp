// The safetensors format: 8 bytes little-endian length of the header, the header as JSON, the data.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "bitdial/core/atomic_file.h"
#include "bitdial/core/error.h"
#include "bitdial/train/tensor_file.h"

namespace bitdial::train {

static_assert(std::endian::native == std::endian::little, "tensors are stored as they lie in memory");

namespace {

constexpr const char* kSafetensors = "safetensors";
constexpr size_t kLengthBytes = 8;

constexpr std::array<std::pair<std::string_view, DType>, 10> kTypeCodes{{{"BOOL", DType::kBool},
                                                                         {"U8", DType::kUInt8},
                                                                         {"I8", DType::kInt8},
                                                                         {"I16", DType::kInt16},
                                                                         {"I32", DType::kInt32},
                                                                         {"I64", DType::kInt64},
                                                                         {"F16", DType::kFloat16},
                                                                         {"BF16", DType::kBFloat16},
                                                                         {"F32", DType::kFloat32},
                                                                         {"F64", DType::kFloat64}}};

std::string_view type_code(DType type) {
  return std::find_if(kTypeCodes.begin(), kTypeCodes.end(),
                      [&](const auto& row) { return row.second == type; })
      ->first;
}

DType parse_type(const std::string& code, const std::string& where) {
  const auto* const row = std::find_if(kTypeCodes.begin(), kTypeCodes.end(),
                                       [&](const auto& entry) { return entry.first == code; });
  require(row != kTypeCodes.end(), kSafetensors, "{}: unknown type \"{}\"", where, code);
  return row->second;
}

/// Bytes of a dense tensor, or an Error when the product does not fit 63 bits.
int64_t checked_bytes(const std::vector<int64_t>& shape, DType type, const std::string& where) {
  int64_t bytes = size_of(type);
  for (const int64_t size : shape) {
    require(size >= 0 && !__builtin_mul_overflow(bytes, size, &bytes), kSafetensors,
            "{}: impossible shape {}", where, shape_text(shape));
  }
  return bytes;
}

struct Extent {
  int64_t begin, end;
  std::string name;
};

StoredTensor read_tensor(const std::string& name, const nlohmann::json& entry,
                         std::span<const std::byte> data, const std::string& file, Extent& extent) {
  const std::string where = fmt::format("{}: tensor \"{}\"", file, name);
  StoredTensor tensor;
  tensor.name = name;
  std::array<int64_t, 2> offsets{};
  try {
    tensor.type = parse_type(entry.at("dtype").get<std::string>(), where);
    tensor.shape = entry.at("shape").get<std::vector<int64_t>>();
    offsets = entry.at("data_offsets").get<std::array<int64_t, 2>>();
  } catch (const nlohmann::json::exception&) {
    fail(kSafetensors, "{} has no valid dtype, shape and data_offsets", where);
  }
  const int64_t bytes = checked_bytes(tensor.shape, tensor.type, where);
  require(offsets[0] >= 0 && offsets[0] <= offsets[1] && std::cmp_less_equal(offsets[1], data.size()),
          kSafetensors, "{} lies at bytes {} to {} of {}: the file is truncated or damaged", where,
          offsets[0], offsets[1], data.size());
  require(offsets[1] - offsets[0] == bytes, kSafetensors, "{} has {} bytes, its shape {} of {} needs {}",
          where, offsets[1] - offsets[0], shape_text(tensor.shape), to_string(tensor.type), bytes);
  const auto content = data.subspan(static_cast<size_t>(offsets[0]), static_cast<size_t>(bytes));
  tensor.data.assign(content.begin(), content.end());
  extent = {offsets[0], offsets[1], name};
  return tensor;
}

/// The format allows neither overlaps nor holes: both mean that the offsets are not to be trusted.
void check_extents(std::vector<Extent> extents, size_t data_size, const std::string& file) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t position = 0;
  for (const Extent& extent : extents) {
    require(extent.begin == position, kSafetensors, "{}: tensor \"{}\" begins at byte {}, expected {}", file,
            extent.name, extent.begin, position);
    position = extent.end;
  }
  require(std::cmp_equal(position, data_size), kSafetensors, "{}: {} bytes of data, tensors need {}", file,
          data_size, position);
}

}  // namespace

TensorFile read_safetensors(const std::filesystem::path& path) {
  const std::string name = path.string();
  const std::vector<std::byte> bytes = read_bytes(path);
  uint64_t header_size = 0;
  require(bytes.size() >= kLengthBytes, kSafetensors, "{} is not a safetensors file: {} bytes", name,
          bytes.size());
  std::memcpy(&header_size, bytes.data(), kLengthBytes);
  require(header_size <= bytes.size() - kLengthBytes, kSafetensors,
          "{} is not a safetensors file or truncated: header of {} bytes in a file of {}", name, header_size,
          bytes.size());
  const auto* const text = reinterpret_cast<const char*>(bytes.data()) + kLengthBytes;
  const nlohmann::json header = nlohmann::json::parse(text, text + header_size, nullptr, false);
  require(header.is_object(), kSafetensors, "{}: the header is not a JSON object", name);

  const std::span<const std::byte> data =
      std::span(bytes).subspan(kLengthBytes + static_cast<size_t>(header_size));
  TensorFile file;
  std::vector<Extent> extents;
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") {
      for (const auto& [name_of_value, value] : entry.items()) {
        require(value.is_string(), kSafetensors, "{}: metadata \"{}\" is not a text", name, name_of_value);
        file.metadata[name_of_value] = value.get<std::string>();
      }
      continue;
    }
    file.tensors.push_back(read_tensor(key, entry, data, name, extents.emplace_back()));
  }
  check_extents(std::move(extents), data.size(), name);
  return file;
}

void write_safetensors(const std::filesystem::path& path, const TensorFile& file) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!file.metadata.empty()) header["__metadata__"] = file.metadata;
  std::vector<std::span<const std::byte>> parts(2);
  int64_t offset = 0;
  for (const StoredTensor& tensor : file.tensors) {
    const auto end = offset + static_cast<int64_t>(tensor.data.size());
    require(checked_bytes(tensor.shape, tensor.type, tensor.name) == end - offset &&
                !header.contains(tensor.name),
            kSafetensors, "tensor \"{}\" is given twice or its data does not fit its shape", tensor.name);
    header[tensor.name] = {
        {"dtype", type_code(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    parts.emplace_back(tensor.data);
    offset = end;
  }
  std::string text = header.dump();
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');  // data starts aligned
  const uint64_t size = text.size();
  parts[0] = std::as_bytes(std::span(&size, 1));
  parts[1] = std::as_bytes(std::span(text));
  write_atomically(path, parts);
}

}  // namespace bitdial::train
