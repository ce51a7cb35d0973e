#pragma once

#include <cstdio>
#include <filesystem>

#include "bitdial/data/download.h"

namespace CLI {
class App;
}

namespace bitdial::cli {

/// `bitdial data list | get NAME | info NAME | show NAME`.
void add_data_command(CLI::App& app);

/// Downloads one data set and says on `out` how far it is: a line that is redrawn on a terminal, a line per
/// tenth elsewhere. Ctrl-C leaves what has arrived for the next call.
void get_dataset(const data::DatasetSource& source, const std::filesystem::path& dir, std::FILE* out,
                 const data::DownloadOptions& options = {});

}  // namespace bitdial::cli
