#include "bitdial/train/quantized_network.h"

#include <stdexcept>

#include "bitdial/core/error.h"

namespace bitdial::train {

namespace {

constexpr const char* kNetworkKey = "bitdial_network";
constexpr const char* kFormatsKey = "bitdial_formats";
constexpr int kNetworkVersion = 1;

nlohmann::ordered_json formats_json(const std::vector<QuantizedTensor>& formats) {
  nlohmann::ordered_json all = nlohmann::ordered_json::object();
  for (const QuantizedTensor& one : formats) {
    nlohmann::ordered_json json{{"word_length", one.word_length}};
    if (one.fraction_length) json["fraction_length"] = *one.fraction_length;
    json["zeros"] = one.zeros;
    all[one.name] = std::move(json);
  }
  return all;
}

std::vector<QuantizedTensor> formats_from(const nlohmann::ordered_json& json) {
  std::vector<QuantizedTensor> formats;
  for (const auto& [name, one] : json.items()) {
    QuantizedTensor& format = formats.emplace_back();
    format.name = name;
    one.at("word_length").get_to(format.word_length);
    if (one.contains("fraction_length")) format.fraction_length = one.at("fraction_length").get<int>();
    one.at("zeros").get_to(format.zeros);
  }
  return formats;
}

}  // namespace

void write_quantized_network(const std::filesystem::path& path, const QuantizedNetwork& network) {
  const nlohmann::json json{{"version", kNetworkVersion},
                            {"recipe", network.recipe},
                            {"model", network.model},
                            {"classes", network.classes},
                            {"in_channels", network.in_channels},
                            {"image_size", network.image_size},
                            {"epochs", network.epochs},
                            {"steps", network.steps},
                            {"session", network.session},
                            {"zeros", network.zeros}};
  TensorFile file;
  file.tensors = network.weights.tensors;
  file.metadata[kNetworkKey] = json.dump();
  file.metadata[kFormatsKey] = formats_json(network.formats).dump();
  write_safetensors(path, file);
}

bool is_quantized_network(const TensorFile& file) { return file.metadata.contains(kNetworkKey); }

QuantizedNetwork read_quantized_network(const std::filesystem::path& path) {
  TensorFile file = read_safetensors(path);
  require(is_quantized_network(file), "network", "{} holds tensors but is not a quantised network of bitdial",
          path.string());
  QuantizedNetwork network;
  try {
    const nlohmann::json json = nlohmann::json::parse(file.metadata.at(kNetworkKey));
    const int version = json.at("version").get<int>();
    require(version == kNetworkVersion, "network", "{} has version {}, this program reads {}", path.string(),
            version, kNetworkVersion);
    json.at("recipe").get_to(network.recipe);
    json.at("model").get_to(network.model);
    json.at("classes").get_to(network.classes);
    json.at("in_channels").get_to(network.in_channels);
    json.at("image_size").get_to(network.image_size);
    json.at("epochs").get_to(network.epochs);
    json.at("steps").get_to(network.steps);
    network.session = json.at("session");
    json.at("zeros").get_to(network.zeros);
    network.formats = formats_from(nlohmann::ordered_json::parse(file.metadata.at(kFormatsKey)));
  } catch (const nlohmann::json::exception& error) {
    fail("network", "{} is damaged: {}", path.string(), error.what());
  } catch (const std::out_of_range&) {
    fail("network", "{} is damaged: it lacks {}", path.string(), kFormatsKey);
  }
  network.weights.tensors = std::move(file.tensors);
  return network;
}

Checkpoint to_checkpoint(const QuantizedNetwork& network) {
  Checkpoint checkpoint;
  checkpoint.recipe = network.recipe;
  checkpoint.model = network.model;
  checkpoint.classes = network.classes;
  checkpoint.in_channels = network.in_channels;
  checkpoint.image_size = network.image_size;
  checkpoint.progress.epoch = network.epochs;
  checkpoint.progress.step = network.steps;
  checkpoint.session = network.session;
  for (const StoredTensor& tensor : network.weights.tensors) {
    checkpoint.tensors.push_back(tensor);
    checkpoint.tensors.back().name.insert(0, "model.");
  }
  return checkpoint;
}

}  // namespace bitdial::train
