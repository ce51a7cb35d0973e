#pragma once

/// The command `bitdial`: thin subcommands over the library.
namespace CLI {
class App;
}

namespace bitdial::cli {

/// Runs the command. Exit codes: 0 done, 1 an error (one line on stderr: "bitdial: [operation] message"), 2
/// wrong usage, 130 interrupted after saving.
int run(int argc, const char* const* argv);

void add_train_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_export_command(CLI::App& app);
void add_demo_command(CLI::App& app);
void add_policies_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_cost_command(CLI::App& app);
void add_reproduce_command(CLI::App& app);
void add_replay_command(CLI::App& app);
void add_report_command(CLI::App& app);
void add_models_command(CLI::App& app);
void add_info_command(CLI::App& app);

}  // namespace bitdial::cli
