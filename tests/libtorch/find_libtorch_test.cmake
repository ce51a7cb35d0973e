# Runs tests/libtorch against made-up LibTorch folders: cmake -DWORK=folder -P find_libtorch_test.cmake
file(REMOVE_RECURSE "${WORK}")

# fake(FOLDER VERSION [TEXT of TorchConfig.cmake]): the files that FindLibTorch looks at.
function(fake folder version)
  string(REPLACE "." ";" v "${version}")
  list(GET v 0 major)
  list(GET v 1 minor)
  foreach(library torch_cpu c10 torch_cuda)
    file(WRITE "${folder}/lib/lib${library}.so" "")
  endforeach()
  file(WRITE "${folder}/include/torch/csrc/api/include/torch/torch.h" "")
  file(WRITE "${folder}/include/torch/csrc/api/include/torch/version.h"
       "#define TORCH_VERSION_MAJOR ${major}\n#define TORCH_VERSION_MINOR ${minor}\n#define TORCH_VERSION_PATCH 0\n")
  file(WRITE "${folder}/share/cmake/Torch/TorchConfig.cmake" "${ARGN}")
endfunction()

# configure(CASE expected-result expected-text cmake-arguments...)
function(configure case result text)
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}" -B "${WORK}/build-${case}" ${ARGN}
    RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if((result STREQUAL "found" AND NOT code EQUAL 0) OR (result STREQUAL "refused" AND code EQUAL 0)
     OR NOT output MATCHES "${text}")
    message(FATAL_ERROR "${case}: expected '${result}' and '${text}', got code ${code}:\n${output}")
  endif()
endfunction()

fake("${WORK}/old" 2.6)
fake("${WORK}/new" 2.7)
fake("${WORK}/old_abi" 2.13 "set(TORCH_CXX_FLAGS \"-D_GLIBCXX_USE_CXX11_ABI=0\")")
fake("${WORK}/cuda" 2.13 "message(FATAL_ERROR \"no CUDA toolkit\")\nset(TORCH_CXX_FLAGS \"-D_GLIBCXX_USE_CXX11_ABI=1\")")
fake("${WORK}/site-packages/torch" 2.12)
file(MAKE_DIRECTORY "${WORK}/empty")

configure(missing refused "CMAKE_PREFIX_PATH" "-DCMAKE_PREFIX_PATH=${WORK}/empty")
configure(old refused "2\\.6\\.0.*2\\.7" "-DCMAKE_PREFIX_PATH=${WORK}/old")
configure(old_abi refused "old C\\+\\+ ABI" "-DCMAKE_PREFIX_PATH=${WORK}/old_abi")
configure(new found "version=2\\.7\\.0" "-DCMAKE_PREFIX_PATH=${WORK}/new")
# Neither CUDA's libraries nor its toolkit are asked for.
configure(cuda found "links=[^ ]*/cuda/lib/libtorch_cpu\\.so;[^ ]*/cuda/lib/libc10\\.so openmp=( |$)"
          "-DCMAKE_PREFIX_PATH=${WORK}/cuda")
# As `python -c 'import torch; print(torch.utils.cmake_prefix_path)'` prints it, and the folder that holds the package.
configure(prefix_path found "version=2\\.13\\.0" "-DCMAKE_PREFIX_PATH=${WORK}/cuda/share/cmake")
configure(site_packages found "version=2\\.12\\.0" "-DCMAKE_PREFIX_PATH=${WORK}/site-packages")
# An OpenMP runtime under a name of its own is linked by that name.
file(WRITE "${WORK}/renamed/torch/lib/libgomp-1a2b3c4d.so.1" "")
fake("${WORK}/renamed/torch" 2.7)
configure(renamed_openmp found "openmp=[^ ]*/renamed/torch/lib/libgomp-1a2b3c4d\\.so\\.1( |$)"
          "-DCMAKE_PREFIX_PATH=${WORK}/renamed")
# An explicit root wins.
configure(root found "version=2\\.7\\.0" "-DCMAKE_PREFIX_PATH=${WORK}/cuda" "-DLibTorch_ROOT=${WORK}/new")
set(ENV{CMAKE_PREFIX_PATH} "${WORK}/empty:${WORK}/new")
configure(environment found "version=2\\.7\\.0")
