// PyTorch's state dicts: a zip archive with the pickle `data.pkl` and one uncompressed entry per storage.
#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <unordered_map>

#include "bitdial/core/atomic_file.h"
#include "bitdial/core/error.h"
#include "bitdial/train/pickle.h"
#include "bitdial/train/tensor_file.h"

namespace bitdial::train {

namespace {

constexpr const char* kStateDict = "state dict";
using Kind = PickleValue::Kind;
using Entries = std::unordered_map<std::string, std::vector<std::byte>>;

struct StorageName {
  std::string_view name;
  DType type;
};

constexpr std::array<StorageName, 10> kStorages{{{"BoolStorage", DType::kBool},
                                                 {"ByteStorage", DType::kUInt8},
                                                 {"CharStorage", DType::kInt8},
                                                 {"ShortStorage", DType::kInt16},
                                                 {"IntStorage", DType::kInt32},
                                                 {"LongStorage", DType::kInt64},
                                                 {"HalfStorage", DType::kFloat16},
                                                 {"BFloat16Storage", DType::kBFloat16},
                                                 {"FloatStorage", DType::kFloat32},
                                                 {"DoubleStorage", DType::kFloat64}}};

using ReadArchive = std::unique_ptr<archive, decltype(&archive_read_free)>;
using WriteArchive = std::unique_ptr<archive, decltype(&archive_write_free)>;

std::string reason(archive* handle) {
  const char* text = archive_error_string(handle);
  return text ? text : "truncated or damaged";
}

/// All entries by their name inside the archive's one top folder: "data.pkl", "data/0".
Entries read_entries(const std::filesystem::path& path) {
  const ReadArchive handle(archive_read_new(), archive_read_free);
  archive_read_support_format_zip_seekable(handle.get());
  require(archive_read_open_filename(handle.get(), path.c_str(), size_t{1} << 20) == ARCHIVE_OK, kStateDict,
          "cannot read {}: {}", path.string(), reason(handle.get()));
  Entries entries;
  archive_entry* entry = nullptr;
  int status = 0;
  while ((status = archive_read_next_header(handle.get(), &entry)) == ARCHIVE_OK) {
    const std::string name = archive_entry_pathname(entry);
    std::vector<std::byte> content;
    std::array<std::byte, 1 << 16> chunk;
    la_ssize_t count = 0;
    while ((count = archive_read_data(handle.get(), chunk.data(), chunk.size())) > 0) {
      content.insert(content.end(), chunk.begin(), chunk.begin() + count);
    }
    require(count == 0, kStateDict, "{} is damaged at \"{}\": {}", path.string(), name, reason(handle.get()));
    entries.insert_or_assign(name.substr(name.find('/') + 1), std::move(content));
  }
  require(status == ARCHIVE_EOF, kStateDict, "{} is not a complete zip archive: {}", path.string(),
          reason(handle.get()));
  return entries;
}

std::vector<int64_t> integers(const PickleValue& tuple) {
  std::vector<int64_t> values;
  for (const PickleValue* item : tuple.items) {
    require(item->kind == Kind::kInt, kStateDict, "a shape holds something else than integers");
    values.push_back(item->integer);
  }
  return values;
}

bool is_call_of(const PickleValue& value, std::string_view function) {
  return value.kind == Kind::kObject && value.items[0]->kind == Kind::kGlobal &&
         value.items[0]->text == function;
}

/// _rebuild_parameter(tensor, ...) wraps a tensor; everything else must be _rebuild_tensor_v2(storage,
/// offset, ...).
const PickleValue* tensor_arguments(const PickleValue& value) {
  if (is_call_of(value, "torch._utils._rebuild_parameter") && !value.items[1]->items.empty()) {
    return tensor_arguments(*value.items[1]->items[0]);
  }
  return is_call_of(value, "torch._utils._rebuild_tensor_v2") ? value.items[1] : nullptr;
}

/// Copies a strided view of a storage to row-major order.
void gather(std::span<const std::byte> storage, const std::vector<int64_t>& strides, int64_t offset,
            StoredTensor& tensor) {
  const int64_t item = size_of(tensor.type);
  const auto capacity = static_cast<int64_t>(storage.size()) / item;
  int64_t count = 1;
  int64_t last = offset;
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    const int64_t size = tensor.shape[d];
    int64_t reach = 0;
    require(size >= 0 && strides[d] >= 0 && !__builtin_mul_overflow(count, size, &count) &&
                !__builtin_mul_overflow(strides[d], std::max<int64_t>(size - 1, 0), &reach) &&
                !__builtin_add_overflow(last, reach, &last),
            kStateDict, "tensor \"{}\" has the impossible shape {}", tensor.name, shape_text(tensor.shape));
  }
  require(count == 0 || (offset >= 0 && last < capacity && count <= capacity), kStateDict,
          "tensor \"{}\" of shape {} reaches beyond its storage of {} elements", tensor.name,
          shape_text(tensor.shape), capacity);
  tensor.data.resize(static_cast<size_t>(count * item));
  std::vector<int64_t> index(tensor.shape.size(), 0);
  int64_t position = offset;
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(&tensor.data[static_cast<size_t>(i * item)], &storage[static_cast<size_t>(position * item)],
                static_cast<size_t>(item));
    for (size_t d = index.size(); d-- > 0;) {
      position += strides[d];
      if (++index[d] < tensor.shape[d]) break;
      position -= strides[d] * tensor.shape[d];
      index[d] = 0;
    }
  }
}

StoredTensor read_tensor(const std::string& name, const PickleValue& arguments, const Entries& entries) {
  StoredTensor tensor;
  tensor.name = name;
  require(arguments.items.size() >= 4 && arguments.items[0]->kind == Kind::kPersistent &&
              arguments.items[0]->items[0]->items.size() >= 3 && arguments.items[1]->kind == Kind::kInt,
          kStateDict, "tensor \"{}\" is stored in an unknown way", name);
  const auto& id = arguments.items[0]->items[0]->items;  // "storage", type, key, location, elements
  const std::string_view type = id[1]->text;
  const auto* const storage = std::find_if(
      kStorages.begin(), kStorages.end(),
      [&](const StorageName& candidate) { return type == fmt::format("torch.{}", candidate.name); });
  require(storage != kStorages.end(), kStateDict, "tensor \"{}\" has the unsupported type \"{}\"", name,
          type);
  tensor.type = storage->type;
  tensor.shape = integers(*arguments.items[2]);
  const std::vector<int64_t> strides = integers(*arguments.items[3]);
  require(strides.size() == tensor.shape.size(), kStateDict, "tensor \"{}\" has {} sizes but {} strides",
          name, tensor.shape.size(), strides.size());
  const auto content = entries.find("data/" + id[2]->text);
  require(content != entries.end(), kStateDict, "the data of tensor \"{}\" is missing", name);
  gather(content->second, strides, arguments.items[1]->integer, tensor);
  return tensor;
}

/// The dictionary that holds tensors: the root, or what a training script stored it under.
const PickleValue& find_state_dict(const PickleValue& root) {
  for (const std::string_view key : {"state_dict", "model_state_dict", "model", "net"}) {
    for (const auto& [name, value] : root.entries) {
      if (name->text == key && value->kind == Kind::kDict) return *value;
    }
  }
  return root;
}

/// torch.nn.DataParallel puts "module." before every name.
void drop_common_prefix(std::vector<StoredTensor>& tensors) {
  constexpr std::string_view kPrefix = "module.";
  const bool common = std::all_of(tensors.begin(), tensors.end(), [&](const StoredTensor& tensor) {
    return tensor.name.starts_with(kPrefix);
  });
  if (!common) return;
  for (StoredTensor& tensor : tensors) tensor.name.erase(0, kPrefix.size());
}

void add_entry(archive* handle, const std::string& name, std::span<const std::byte> content) {
  const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                            archive_entry_free);
  archive_entry_set_pathname(entry.get(), ("archive/" + name).c_str());
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(content.size()));
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_perm(entry.get(), 0644);
  const bool written =
      archive_write_header(handle, entry.get()) == ARCHIVE_OK &&
      archive_write_data(handle, content.data(), content.size()) == static_cast<la_ssize_t>(content.size());
  require(written, kStateDict, "cannot write \"{}\": {}", name, reason(handle));
}

void add_entry(archive* handle, const std::string& name, std::string_view content) {
  add_entry(handle, name, std::as_bytes(std::span(content)));
}

/// torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())
void write_tensor(PickleWriter& pickle, const StoredTensor& tensor, size_t key) {
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.mark();
  pickle.mark();
  pickle.text("storage");
  pickle.global("torch", kStorages[static_cast<size_t>(tensor.type)].name);
  pickle.text(std::to_string(key));
  pickle.text("cpu");
  pickle.integer(tensor.elements());
  pickle.tuple();
  pickle.persistent_id();
  pickle.integer(0);
  pickle.mark();
  for (const int64_t size : tensor.shape) pickle.integer(size);
  pickle.tuple();
  pickle.mark();
  int64_t stride = tensor.elements();
  for (const int64_t size : tensor.shape) pickle.integer(stride /= std::max<int64_t>(size, 1));
  pickle.tuple();
  pickle.boolean(false);
  pickle.global("collections", "OrderedDict");
  pickle.empty_tuple();
  pickle.reduce();
  pickle.tuple();
  pickle.reduce();
}

la_ssize_t collect(archive*, void* out, const void* data, size_t size) {
  auto& bytes = *static_cast<std::vector<std::byte>*>(out);
  const auto* const begin = static_cast<const std::byte*>(data);
  bytes.insert(bytes.end(), begin, begin + size);
  return static_cast<la_ssize_t>(size);
}

}  // namespace

TensorFile read_state_dict(const std::filesystem::path& path) {
  const Entries entries = read_entries(path);
  const auto data = entries.find("data.pkl");
  require(data != entries.end(), kStateDict, "{} holds no data.pkl: it was not written by torch.save",
          path.string());
  const Pickle pickle = Pickle::parse(data->second);
  const PickleValue& root = pickle.root();
  require(root.kind == Kind::kDict, kStateDict,
          "{} holds something else than a dictionary of tensors: save model.state_dict(), not the model",
          path.string());
  TensorFile file;
  for (const auto& [name, value] : find_state_dict(root).entries) {
    if (const PickleValue* arguments = tensor_arguments(*value)) {
      file.tensors.push_back(read_tensor(name->text, *arguments, entries));
    }
  }
  require(!file.tensors.empty(), kStateDict, "{} holds no tensors", path.string());
  drop_common_prefix(file.tensors);
  return file;
}

void write_state_dict(const std::filesystem::path& path, const TensorFile& file) {
  PickleWriter pickle;
  pickle.global("collections", "OrderedDict");
  pickle.empty_tuple();
  pickle.reduce();
  pickle.mark();
  for (size_t i = 0; i < file.tensors.size(); ++i) {
    pickle.text(file.tensors[i].name);
    write_tensor(pickle, file.tensors[i], i);
  }
  pickle.set_items();

  std::vector<std::byte> bytes;
  {
    const WriteArchive handle(archive_write_new(), archive_write_free);
    archive_write_set_format_zip(handle.get());
    archive_write_zip_set_compression_store(handle.get());
    archive_write_set_bytes_in_last_block(handle.get(), 1);
    archive_write_open(handle.get(), &bytes, nullptr, collect, nullptr);
    add_entry(handle.get(), "data.pkl", pickle.finish());
    add_entry(handle.get(), "byteorder", "little");
    for (size_t i = 0; i < file.tensors.size(); ++i) {
      add_entry(handle.get(), fmt::format("data/{}", i), file.tensors[i].data);
    }
    add_entry(handle.get(), "version", "3\n");
    require(archive_write_close(handle.get()) == ARCHIVE_OK, kStateDict, "cannot write {}: {}", path.string(),
            reason(handle.get()));
  }
  const std::span<const std::byte> part = bytes;
  write_atomically(path, {&part, 1});
}

}  // namespace bitdial::train
