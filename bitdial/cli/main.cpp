#include "bitdial/cli/command.h"

int main(int argc, char** argv) { return bitdial::cli::run(argc, argv); }
