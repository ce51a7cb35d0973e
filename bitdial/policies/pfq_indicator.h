#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

namespace bitdial::policies {

/// When FracTrain (Fu et al. 2020, algorithm of PFQ as in train_pfq of their code) goes on to the next
/// precision: when the last losses differ, relative to a scale S, by less than a threshold that shrinks with
/// every switch. PFQ raises bits by it, FracTrain the target of DFQ.
class PfqIndicator {
 public:
  struct Options {
    double epsilon = 0.05;  ///< first threshold
    double alpha = 0.3;     ///< epsilon <- alpha * epsilon after each switch but the last
    int switches = 3;       ///< K, num_turning_point of the code
    int window = 5;         ///< epoch losses that are compared
    int scale_epochs = 10;  ///< S is the mean loss of so many epochs, then frozen
  };

  /// What one epoch's loss led to: everything that the decision was made from.
  struct Verdict {
    bool switched = false;
    int stage = 0;      ///< k after the decision
    int64_t epoch = 0;  ///< e, from 1
    double S = 0.0;
    double epsilon = 0.0;               ///< that d was compared with
    std::vector<double> window{};       ///< l_(e-4) .. l_e, as far as there are so many since the last switch
    std::vector<double> differences{};  ///< d_j = |l_(e-j) - l_e| / S for j = 1 .. 4; empty: window not full
  };

  PfqIndicator() = default;
  explicit PfqIndicator(const Options& options) : options_(options), epsilon_(options.epsilon) {}

  /// Takes the mean loss of an epoch. Throws Error when it is not finite.
  Verdict end_epoch(double loss);

  int stage() const { return stage_; }         ///< k, 0 .. switches
  double epsilon() const { return epsilon_; }  ///< of the next comparison
  double scale() const { return scale_; }      ///< S
  int64_t epochs() const { return epochs_; }   ///< that have ended

  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

 private:
  Options options_;
  int stage_ = 0;
  double epsilon_ = 0.05;
  double scale_ = 0.0;
  double loss_sum_ = 0.0;  // of the epochs that S is made from
  int64_t epochs_ = 0;
  std::vector<double> window_;
};

/// The differences d that follow from a logged verdict's window and S, and whether all are within its
/// epsilon.
struct PfqChanges {
  std::vector<double> d;
  bool has_settled = true;
};
PfqChanges pfq_changes_again(const nlohmann::json& evidence);

/// The numbers of a verdict for precision.jsonl: k, e, S, epsilon, window, d.
nlohmann::json evidence_of(const PfqIndicator::Verdict& verdict);

}  // namespace bitdial::policies
