#include "bitdial/policies/registry.h"

#include <array>
#include <charconv>
#include <functional>
#include <span>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/policies/adapt.h"
#include "bitdial/policies/apt.h"
#include "bitdial/policies/auto.h"
#include "bitdial/policies/bf16.h"
#include "bitdial/policies/cpt.h"
#include "bitdial/policies/dfq.h"
#include "bitdial/policies/float32.h"
#include "bitdial/policies/fractrain.h"
#include "bitdial/policies/ldp.h"
#include "bitdial/policies/muppet.h"
#include "bitdial/policies/options.h"
#include "bitdial/policies/pfq.h"
#include "bitdial/policies/random_policy.h"
#include "bitdial/policies/sbm.h"
#include "bitdial/policies/schedule_policy.h"
#include "bitdial/policies/skeleton.h"
#include "bitdial/policies/static_policy.h"

namespace bitdial::policies {
namespace {

using Factory = std::function<std::shared_ptr<Policy>(OptionReader&)>;
// Turns the argument after the colon into options.
using Argument = std::function<nlohmann::json(std::string_view)>;

struct Entry {
  std::string name;
  std::string help;
  Factory make;
  Argument argument;  // empty: the name takes no argument
};

template <class P>
Factory plain() {
  return [](OptionReader&) { return std::make_shared<P>(); };
}

template <class P>
Factory with_options() {
  return [](OptionReader& options) { return std::make_shared<P>(options); };
}

Factory adapt_factory(const std::string& name) {
  return [name](OptionReader& options) { return std::make_shared<AdaptPolicy>(name, options); };
}

// "8/8/16": as many word lengths as there are names.
nlohmann::json read_widths(std::string_view text, std::span<const char* const> names,
                           const std::string& usage) {
  nlohmann::json options = nlohmann::json::object();
  std::string_view rest = text;
  for (size_t i = 0; i < names.size(); ++i) {
    int bits = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), bits);
    const auto used = static_cast<size_t>(end - rest.data());
    const bool last = i + 1 == names.size();
    const bool separated = last ? used == rest.size() : used < rest.size() && rest[used] == '/';
    require(error == std::errc{} && separated, "policies", "{}; got \"{}\"", usage, text);
    options[names[i]] = bits;
    rest.remove_prefix(last ? used : used + 1);
  }
  return options;
}

// "8/8/16": word lengths of W, A and G; "shared:8/8": of W and A, and of G, in the preset `shared`.
nlohmann::json static_argument(std::string_view text) {
  constexpr std::string_view kShared = "shared";
  if (text == kShared) return {{"preset", kShared}};
  if (text.starts_with("shared:")) {
    constexpr std::array<const char*, 2> kNames{"activation_bits", "gradient_bits"};
    nlohmann::json options = read_widths(text.substr(kShared.size() + 1), kNames,
                                         "\"static:shared\" takes F/G, the word lengths of weights and "
                                         "activations, and of gradients (\"static:shared:8/8\")");
    options["preset"] = kShared;
    options["weight_bits"] = options["activation_bits"];
    return options;
  }
  constexpr std::array<const char*, 3> kNames{"weight_bits", "activation_bits", "gradient_bits"};
  return read_widths(text, kNames,
                     "\"static\" takes W/A/G, the word lengths of weights, activations and gradients "
                     "(\"static:8/8/16\"), or \"static:shared:F/G\"");
}

// One line per policy.
const std::vector<Entry>& table() {
  static const std::vector<Entry> entries{
      {"float32", "no quantisation, LibTorch's float32 kernels (baseline)", plain<Float32Policy>(), {}},
      {"bf16",
       "no quantisation, GEMMs in bfloat16 by LibTorch's autocast (baseline)",
       plain<BFloat16Policy>(),
       {}},
      {"static",
       "the same word lengths everywhere and always; static:W/A/G (default 8/8/8), static:shared:F/G",
       with_options<StaticPolicy>(), static_argument},
      {"sbm",
       "8 bits with Range BN and a float copy of the gradient for WTGRAD (Banner et al. 2018)",
       with_options<SbmPolicy>(),
       {}},
      {"cpt", "all layers from few bits to many and back, again and again; cpt:MIN-MAX/G (Fu et al. 2021)",
       with_options<CptPolicy>(), cpt_argument},
      {"pfq",
       "all layers through a ladder of precisions, up when the loss stops falling (FracTrain, Fu et al. "
       "2020)",
       with_options<PfqPolicy>(), pfq_argument},
      {"random",
       "bits drawn at random every k iterations, then 8 (LDP, Table 2)",
       with_options<RandomPolicy>(),
       {}},
      {"schedule", "a table of bits by layer and epoch, from a file (LDP, Table 1)",
       with_options<SchedulePolicy>(), schedule_argument},
      {"apt",
       "width per tensor from the quantisation error, widened when it grows (Zhang et al. 2020)",
       with_options<AptPolicy>(),
       {}},
      {"muppet",
       "one word length, raised 8-12-14-16-float32 as gradients lose diversity (Rajagopal et al. 2020)",
       with_options<MuppetPolicy>(),
       {}},
      {"adapt",
       "fixed point per layer, shrunk by weight histograms, widened by gradient diversity (Kummer 2021-23)",
       adapt_factory("adapt"),
       {}},
      {"adept",
       "adapt's third version: the same mechanism, switching within epochs",
       adapt_factory("adept"),
       {}},
      {"marvin", "adapt's first version: without L1 and penalty", adapt_factory("marvin"), {}},
      {"auto",
       "per layer and GEMM the fastest arithmetic on this machine whose error stays within apt's bounds",
       with_options<AutoPolicy>(),
       {}},
      {"dfq",
       "bits per residual block and sample, chosen by a gate that learns (Fu et al. 2020)",
       with_options<DfqPolicy>(),
       {}},
      {"fractrain",
       "dfq with a target that rises as the loss settles: PFQ and DFQ together (Fu et al. 2020)",
       with_options<FracTrainPolicy>(),
       {}},
      {"ldp",
       "bits per layer learnt by gradient descent under a limit on the cost (Yu et al. 2022)",
       with_options<LdpPolicy>(),
       {}},
      {"skeleton",
       "a small policy to copy: gradients get 16 bits where too many codes are zero",
       with_options<SkeletonPolicy>(),
       {}},
  };
  return entries;
}

const Entry& find(std::string_view name) {
  for (const Entry& entry : table()) {
    if (entry.name == name) return entry;
  }
  fail("policies", "there is no policy \"{}\"{}", name, suggestion(name, names()));
}

}  // namespace

std::shared_ptr<Policy> make(std::string_view spec, const nlohmann::json& options) {
  const size_t colon = spec.find(':');
  const Entry& entry = find(spec.substr(0, colon));
  nlohmann::json all = options.is_null() ? nlohmann::json::object() : options;
  if (colon != std::string_view::npos) {
    const std::string_view text = spec.substr(colon + 1);
    require(static_cast<bool>(entry.argument), "policies", "\"{}\" takes no argument, got \"{}\"", entry.name,
            spec);
    const nlohmann::json given = entry.argument(text);
    for (const auto& [name, value] : given.items()) {
      require(!all.contains(name) || all[name] == value, "policies",
              "\"{}\" and the option \"{}\" say different things", spec, name);
      all[name] = value;
    }
  }
  OptionReader reader(entry.name, all);
  std::shared_ptr<Policy> policy = entry.make(reader);
  reader.finish();
  return policy;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const Entry& entry : table()) all.push_back(entry.name);
  return all;
}

std::string help(std::string_view name) { return find(name).help; }

std::vector<OptionHelp> options(std::string_view name) {
  const Entry& entry = find(name);
  OptionReader reader(entry.name, nlohmann::json::object());
  entry.make(reader);
  return reader.described();
}

}  // namespace bitdial::policies
