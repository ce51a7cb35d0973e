# `cmake --install`: static libraries of all rungs, headers, the command, recipes, and the package `bitdial`.
include(CMakePackageConfigHelpers)
set(_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/bitdial")

get_property(_rungs GLOBAL PROPERTY BITDIAL_RUNGS)
install(TARGETS ${_rungs} bitdial_openmp EXPORT bitdialTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT bitdialTargets NAMESPACE bitdial:: DESTINATION "${_package_dir}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/bitdial" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/recipes" DESTINATION "${CMAKE_INSTALL_DATADIR}/bitdial")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")

if(TARGET bitdial_command)
  install(TARGETS bitdial_command RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()

set(BITDIAL_RUNG_NAMES "${_rungs}")
list(TRANSFORM BITDIAL_RUNG_NAMES REPLACE "^bitdial_" "")
set(BITDIAL_LIBTORCH_ROOT "${LibTorch_LIBRARY_DIR}")
if(BITDIAL_LIBTORCH_ROOT)
  cmake_path(GET BITDIAL_LIBTORCH_ROOT PARENT_PATH BITDIAL_LIBTORCH_ROOT)
endif()
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/bitdialConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/bitdialConfig.cmake" INSTALL_DESTINATION "${_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/bitdialConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/bitdialConfig.cmake" "${PROJECT_BINARY_DIR}/bitdialConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/BitdialDependencies.cmake" "${PROJECT_SOURCE_DIR}/cmake/FindLibTorch.cmake"
  DESTINATION "${_package_dir}")
