// Samples of one batch in different precisions: see Stage::forward_by_option.
#include <torch/torch.h>

#include <memory>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/nn/option_scope.h"
#include "bitdial/nn/stage_plan.h"

namespace bitdial::nn {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Tells the convolutions of all groups the range of the whole dY before they quantise their parts of it.
class RangeOfGradient : public torch::autograd::Function<RangeOfGradient> {
 public:
  struct Target : torch::CustomClassHolder {
    std::shared_ptr<GroupRanges> ranges;
  };

  static Tensor forward(AutogradContext* ctx, const Tensor& y, const c10::intrusive_ptr<Target>& target) {
    ctx->saved_data["target"] = at::IValue::make_capsule(target);
    return y.view_as(y);
  }

  static variable_list backward(AutogradContext* ctx, variable_list dys) {
    const auto target = c10::static_intrusive_pointer_cast<Target>(ctx->saved_data["target"].toCapsule());
    const Tensor dy = ops::to_dense(dys[0], true);
    target->ranges->dy = ops::measure_range(dy, Granularity::kTensor, RangeStatistic::kExtreme)[0];
    return {dys[0], Tensor()};
  }
};

/// x itself; the gradient of m is that of sum over options of m * (x quantised so).
class MixedOperands : public torch::autograd::Function<MixedOperands> {
 public:
  struct Options : torch::CustomClassHolder {
    std::vector<Format> formats;
    Range range;
  };

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& m,
                        const c10::intrusive_ptr<Options>& options) {
    ctx->save_for_backward({x});
    ctx->saved_data["options"] = at::IValue::make_capsule(options);
    (void)m;
    return x.view_as(x);
  }

  static variable_list backward(AutogradContext* ctx, variable_list dys) {
    const auto options = c10::static_intrusive_pointer_cast<Options>(ctx->saved_data["options"].toCapsule());
    const Tensor x = ops::to_dense(ctx->get_saved_variables()[0], true);
    std::vector<Tensor> columns;
    for (const Format& format : options->formats) {
      Tensor values = x;
      if (!format.is_float()) {
        const QuantParams params = choose_params(format, options->range);
        values = ops::dequantize(ops::quantize(x, format, {&params, 1}, {}), at::kFloat);
      }
      columns.push_back((dys[0] * values).flatten(1).sum(1));
    }
    return {dys[0], torch::stack(columns, 1), Tensor()};
  }
};

}  // namespace

Tensor convolve_by_option(Conv2d conv, const Tensor& x, const OptionGroups& groups) {
  const auto ranges = std::make_shared<GroupRanges>();
  ranges->x = ops::measure_range(ops::to_dense(x, true), Granularity::kTensor, RangeStatistic::kExtreme)[0];
  const auto& binding = conv->binding();
  Tensor input = x;
  if (groups.m.defined() && binding != nullptr && binding->is_active()) {
    auto options = c10::make_intrusive<MixedOperands::Options>();
    options->range = *ranges->x;
    for (int option = 0; option < static_cast<int>(groups.samples.size()); ++option) {
      options->formats.push_back(binding->input_format(option));
    }
    input = MixedOperands::apply(x, groups.m, options);
  }
  std::vector<Tensor> parts;
  int64_t first = 0;
  for (size_t option = 0; option < groups.samples.size(); ++option) {
    const int64_t count = groups.samples[option];
    if (count == 0) continue;
    const OptionScope scope(static_cast<int>(option), ranges);
    parts.push_back(conv->forward(input.narrow(0, first, count)));
    first += count;
  }
  const Tensor y = torch::cat(parts);
  if (!y.requires_grad()) return y;
  auto target = c10::make_intrusive<RangeOfGradient::Target>();
  target->ranges = ranges;
  return RangeOfGradient::apply(y, target);
}

Tensor Stage::forward_by_option(const Tensor& x, const Tensor& m, Mixed mixed) const {
  require(plan_->inputs.size() == 1, "stage", "a block by option has one input, this stage has {}",
          plan_->inputs.size());
  const Tensor choice = m.detach().argmax(1);
  const Tensor order = choice.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor counts = choice.bincount({}, m.size(1));
  OptionGroups groups;
  groups.samples.assign(counts.const_data_ptr<int64_t>(), counts.const_data_ptr<int64_t>() + m.size(1));
  if (mixed == Mixed::kOperands) groups.m = m.index_select(0, order);
  const Tensor sorted = run_unfused(*plan_, {x.index_select(0, order)}, &groups);
  const Tensor y = sorted.index_select(0, order.argsort());
  if (mixed != Mixed::kOutputs) return y;
  return y * m.gather(1, choice.unsqueeze(1)).view({-1, 1, 1, 1});
}

}  // namespace bitdial::nn
