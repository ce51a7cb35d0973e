#include "bitdial/nn/session.h"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"
#include "bitdial/nn/intercept.h"
#include "bitdial/nn/session_core.h"

namespace bitdial::nn {
namespace {

constexpr std::array<TensorRole, kTensorRoles> kRoles = {
    TensorRole::kWeight,     TensorRole::kInput,  TensorRole::kInputWtgrad, TensorRole::kGradBprop,
    TensorRole::kGradWtgrad, TensorRole::kOutput, TensorRole::kGradInput};

std::string arithmetic_of(const LayerBinding& layer, TensorRole role, Arithmetic arithmetic) {
  std::string names;
  const std::vector<Gemm> gemms = readers(role, false);
  if (gemms.empty()) return "float32";  // a result: float values on their grid
  for (const Gemm gemm : gemms) {
    if (!layer.gemm(gemm).is_known) continue;
    const std::string name(arithmetic_name(layer.gemm(gemm), arithmetic));
    if (names.empty()) {
      names = name;
    } else if (names != name) {
      names += "," + name;
    }
  }
  return names;
}

nlohmann::json to_json(const std::optional<Range>& range) {
  return range ? nlohmann::json{range->min, range->max} : nlohmann::json();
}

std::optional<Range> read_range(const nlohmann::json& json) {
  if (json.is_null()) return std::nullopt;
  return Range{json.at(0).get<float>(), json.at(1).get<float>()};
}

nlohmann::json to_json(const TensorRecord& record) {
  return {{"format", record.format},
          {"params", record.params},
          {"prescribed", record.is_prescribed},
          {"running", to_json(record.running)},
          {"previous", to_json(record.previous)},
          {"measure_next", record.measure_next}};
}

TensorRecord read_record(const nlohmann::json& json) {
  TensorRecord record;
  record.is_planned = true;
  record.format = json.at("format").get<Format>();
  record.params = json.at("params").get<std::vector<QuantParams>>();
  record.is_prescribed = json.at("prescribed").get<bool>();
  record.running = read_range(json.at("running"));
  record.previous = read_range(json.at("previous"));
  record.measure_next = json.at("measure_next").get<bool>();
  return record;
}

nlohmann::json layer_state(const LayerInfo& info, const LayerBinding& layer) {
  nlohmann::json tensors = nlohmann::json::object();
  for (const TensorRole role : kRoles) {
    if (layer.record(role).is_planned) tensors[std::string(to_string(role))] = to_json(layer.record(role));
  }
  nlohmann::json gemms = nlohmann::json::array();
  for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
    const GemmRecord& record = layer.gemm(gemm);
    gemms.push_back(record.is_known
                        ? nlohmann::json{record.bits_a, record.bits_b, record.is_integer, record.is_bfloat16}
                        : nullptr);
  }
  return {{"name", info.name}, {"macs", info.macs}, {"tensors", tensors}, {"gemms", gemms}};
}

void load_layer(const nlohmann::json& json, LayerBinding& layer) {
  for (const TensorRole role : kRoles) {
    const auto found = json.at("tensors").find(std::string(to_string(role)));
    layer.record(role) = found == json.at("tensors").end() ? TensorRecord{} : read_record(*found);
  }
  for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
    const nlohmann::json& record = json.at("gemms").at(static_cast<size_t>(gemm));
    layer.gemm(gemm) = record.is_null() ? GemmRecord{}
                                        : GemmRecord{true, record.at(0).get<int>(), record.at(1).get<int>(),
                                                     record.at(2).get<bool>(),
                                                     record.size() > 3 && record.at(3).get<bool>()};
  }
}

// The widest operand of a layer's GEMMs; 32 when one of them runs in float arithmetic.
int widest_bits(const LayerBinding& layer, Arithmetic arithmetic) {
  int bits = 0;
  for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
    const GemmRecord& record = layer.gemm(gemm);
    if (!record.is_known) continue;
    const bool is_float = record.is_bfloat16 || (arithmetic == Arithmetic::kInteger && !record.is_integer);
    bits = std::max({bits, record.bits_a, record.bits_b, is_float ? 32 : 0});
  }
  return bits == 0 ? 32 : bits;
}

LayerInfo describe_convolution(const torch::nn::Conv2dImpl& module) {
  const auto& options = module.options;
  const bool is_depthwise = options.groups() > 1 && options.groups() == options.in_channels();
  LayerInfo info;
  info.kind = is_depthwise ? LayerKind::kDepthwiseConv2d : LayerKind::kConv2d;
  info.weights = module.weight.numel();
  info.kernel = std::max((*options.kernel_size())[0], (*options.kernel_size())[1]);
  info.stride = std::max((*options.stride())[0], (*options.stride())[1]);
  return info;
}

// Every layer below `root` in registration order, each once. A module on the stack has no shared pointer, so
// the root is looked at apart from the others.
std::vector<SessionCore::Found> find_layers(torch::nn::Module& root, bool with_foreign) {
  std::vector<SessionCore::Found> found;
  std::set<const torch::nn::Module*> seen;
  const auto visit = [&](const std::string& name, torch::nn::Module& module,
                         const std::shared_ptr<torch::nn::Module>& owner) {
    if (!seen.insert(&module).second) return;
    SessionCore::Found entry;
    if (auto* layer = dynamic_cast<QuantizedLayer*>(&module)) {
      entry.info = layer->describe();
      entry.layer = layer;
    } else if (auto* conv = with_foreign && owner ? dynamic_cast<torch::nn::Conv2dImpl*>(&module) : nullptr) {
      entry.info = describe_convolution(*conv);
      entry.weight = conv->weight;
    } else if (auto* linear =
                   with_foreign && owner ? dynamic_cast<torch::nn::LinearImpl*>(&module) : nullptr) {
      entry.info.kind = LayerKind::kLinear;
      entry.info.weights = linear->weight.numel();
      entry.weight = linear->weight;
    } else {
      return;
    }
    entry.info.name = name;
    entry.module = owner;
    found.push_back(std::move(entry));
  };
  visit(root.name(), root, root.weak_from_this().lock());
  for (const auto& item : root.named_modules("", false)) visit(item.key(), *item.value(), item.value());
  return found;
}

at::DeviceType device_of(const torch::nn::Module& root) {
  const auto parameters = root.parameters();
  return parameters.empty() ? at::kCPU : parameters[0].device().type();
}

}  // namespace

SessionCore::SessionCore(std::shared_ptr<Policy> policy, SessionOptions options)
    : policy_(std::move(policy)), options_(std::move(options)) {
  require(policy_ != nullptr, "session", "no policy given");
}

SessionCore::~SessionCore() = default;

ReducedAxis SessionCore::reduced_axis() const {
  const bool is_integer = options_.arithmetic == Arithmetic::kInteger;
  return options_.reduced_axis.value_or(is_integer ? ReducedAxis::kRequantise : ReducedAxis::kFloat);
}

void SessionCore::attach(std::vector<Found> found, at::DeviceType device) {
  require(!is_attached_, "session", "a session is attached to one network, once");
  require(
      !found.empty() || !policy_->quantizes(), "session",
      "the network has no bitdial::nn::Conv2d or Linear for policy {} to quantise (convert it, or use those)",
      policy_->name());
  is_attached_ = true;
  device_ = device;
  for (size_t i = 0; i < found.size(); ++i) {
    found[i].info.is_first = i == 0;
    found[i].info.is_last = i + 1 == found.size();
    layers_.push_back(found[i].info);
    bindings_.push_back(std::make_shared<LayerBinding>(weak_from_this(), static_cast<int>(i), found[i]));
    if (found[i].layer != nullptr) found[i].layer->bind(bindings_.back());
  }
  policy_->set_arithmetic(options_.arithmetic == Arithmetic::kInteger);
  policy_->attach(layers_);
}

void SessionCore::begin_step(const StepInfo& step) {
  require(is_attached_, "session", "begin_step before attach");
  has_begun_ = true;
  step_ = step;
  for (const auto& layer : bindings_) layer->reset_calls();
  const PhaseScope phase(Phase::kPolicy);
  policy_->begin_step(step);
}

void SessionCore::set_macs(int layer, int64_t macs) {
  int64_t& known = layers_[static_cast<size_t>(layer)].macs;
  if (known == macs) return;
  known = macs;
  policy_->set_macs(layer, macs);
}

void SessionCore::end_step(const StepInfo& step, const StepReport& report) {
  for (PendingEvent& pending : events_) {
    pending.event.arithmetic = arithmetic_of(*bindings_[static_cast<size_t>(pending.layer)],
                                             pending.event.tensor, options_.arithmetic);
    if (options_.on_event) options_.on_event(pending.event);
  }
  events_.clear();
  const PhaseScope phase(Phase::kPolicy);
  policy_->end_step(step, report);
}

void SessionCore::add_event(int layer, TensorRole role, const TensorPlan& plan,
                            const std::vector<QuantParams>& params, std::string reason) {
  PrecisionEvent event;
  event.step = step_.step;
  event.layer = layers_[static_cast<size_t>(layer)].name;
  event.tensor = role;
  event.bits = plan.format.word_length;
  const auto& scale = plan.params ? *plan.params : params.empty() ? QuantParams{} : params[0];
  const bool has_scale = !plan.format.is_float() && (plan.params || params.size() == 1);
  if (plan.format.rule == ScaleRule::kFixed) {
    event.fraction_length = plan.format.fraction_length;
  } else if (has_scale) {
    event.scale_log2 = std::log2(scale.scale);
  }
  event.reason = std::move(reason);
  event.evidence = plan.evidence;
  events_.push_back({.layer = layer, .event = std::move(event)});
}

PrecisionSummary SessionCore::summary() const {
  PrecisionSummary summary;
  if (!policy_->quantizes() || bindings_.empty()) {
    const bool is_bfloat16 = policy_->float_arithmetic() == FloatArithmetic::kBFloat16Autocast;
    summary.bits_w = summary.bits_a = summary.bits_dy = is_bfloat16 ? 16.0 : 32.0;
    return summary;
  }
  const auto mean = [&](std::initializer_list<TensorRole> roles) {
    double bits = 0.0;
    int count = 0;
    for (size_t i = 0; i < bindings_.size(); ++i) {
      for (const TensorRole role : roles) {
        const TensorRecord& record = bindings_[i]->record(role);
        if (!record.is_planned && roles.size() > 1) continue;
        const int last = record.is_planned ? record.format.word_length : 32;
        bits += policy_->mean_bits({.layer = static_cast<int>(i), .role = role}).value_or(last);
        ++count;
      }
    }
    return count == 0 ? 32.0 : bits / count;
  };
  summary.bits_w = mean({TensorRole::kWeight});
  summary.bits_a = mean({TensorRole::kInput});
  summary.bits_dy = mean({TensorRole::kGradBprop, TensorRole::kGradWtgrad});
  summary.float_layers = 0.0;
  for (const auto& layer : bindings_) {
    const int bits = widest_bits(*layer, options_.arithmetic);
    double& share = bits <= 8    ? summary.int8_layers
                    : bits <= 16 ? summary.int16_layers
                                 : summary.float_layers;
    share += 1.0 / static_cast<double>(bindings_.size());
  }
  return summary;
}

bool SessionCore::has_other_final_precision() const {
  if (!policy_->has_final_precision()) return false;
  for (int layer = 0; layer < std::ssize(layers_); ++layer) {
    for (const TensorRole role : {TensorRole::kWeight, TensorRole::kInput}) {
      const TensorId id{.layer = layer, .role = role};
      if (policy_->evaluation_format(id) != policy_->final_evaluation_format(id)) return true;
    }
  }
  return false;
}

nlohmann::json SessionCore::state() const {
  nlohmann::json layers = nlohmann::json::array();
  for (size_t i = 0; i < layers_.size(); ++i) layers.push_back(layer_state(layers_[i], *bindings_[i]));
  return {{"policy", policy_->name()}, {"policy_state", policy_->state()}, {"layers", layers}};
}

void SessionCore::load_state(const nlohmann::json& state) {
  require(is_attached_, "session", "load_state before attach");
  const nlohmann::json& layers = state.at("layers");
  require(state.at("policy") == policy_->name(), "session",
          "the state belongs to policy {}, this session has {}", state.at("policy").get<std::string>(),
          policy_->name());
  require(layers.size() == layers_.size(), "session", "the state has {} layers, the network has {}",
          layers.size(), layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto name = layers[i].at("name").get<std::string>();
    require(name == layers_[i].name, "session", "layer {} of the state is {}, the network has {}", i, name,
            layers_[i].name);
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    set_macs(static_cast<int>(i), layers[i].at("macs").get<int64_t>());
    load_layer(layers[i], *bindings_[i]);
  }
  policy_->load_state(state.at("policy_state"));
}

Session::Session(std::shared_ptr<Policy> policy, SessionOptions options)
    : core_(std::make_shared<SessionCore>(std::move(policy), std::move(options))) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

void Session::attach(torch::nn::Module& root) { core_->attach(find_layers(root, false), device_of(root)); }
void Session::attach_foreign(torch::nn::Module& root) {
  core_->attach(find_layers(root, true), device_of(root));
}
const std::vector<LayerInfo>& Session::layers() const { return core_->layers(); }
void Session::begin_step(const StepInfo& step) { core_->begin_step(step); }
void Session::end_step(const StepInfo& step, const StepReport& report) { core_->end_step(step, report); }
PrecisionSummary Session::summary() const { return core_->summary(); }
std::vector<LayerBits> Session::layer_bits() const { return core_->layer_bits(); }
std::vector<LayerArithmetic> Session::gemm_arithmetic() const { return core_->gemm_arithmetic(); }
nlohmann::json Session::state() const { return core_->state(); }
void Session::load_state(const nlohmann::json& state) { core_->load_state(state); }
void Session::set_weight_updater(WeightUpdater* updater) { core_->set_weight_updater(updater); }
void Session::set_evaluation_precision(EvaluationPrecision precision) {
  core_->set_evaluation_precision(precision);
}
bool Session::has_other_final_precision() const { return core_->has_other_final_precision(); }
Policy& Session::policy() { return core_->policy(); }
const Policy& Session::policy() const { return core_->policy(); }
const SessionOptions& Session::options() const { return core_->options(); }

struct ForwardScope::State {
  // bfloat16 autocast as Python's context manager turns it on, for one kind of device.
  struct Autocast {
    explicit Autocast(at::DeviceType device)
        : device(device),
          was_enabled(at::autocast::is_autocast_enabled(device)),
          old_dtype(at::autocast::get_autocast_dtype(device)) {
      at::autocast::set_autocast_enabled(device, true);
      at::autocast::set_autocast_dtype(device, at::kBFloat16);
      at::autocast::increment_nesting();
    }
    ~Autocast() {
      if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
      at::autocast::set_autocast_enabled(device, was_enabled);
      at::autocast::set_autocast_dtype(device, old_dtype);
    }
    Autocast(const Autocast&) = delete;
    Autocast& operator=(const Autocast&) = delete;

    at::DeviceType device;
    bool was_enabled;
    at::ScalarType old_dtype;
  };

  std::shared_ptr<SessionCore> core;
  std::optional<Autocast> autocast;
  std::optional<Interception> interception;
};

ForwardScope::ForwardScope(Session& session) : state_(std::make_unique<State>()) {
  state_->core = session.core_;
  if (session.policy().float_arithmetic() == FloatArithmetic::kBFloat16Autocast) {
    state_->autocast.emplace(state_->core->device());
  }
  state_->interception.emplace(state_->core);
}

ForwardScope::~ForwardScope() = default;

}  // namespace bitdial::nn
