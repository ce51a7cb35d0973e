# Finds a library by its CMake package or, where a distribution ships none, by its header.
# Used by the build and by the installed bitdialConfig.cmake.

# bitdial_header_only(PACKAGE TARGET HEADER): the package is header-only, so its folder of headers is all we need.
macro(bitdial_header_only package target header)
  find_package(${package} QUIET CONFIG)
  if(NOT TARGET ${target})
    find_path(${package}_INCLUDE_DIR ${header})
    if(NOT ${package}_INCLUDE_DIR)
      message(FATAL_ERROR "${package} (header ${header}) was not found; `make` installs it, docs/dependencies.md names its package.")
    endif()
    add_library(${target} INTERFACE IMPORTED)
    target_include_directories(${target} SYSTEM INTERFACE "${${package}_INCLUDE_DIR}")
  endif()
endmacro()

macro(bitdial_find_nlohmann_json)
  bitdial_header_only(nlohmann_json nlohmann_json::nlohmann_json nlohmann/json.hpp)
endmacro()

macro(bitdial_find_CLI11)
  bitdial_header_only(CLI11 CLI11::CLI11 CLI/CLI.hpp)
endmacro()

macro(bitdial_find_tomlplusplus)
  bitdial_header_only(tomlplusplus tomlplusplus::tomlplusplus toml++/toml.h)
endmacro()
