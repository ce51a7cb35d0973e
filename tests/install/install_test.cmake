# Installs a build, then configures, builds and runs a project that uses what was installed:
#   cmake -DBUILD=build-folder -DWORK=folder -DGENERATOR=... -DBUILD_TYPE=... -DCXX=compiler -DFLAGS=...
#         -DWITH_TORCH=ON|OFF -P install_test.cmake
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE "${WORK}")

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  list(JOIN ARGN " " command)
  message(STATUS "${command}\n${output}")
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "failed with ${code}: ${command}")
  endif()
endfunction()

run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/prefix")
run("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/consumer" -B "${WORK}/build" -G "${GENERATOR}"
    "-DCMAKE_PREFIX_PATH=${WORK}/prefix" "-DCMAKE_BUILD_TYPE=${BUILD_TYPE}" "-DCMAKE_CXX_COMPILER=${CXX}"
    "-DCMAKE_CXX_FLAGS=${FLAGS}")
run("${CMAKE_COMMAND}" --build "${WORK}/build")
run("${WORK}/build/kernels")
if(WITH_TORCH)
  run("${WORK}/build/train")
  run("${WORK}/prefix/bin/bitdial" --version)
  if(NOT EXISTS "${WORK}/prefix/share/bitdial/recipes/cifar10-resnet20.toml")
    message(FATAL_ERROR "recipes are not installed")
  endif()
endif()
