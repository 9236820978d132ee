# ik-llama-cpp-python 0.1.5's source package leaves out the script that its build calls for a
# version stamp, and the build stops there. This puts one in its place: CMake includes this file
# after the first project() (CMAKE_PROJECT_INCLUDE, given in pins.yaml).
set(common "${CMAKE_SOURCE_DIR}/vendor/ik_llama.cpp/common")
if(EXISTS "${common}/build-info.cpp.in" AND NOT EXISTS "${common}/cmake/build-info-gen-cpp.cmake")
  file(WRITE "${common}/cmake/build-info-gen-cpp.cmake" [=[
set(BUILD_NUMBER 0)
set(BUILD_COMMIT "unknown")
set(BUILD_COMPILER "${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION}")
set(BUILD_TARGET "unknown")
set(folder "${CMAKE_CURRENT_LIST_DIR}/..")
configure_file("${folder}/build-info.cpp.in" "${folder}/build-info.cpp" @ONLY)
]=])
endif()
