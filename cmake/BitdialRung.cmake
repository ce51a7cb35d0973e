# Every rung of the ladder (docs/architecture.md) is one library `bitdial_<rung>` made of bitdial/<rung>/*.cpp, and
# links the rungs below it; its tests are one program `bitdial_<rung>_tests` made of tests/<rung>/*.cpp.
include(GNUInstallDirs)

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Precompiled headers need these to be cached at all.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
endif()

if(BITDIAL_TORCH)
  find_package(LibTorch 2.7 REQUIRED)
endif()

# OpenMP by the compiler's flag, not by a library's path: the loader must take the runtime that LibTorch brings. Where that
# file has another name than programs ask for, a link of the usual name leads to it: the loader tells files by inode.
add_library(bitdial_openmp INTERFACE)
add_library(bitdial::openmp ALIAS bitdial_openmp)
set_target_properties(bitdial_openmp PROPERTIES EXPORT_NAME openmp)
if(BITDIAL_OPENMP)
  if(BITDIAL_TORCH AND NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    message(FATAL_ERROR "LibTorch runs on GNU OpenMP, and ${CMAKE_CXX_COMPILER_ID} would bring a second runtime into the "
                        "process. Use g++, or configure with -DBITDIAL_OPENMP=OFF.")
  endif()
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  separate_arguments(_openmp_flags UNIX_COMMAND "${OpenMP_CXX_FLAGS}")
  target_compile_options(bitdial_openmp INTERFACE ${_openmp_flags})
  target_link_options(bitdial_openmp INTERFACE ${_openmp_flags})
  if(LibTorch_OPENMP_LIBRARY)
    file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/openmp")
    file(CREATE_LINK "${LibTorch_OPENMP_LIBRARY}" "${PROJECT_BINARY_DIR}/openmp/libgomp.so.1" SYMBOLIC)
    install(FILES "${PROJECT_BINARY_DIR}/openmp/libgomp.so.1" DESTINATION "${CMAKE_INSTALL_LIBDIR}/bitdial")
    target_link_options(bitdial_openmp INTERFACE
      "$<BUILD_INTERFACE:LINKER:-rpath,${PROJECT_BINARY_DIR}/openmp>"
      "$<INSTALL_INTERFACE:LINKER:-rpath,$<INSTALL_PREFIX>/${CMAKE_INSTALL_LIBDIR}/bitdial>")
  endif()
endif()

add_library(bitdial_options INTERFACE)
target_compile_options(bitdial_options INTERFACE
  -Wall -Wextra -Wconversion $<$<BOOL:${BITDIAL_WERROR}>:-Werror>
  -ffp-contract=off  # the same bits from every instruction set
  $<$<AND:$<BOOL:${CCACHE_PROGRAM}>,$<CXX_COMPILER_ID:GNU>>:-fpch-preprocess>)
if(BITDIAL_SANITIZE)
  # GCC 12 takes the checks that a sanitizer inserts into LibTorch's optionals for reads of what is not set.
  add_compile_options(-fsanitize=${BITDIAL_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -Wno-maybe-uninitialized)
  add_link_options(-fsanitize=${BITDIAL_SANITIZE})
endif()

# Drops the rungs that hold no source file from a list of targets.
function(bitdial_keep_built list)
  foreach(target IN LISTS ${list})
    if(target MATCHES "^bitdial_" AND NOT TARGET ${target})
      list(REMOVE_ITEM ${list} ${target})
    endif()
  endforeach()
  set(${list} ${${list}} PARENT_SCOPE)
endfunction()

# With BITDIAL_UNITY, compiles the sources of a target in batches of `size` files: headers are what most of them cost.
function(bitdial_unity target size)
  if(BITDIAL_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${size})
  endif()
endfunction()

# bitdial_rung(NAME [TORCH] [UNITY size] [SOURCES file... | EXCEPT file...] [DEPENDS target...])
function(bitdial_rung name)
  cmake_parse_arguments(ARG "TORCH" "UNITY" "SOURCES;EXCEPT;DEPENDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}"
       "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp")
  if(ARG_SOURCES)
    set(missing ${ARG_SOURCES})
    list(REMOVE_ITEM missing ${sources})
    set(sources ${ARG_SOURCES})
    list(REMOVE_ITEM sources ${missing} "")
  elseif(ARG_EXCEPT)
    list(REMOVE_ITEM sources ${ARG_EXCEPT})
  endif()
  list(FILTER sources EXCLUDE REGEX "(^|/)main\\.cpp$")
  if(NOT sources)
    return()
  endif()
  bitdial_keep_built(ARG_DEPENDS)
  add_library(bitdial_${name} STATIC ${sources})
  add_library(bitdial::${name} ALIAS bitdial_${name})
  set_target_properties(bitdial_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(bitdial_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(bitdial_${name} PUBLIC ${ARG_DEPENDS} PRIVATE $<BUILD_INTERFACE:bitdial_options>)
  target_compile_features(bitdial_${name} PUBLIC cxx_std_20)
  if(ARG_UNITY)
    bitdial_unity(bitdial_${name} ${ARG_UNITY})
  endif()
  if(ARG_TORCH)
    target_link_libraries(bitdial_${name} PUBLIC LibTorch::LibTorch)
    bitdial_torch_pch(bitdial_${name})
  endif()
  set_property(GLOBAL APPEND PROPERTY BITDIAL_RUNGS bitdial_${name})
endfunction()

# True if `file` includes torch headers, itself or through headers of this project; those of version numbers are light.
function(bitdial_includes_torch file result)
  get_property(known GLOBAL PROPERTY "BITDIAL_TORCH_IN_${file}")
  if("${known}" STREQUAL "")
    set(known FALSE)
    set_property(GLOBAL PROPERTY "BITDIAL_TORCH_IN_${file}" FALSE)  # ends a circle of includes
    file(STRINGS "${file}" includes REGEX "^ *#include")
    foreach(include IN LISTS includes)
      if(include MATCHES "[<\"](torch|ATen|c10)/" AND NOT include MATCHES "/[Vv]ersion\\.h>")
        set(known TRUE)
      elseif(NOT known AND include MATCHES "\"((bitdial|tests)/[^\"]+)\"")
        set(header "${PROJECT_SOURCE_DIR}/${CMAKE_MATCH_1}")
        if(EXISTS "${header}")
          bitdial_includes_torch("${header}" known)
        endif()
      endif()
    endforeach()
    set_property(GLOBAL PROPERTY "BITDIAL_TORCH_IN_${file}" ${known})
  endif()
  set(${result} ${known} PARENT_SCOPE)
endfunction()

# One precompiled torch header for all rungs and tests: it costs more than a minute, a source file without it 15 s. Even
# precompiled it costs a file 5 s, so that those that need no torch header are spared it.
function(bitdial_torch_pch target)
  if(NOT TARGET bitdial_torch_pch)
    file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/torch_pch.cpp" CONTENT "// Owner of the precompiled torch header.\n")
    add_library(bitdial_torch_pch OBJECT "${PROJECT_BINARY_DIR}/torch_pch.cpp")
    target_link_libraries(bitdial_torch_pch PRIVATE LibTorch::LibTorch bitdial_options bitdial_openmp)
    target_precompile_headers(bitdial_torch_pch PRIVATE <torch/torch.h>)
  endif()
  target_precompile_headers(${target} REUSE_FROM bitdial_torch_pch)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:bitdial_openmp>)  # the same flags as the header's
  get_target_property(sources ${target} SOURCES)
  set(any FALSE)
  foreach(source IN LISTS sources)
    cmake_path(ABSOLUTE_PATH source OUTPUT_VARIABLE path)
    bitdial_includes_torch("${path}" torch)
    if(torch)
      set(any TRUE)
    else()
      set_property(SOURCE "${source}" PROPERTY SKIP_PRECOMPILE_HEADERS ON)
    endif()
  endforeach()
  if(NOT any)  # nor do batches of such files
    set_target_properties(${target} PROPERTIES DISABLE_PRECOMPILE_HEADERS ON)
  endif()
  # A precompiled header fits only code of the same position independence: programs take the libraries' -fPIC, not -fPIE.
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "EXECUTABLE")
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
endfunction()

# bitdial_tests(NAME [TORCH] [UNITY size] [DEPENDS target...])
function(bitdial_tests name)
  cmake_parse_arguments(ARG "TORCH" "UNITY" "DEPENDS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp")
  if(NOT sources)
    return()
  endif()
  bitdial_keep_built(ARG_DEPENDS)
  add_executable(bitdial_${name}_tests ${sources})
  target_link_libraries(bitdial_${name}_tests PRIVATE ${ARG_DEPENDS} bitdial_options GTest::gtest GTest::gtest_main)
  target_include_directories(bitdial_${name}_tests PRIVATE "${PROJECT_SOURCE_DIR}")
  if(ARG_UNITY)
    bitdial_unity(bitdial_${name}_tests ${ARG_UNITY})
  endif()
  if(ARG_TORCH)
    target_link_libraries(bitdial_${name}_tests PRIVATE LibTorch::LibTorch bitdial_test_seed)
    bitdial_torch_pch(bitdial_${name}_tests)
  endif()
  target_compile_definitions(bitdial_${name}_tests PRIVATE BITDIAL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  gtest_discover_tests(bitdial_${name}_tests DISCOVERY_TIMEOUT 120 PROPERTIES
    LABELS ${name} TIMEOUT 600
    ENVIRONMENT OMP_WAIT_POLICY=passive)  # tests run side by side: idle threads must not spin
endfunction()
