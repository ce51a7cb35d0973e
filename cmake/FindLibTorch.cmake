# Finds LibTorch without its own CMake package: TorchConfig of a wheel built for CUDA insists on a CUDA toolkit, and
# its flags reach every target. Looks under CMAKE_PREFIX_PATH (a LibTorch folder, `torch.utils.cmake_prefix_path` of a
# Python wheel, or a torch package folder) and links the CPU libraries only.
# Defines LibTorch::LibTorch, LibTorch_VERSION, LibTorch_LIBRARY_DIR.
set(_libtorch_roots)
foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
  list(APPEND _libtorch_roots "${prefix}" "${prefix}/libtorch" "${prefix}/torch")
  cmake_path(GET prefix PARENT_PATH _parent)       # .../torch/share/cmake -> .../torch
  cmake_path(GET _parent PARENT_PATH _grandparent)
  list(APPEND _libtorch_roots "${_parent}" "${_grandparent}")
endforeach()
file(GLOB _venv_roots "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch")
list(APPEND _libtorch_roots ${_venv_roots})

find_library(LibTorch_CPU_LIBRARY torch_cpu PATHS ${_libtorch_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 PATHS ${_libtorch_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)
find_path(LibTorch_INCLUDE_DIR torch/script.h PATHS ${_libtorch_roots} PATH_SUFFIXES include NO_DEFAULT_PATH)

if(LibTorch_INCLUDE_DIR)
  file(GLOB_RECURSE _version_headers "${LibTorch_INCLUDE_DIR}/torch/*version.h")
  foreach(header IN LISTS _version_headers)
    file(STRINGS "${header}" _line REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
    if(_line)
      string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" LibTorch_VERSION "${_line}")
      break()
    endif()
  endforeach()
  cmake_path(GET LibTorch_INCLUDE_DIR PARENT_PATH _libtorch_root)
  set(_config "${_libtorch_root}/share/cmake/Torch/TorchConfig.cmake")
  if(EXISTS "${_config}")
    file(STRINGS "${_config}" _old_abi REGEX "_GLIBCXX_USE_CXX11_ABI=0")
    if(_old_abi)
      message(FATAL_ERROR "LibTorch at ${_libtorch_root} was built with the old C++ ABI (_GLIBCXX_USE_CXX11_ABI=0); "
                          "bitdial needs a build with the C++11 ABI (PyTorch wheels since 2.7, or libtorch-cxx11-abi).")
    endif()
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "set CMAKE_PREFIX_PATH to a LibTorch folder, or run `make` which installs one")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  cmake_path(GET LibTorch_CPU_LIBRARY PARENT_PATH LibTorch_LIBRARY_DIR)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE
    "${LibTorch_INCLUDE_DIR}" "${LibTorch_INCLUDE_DIR}/torch/csrc/api/include")
  target_link_libraries(LibTorch::LibTorch INTERFACE "${LibTorch_CPU_LIBRARY}" "${LibTorch_C10_LIBRARY}")
  # The folder comes first on the run path: the wheel's own OpenMP runtime must be the only one in the process.
  target_link_options(LibTorch::LibTorch INTERFACE "-Wl,-rpath,${LibTorch_LIBRARY_DIR}" "-Wl,--no-as-needed")
endif()
mark_as_advanced(LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR)
