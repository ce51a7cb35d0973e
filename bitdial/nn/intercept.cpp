#include "bitdial/nn/intercept.h"

#include <torch/library.h>
#include <torch/torch.h>

#include <array>
#include <unordered_map>
#include <utility>

#include "bitdial/nn/convert.h"
#include "bitdial/nn/results.h"
#include "bitdial/nn/session_core.h"

/// LibTorch's layers call at::conv2d, addmm or matmul without a virtual function in between, so a converted
/// module is reached through the dispatcher: a key that no tensor carries is switched on for the thread and
/// has kernels for these operators only; every other operator falls through at no cost.
namespace bitdial::nn {
namespace {

// Reserved by LibTorch for modes toggled per thread; above autograd and autocast, so that both see our own
// function.
constexpr auto kKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

using LayerMap = std::unordered_map<const void*, LayerBinding*>;

LayerMap*& current_layers() {
  thread_local LayerMap* layers = nullptr;
  return layers;
}

// The layer whose weight lies at this tensor's data; a fresh look-up each time, since optimisers and
// Module::to may exchange the data of a parameter.
std::shared_ptr<LayerBinding> find_layer(const at::Tensor& weight) {
  const LayerMap* layers = current_layers();
  if (layers == nullptr || !weight.defined() || !weight.has_storage()) return nullptr;
  const auto found = layers->find(weight.const_data_ptr());
  if (found == layers->end() || !found->second->is_active()) return nullptr;
  return found->second->shared_from_this();
}

// Not a view of the weight in another shape.
std::shared_ptr<LayerBinding> find_convolution(const at::Tensor& weight) {
  auto layer = find_layer(weight);
  return layer != nullptr && layer->weight().sizes() == weight.sizes() ? layer : nullptr;
}

bool is_training(const LayerBinding& layer) {
  const auto module = layer.module();
  return module != nullptr && module->is_training();
}

// A matrix that is the transpose of a linear layer's weight: a view of the same data.
std::shared_ptr<LayerBinding> find_transposed(const at::Tensor& matrix) {
  if (matrix.dim() != 2) return nullptr;
  auto layer = find_layer(matrix);
  if (layer == nullptr) return nullptr;
  const at::Tensor& weight = layer->weight();
  const bool is_transpose = weight.dim() == 2 && matrix.size(0) == weight.size(1) &&
                            matrix.size(1) == weight.size(0) && matrix.stride(0) == weight.stride(1) &&
                            matrix.stride(1) == weight.stride(0);
  return is_transpose ? layer : nullptr;
}

std::array<int64_t, 2> pair(c10::SymIntArrayRef values) {
  const int64_t first = values[0].expect_int();
  return {first, values.size() > 1 ? values[1].expect_int() : first};
}

at::Tensor conv2d(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                  c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                  c10::SymInt groups) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const auto layer = find_convolution(weight);
  if (layer == nullptr)
    return at::conv2d_symint(x, weight, bias, stride, padding, dilation, std::move(groups));
  const ops::ConvOptions options{.stride = pair(stride),
                                 .padding = pair(padding),
                                 .dilation = pair(dilation),
                                 .groups = groups.expect_int()};
  return layer->conv2d(x, layer->weight(), bias.value_or(at::Tensor()), options, is_training(*layer));
}

// "same" and "valid".
at::Tensor conv2d_named_padding(const at::Tensor& x, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias, c10::SymIntArrayRef stride,
                                std::string_view padding, c10::SymIntArrayRef dilation, c10::SymInt groups) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const auto layer = find_convolution(weight);
  if (layer == nullptr)
    return at::conv2d_symint(x, weight, bias, stride, padding, dilation, std::move(groups));
  ops::ConvOptions options{.stride = pair(stride), .dilation = pair(dilation), .groups = groups.expect_int()};
  at::Tensor padded = x;
  if (padding == "same") {
    const int64_t rows = options.dilation[0] * (weight.size(2) - 1);
    const int64_t columns = options.dilation[1] * (weight.size(3) - 1);
    padded = at::constant_pad_nd(x, {columns / 2, columns - columns / 2, rows / 2, rows - rows / 2});
  }
  return layer->conv2d(padded, layer->weight(), bias.value_or(at::Tensor()), options, is_training(*layer));
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const auto layer = weight.dim() == 2 ? find_transposed(weight.t()) : nullptr;
  if (layer == nullptr) return at::linear(x, weight, bias);
  return layer->linear(x, layer->weight(), bias.value_or(at::Tensor()), is_training(*layer));
}

// torch::nn::Linear of a matrix is addmm(bias, x, weight.t()), of anything else matmul(x, weight.t()).
at::Tensor addmm(const at::Tensor& bias, const at::Tensor& x, const at::Tensor& matrix,
                 const at::Scalar& beta, const at::Scalar& alpha) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const bool is_plain = beta.equal(1) && alpha.equal(1) && bias.dim() == 1;
  const auto layer = is_plain ? find_transposed(matrix) : nullptr;
  if (layer == nullptr) return at::addmm(bias, x, matrix, beta, alpha);
  return layer->linear(x, layer->weight(), bias, is_training(*layer));
}

at::Tensor matmul(const at::Tensor& x, const at::Tensor& matrix) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const auto layer = find_transposed(matrix);
  if (layer == nullptr) return at::matmul(x, matrix);
  return layer->linear(x, layer->weight(), {}, is_training(*layer));
}

SessionCore*& current_session() {
  thread_local SessionCore* session = nullptr;
  return session;
}

// A normalisation or pool behind a layer: `run` computes it.
template <class Run>
at::Tensor behind_layer(const at::Tensor& x, bool is_pool, const Run& run) {
  SessionCore* session = current_session();
  const auto layer = session != nullptr ? session->last_layer() : nullptr;
  if (layer == nullptr || !layer->is_active()) return run(x);
  const ResultQuantization results = session->policy().results();
  const bool training = session->last_layer_trains();
  at::Tensor input = x;
  if (is_pool ? results.pool_inputs : results.norm_inputs) input = quantize_output(layer, input, training);
  if (is_pool && results.grad_inputs) input = quantize_gradient(layer, input, training);
  const at::Tensor y = run(input);
  return (is_pool ? results.pool_outputs : results.norm_outputs) ? quantize_output(layer, y, training) : y;
}

at::Tensor batch_norm(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                      const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& mean,
                      const std::optional<at::Tensor>& variance, bool training, double momentum, double eps,
                      bool cudnn_enabled) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  return behind_layer(x, false, [&](const at::Tensor& input) {
    return at::batch_norm(input, weight, bias, mean, variance, training, momentum, eps, cudnn_enabled);
  });
}

at::Tensor avg_pool2d(const at::Tensor& x, at::IntArrayRef kernel, at::IntArrayRef stride,
                      at::IntArrayRef padding, bool ceil_mode, bool count_include_pad,
                      std::optional<int64_t> divisor) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  return behind_layer(x, true, [&](const at::Tensor& input) {
    return at::avg_pool2d(input, kernel, stride, padding, ceil_mode, count_include_pad, divisor);
  });
}

at::Tensor adaptive_avg_pool2d(const at::Tensor& x, c10::SymIntArrayRef size) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  return behind_layer(x, true,
                      [&](const at::Tensor& input) { return at::adaptive_avg_pool2d_symint(input, size); });
}

// Over the pixels of images it is the average pool that residual networks end with.
at::Tensor mean(const at::Tensor& x, at::OptionalIntArrayRef dims, bool keepdim,
                std::optional<at::ScalarType> dtype) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const auto run = [&](const at::Tensor& input) { return at::mean(input, dims, keepdim, dtype); };
  const bool is_pool = x.dim() == 4 && dims && dims->size() == 2 && at::maybe_wrap_dim((*dims)[0], 4) == 2 &&
                       at::maybe_wrap_dim((*dims)[1], 4) == 3;
  return is_pool ? behind_layer(x, true, run) : run(x);
}

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, library) {
  library.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, TESTING_ONLY_GenericMode, library) {
  library.impl("conv2d", TORCH_FN(conv2d));
  library.impl("conv2d.padding", TORCH_FN(conv2d_named_padding));
  library.impl("linear", TORCH_FN(linear));
  library.impl("addmm", TORCH_FN(addmm));
  library.impl("matmul", TORCH_FN(matmul));
  library.impl("batch_norm", TORCH_FN(batch_norm));
  library.impl("avg_pool2d", TORCH_FN(avg_pool2d));
  library.impl("adaptive_avg_pool2d", TORCH_FN(adaptive_avg_pool2d));
  library.impl("mean.dim", TORCH_FN(mean));
}

}  // namespace

struct Interception::State {
  LayerMap layers;
  LayerMap* outer_layers = nullptr;
  SessionCore* outer_session = nullptr;
  std::optional<c10::impl::IncludeDispatchKeyGuard> guard;
};

Interception::Interception(const std::shared_ptr<SessionCore>& session) : state_(std::make_unique<State>()) {
  for (const auto& layer : session->bindings()) {
    if (layer->weight().defined()) state_->layers.emplace(layer->weight().const_data_ptr(), layer.get());
  }
  state_->outer_layers = std::exchange(current_layers(), &state_->layers);
  state_->outer_session = std::exchange(current_session(), session.get());
  session->set_last_layer(nullptr, false);
  const ResultQuantization results = session->policy().results();
  const bool has_results = results.norm_inputs || results.norm_outputs || results.pool_inputs ||
                           results.pool_outputs || results.grad_inputs;
  if (!state_->layers.empty() || has_results) state_->guard.emplace(kKey);
}

Interception::~Interception() {
  current_layers() = state_->outer_layers;
  current_session() = state_->outer_session;
}

Session convert(torch::nn::Module& module, std::shared_ptr<Policy> policy, SessionOptions options) {
  Session session(std::move(policy), std::move(options));
  convert(module, session);
  return session;
}

void convert(torch::nn::Module& module, Session& session) { session.attach_foreign(module); }

}  // namespace bitdial::nn
