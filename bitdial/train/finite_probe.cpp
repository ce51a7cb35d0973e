#include "bitdial/train/finite_probe.h"

#include <cmath>

#include "bitdial/core/error.h"

namespace bitdial::train {

namespace {

/// A policy that quantises nothing and looks at every operand.
class FiniteProbe : public Policy {
 public:
  std::string name() const override { return "finite-probe"; }

  TensorPlan plan(TensorId id, const StepInfo&, TensorProbe& probe) override {
    if (found_.empty() && !is_finite(probe)) {
      found_ = fmt::format("layer {}, {}", layers_[static_cast<size_t>(id.layer)].name, to_string(id.role));
    }
    return {Format::float32(), {}, {}, {}};
  }

  Format evaluation_format(TensorId) const override { return Format::float32(); }

  const std::string& found() const { return found_; }

 private:
  static bool is_finite(TensorProbe& probe) {
    try {
      const Range range = probe.range();
      return std::isfinite(range.min) && std::isfinite(range.max);
    } catch (const Error&) {  // the probe itself refuses such ranges
      return false;
    }
  }

  std::string found_;
};

}  // namespace

std::string first_non_finite_operand(models::Network& network, std::optional<nn::Session>& session,
                                     const torch::Tensor& images, const StepInfo& info) {
  const auto probe = std::make_shared<FiniteProbe>();
  session.reset();
  session.emplace(probe, nn::SessionOptions{});
  session->attach(network);
  session->begin_step(info);
  torch::NoGradGuard no_grad;
  const nn::ForwardScope scope(*session);
  network.forward(images);
  return probe->found().empty() ? "the loss itself" : probe->found();
}

}  // namespace bitdial::train
