#include "bitdial/cli/command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <string>
#include <vector>

#include "bitdial/cli/bench_kernel.h"
#include "bitdial/cli/bench_step.h"
#include "bitdial/cli/data_command.h"
#include "bitdial/core/suggest.h"

namespace bitdial::cli {

namespace {

constexpr int kUsageError = 2;

/// LibTorch appends a stack of frames to its messages; a user needs the first line.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// The innermost subcommand that was named.
const CLI::App& chosen(const CLI::App& app) {
  const auto subcommands = app.get_subcommands();
  return subcommands.empty() ? app : chosen(*subcommands.front());
}

std::vector<std::string> words_of(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::App* subcommand : app.get_subcommands([](const CLI::App*) { return true; })) {
    words.push_back(subcommand->get_name());
  }
  for (const CLI::Option* option : app.get_options([](const CLI::Option*) { return true; })) {
    for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
  }
  return words;
}

/// One line for a wrong command line, with the nearest known word.
int report_usage(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& place = chosen(app);
  std::string hint;
  for (const std::string& word : app.remaining(true)) {
    const std::string near = nearest_name(word.substr(0, word.find('=')), words_of(place));
    if (hint.empty() && !near.empty()) hint = fmt::format("; did you mean \"{}\"?", near);
  }
  const std::string path = &place == &app ? "bitdial" : "bitdial " + place.get_name();
  fmt::print(stderr, "bitdial: [usage] {}{} (see {} --help)\n", first_line(error.what()), hint, path);
  return kUsageError;
}

void add_commands(CLI::App& app) {
  add_train_command(app);
  add_eval_command(app);
  add_export_command(app);
  CLI::App* bench = app.add_subcommand("bench", "Time kernels and training steps");
  bench->require_subcommand(1);
  add_bench_kernel(*bench);
  add_bench_step(*bench);
  add_plan_command(app);
  add_cost_command(app);
  add_reproduce_command(app);
  add_replay_command(app);
  add_report_command(app);
  add_policies_command(app);
  add_models_command(app);
  add_data_command(app);
  add_info_command(app);
  add_demo_command(app);
}

}  // namespace

int run(int argc, const char* const* argv) {
  CLI::App app("Trains neural networks in adaptive precision with integer arithmetic.", "bitdial");
  app.set_version_flag("--version", std::string("bitdial ") + BITDIAL_VERSION);
  app.require_subcommand(0, 1);
  app.get_formatter()->column_width(34);
  add_commands(app);
  try {
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::RuntimeError& error) {  // a command's own exit code, already explained
    return error.get_exit_code();
  } catch (const CLI::ParseError& error) {
    return error.get_exit_code() == 0 ? app.exit(error) : report_usage(app, error);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bitdial: {}\n", first_line(error.what()));
    return 1;
  }
}

}  // namespace bitdial::cli
