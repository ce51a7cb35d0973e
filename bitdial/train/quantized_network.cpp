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

bool is_quantized_network(const TensorFile& file) { return file.metadata.contains(kNetworkKey); }

QuantizedNetwork to_quantized_network(TensorFile file, const std::filesystem::path& path) {
  require(is_quantized_network(file), "network", "{} holds tensors but is not a quantised network of bitdial",
          path.string());
  QuantizedNetwork quantized;
  try {
    const nlohmann::json json = nlohmann::json::parse(file.metadata.at(kNetworkKey));
    const int version = json.at("version").get<int>();
    require(version == kNetworkVersion, "network", "{} has version {}, this program reads {}", path.string(),
            version, kNetworkVersion);
    json.get_to(quantized.network);
    json.at("epochs").get_to(quantized.epochs);
    json.at("steps").get_to(quantized.steps);
    quantized.session = json.at("session");
    json.at("zeros").get_to(quantized.zeros);
    quantized.formats = formats_from(nlohmann::ordered_json::parse(file.metadata.at(kFormatsKey)));
  } catch (const nlohmann::json::exception& error) {
    fail("network", "{} is damaged: {}", path.string(), error.what());
  } catch (const std::out_of_range&) {
    fail("network", "{} is damaged: it lacks {}", path.string(), kFormatsKey);
  }
  quantized.weights.tensors = std::move(file.tensors);
  return quantized;
}

Checkpoint to_checkpoint(QuantizedNetwork quantized) {
  Checkpoint checkpoint;
  checkpoint.network = std::move(quantized.network);
  checkpoint.progress.epoch = quantized.epochs;
  checkpoint.progress.step = quantized.steps;
  checkpoint.session = std::move(quantized.session);
  checkpoint.tensors = std::move(quantized.weights.tensors);
  for (StoredTensor& tensor : checkpoint.tensors) tensor.name.insert(0, "model.");
  return checkpoint;
}

}  // namespace

void write_quantized_network(const std::filesystem::path& path, const QuantizedNetwork& quantized) {
  nlohmann::json json = quantized.network;
  json.update({{"version", kNetworkVersion},
               {"epochs", quantized.epochs},
               {"steps", quantized.steps},
               {"session", quantized.session},
               {"zeros", quantized.zeros}});
  TensorFile file;
  file.tensors = quantized.weights.tensors;
  file.metadata[kNetworkKey] = json.dump();
  file.metadata[kFormatsKey] = formats_json(quantized.formats).dump();
  write_safetensors(path, file);
}

QuantizedNetwork read_quantized_network(const std::filesystem::path& path) {
  return to_quantized_network(read_safetensors(path), path);
}

TrainedNetwork read_trained_network(const std::filesystem::path& path) {
  TensorFile file = read_safetensors(path);
  if (!is_quantized_network(file)) return {to_checkpoint(std::move(file), path), false};
  return {to_checkpoint(to_quantized_network(std::move(file), path)), true};
}

}  // namespace bitdial::train
