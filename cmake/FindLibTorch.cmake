# Finds LibTorch without its own CMake package: TorchConfig of a wheel built for CUDA insists on a CUDA toolkit, and
# its flags reach every target. Looks under LibTorch_ROOT and CMAKE_PREFIX_PATH (CMake's or the environment's; a LibTorch
# folder, `torch.utils.cmake_prefix_path` of a Python wheel, a torch package folder or what holds one), then in .venv,
# and links the CPU libraries only.
# Defines LibTorch::LibTorch, LibTorch_VERSION, LibTorch_LIBRARY_DIR; LibTorch_OPENMP_LIBRARY where LibTorch brings an
# OpenMP runtime under a name of its own (libgomp-1a2b3c4d.so.1).
set(_libtorch_env "$ENV{CMAKE_PREFIX_PATH}")
string(REPLACE ":" ";" _libtorch_env "${_libtorch_env}")
set(_libtorch_roots)
foreach(prefix IN LISTS LibTorch_ROOT CMAKE_PREFIX_PATH _libtorch_env)
  if(prefix)
    # .../torch/share/cmake -> .../torch
    cmake_path(SET _grandparent NORMALIZE "${prefix}/../..")
    list(APPEND _libtorch_roots "${prefix}" "${prefix}/libtorch" "${prefix}/torch" "${_grandparent}")
  endif()
endforeach()
file(GLOB _venv_roots "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch")
list(APPEND _libtorch_roots ${_venv_roots})

# The first folder that has it all: library and headers of two different builds must not mix.
unset(LibTorch_CPU_LIBRARY)
foreach(root IN LISTS _libtorch_roots)
  if(EXISTS "${root}/lib/libtorch_cpu.so" AND EXISTS "${root}/lib/libc10.so"
     AND EXISTS "${root}/include/torch/csrc/api/include/torch/torch.h")
    set(_libtorch_root "${root}")
    set(LibTorch_LIBRARY_DIR "${root}/lib")
    set(LibTorch_CPU_LIBRARY "${root}/lib/libtorch_cpu.so")
    set(LibTorch_C10_LIBRARY "${root}/lib/libc10.so")
    set(LibTorch_INCLUDE_DIR "${root}/include")
    break()
  endif()
endforeach()

unset(LibTorch_VERSION)
unset(LibTorch_OPENMP_LIBRARY)
if(LibTorch_CPU_LIBRARY)
  file(GLOB LibTorch_OPENMP_LIBRARY "${LibTorch_LIBRARY_DIR}/libgomp-*.so*")
  # torch/headeronly/version.h since 2.8, torch/csrc/api/include/torch/version.h before.
  foreach(header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(EXISTS "${LibTorch_INCLUDE_DIR}/${header}" AND NOT LibTorch_VERSION)
      file(STRINGS "${LibTorch_INCLUDE_DIR}/${header}" _lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
      if(_lines)
        string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" LibTorch_VERSION "${_lines}")
      endif()
    endif()
  endforeach()
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
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR LibTorch_VERSION
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "give a LibTorch folder as CMAKE_PREFIX_PATH, or run `make`, which installs one into .venv")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE
    "${LibTorch_INCLUDE_DIR}" "${LibTorch_INCLUDE_DIR}/torch/csrc/api/include")
  # LibTorch's include folder holds the headers of its own fmt, whose library it does not export.
  target_compile_definitions(LibTorch::LibTorch INTERFACE FMT_HEADER_ONLY=1)
  target_link_libraries(LibTorch::LibTorch INTERFACE "${LibTorch_CPU_LIBRARY}" "${LibTorch_C10_LIBRARY}")
  # The folder comes first on the run path: the wheel's own OpenMP runtime must be the only one in the process.
  # A build for CUDA needs CUDA's libraries when it runs (they are wheels of their own), not when we link.
  target_link_options(LibTorch::LibTorch INTERFACE
    "-Wl,-rpath,${LibTorch_LIBRARY_DIR}" "-Wl,--no-as-needed" "-Wl,--allow-shlib-undefined")
endif()
