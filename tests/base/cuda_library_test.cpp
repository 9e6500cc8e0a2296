#include <bitrain/base/cuda_library.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

namespace bitrain {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(CudaLibrary, LooksBesideLibTorchAndTheProgram) {
  const CudaLocations locations = cuda_locations();
  EXPECT_EQ(locations.torch_library.filename(), "libtorch_cuda.so");
  EXPECT_TRUE(std::filesystem::exists(locations.torch_library.parent_path() / "libtorch_cpu.so"));
  ASSERT_FALSE(locations.libraries.empty());
  for (const auto& place : locations.libraries) EXPECT_EQ(place.filename(), "libbitrain_cuda.so");
  EXPECT_TRUE(std::filesystem::exists(locations.libraries.front().parent_path()));
}

TEST(CudaLibrary, NamesEveryPartThatIsMissing) {
  CudaLocations locations;
  locations.driver = "libno-such-driver.so.1";
  locations.torch_library = "/nowhere/libtorch_cuda.so";
  locations.libraries = {"/nowhere/libbitrain_cuda.so", "/elsewhere/libbitrain_cuda.so"};
  const std::vector<std::string> problems = missing_for_cuda(locations);
  ASSERT_EQ(problems.size(), 3U);
  EXPECT_THAT(problems[0], HasSubstr("no NVIDIA driver"));
  EXPECT_THAT(problems[0], HasSubstr("device: cpu"));
  EXPECT_THAT(problems[1], HasSubstr("/nowhere/libtorch_cuda.so"));
  EXPECT_THAT(problems[2], HasSubstr("/elsewhere/libbitrain_cuda.so"));
  EXPECT_THAT(problems[2], HasSubstr("nvcc"));
}

TEST(CudaLibrary, ALibraryThatIsNoDriverIsNotTakenForOne) {
  CudaLocations locations;
  locations.driver = "libc.so.6";
  EXPECT_THAT(missing_for_cuda(locations), Contains(HasSubstr("no cuInit")));
}

TEST(CudaLibrary, FindsOurLibraryInAnyOfItsPlaces) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "bitrain_cuda_library_test";
  std::filesystem::create_directories(folder);
  const auto file = folder / "libbitrain_cuda.so";
  std::ofstream(file) << "found by name only";
  CudaLocations locations = cuda_locations();
  locations.libraries = {"/nowhere/libbitrain_cuda.so", file};
  EXPECT_THAT(missing_for_cuda(locations), Not(Contains(HasSubstr("kernels were not built"))));
  std::filesystem::remove_all(folder);
}

TEST(CudaLibrary, WithoutAGpuTheErrorSaysWhyAndTheProcessGoesOn) {
  const std::vector<std::string> problems = missing_for_cuda();
  if (problems.empty()) GTEST_SKIP() << "this machine has all that CUDA needs";
  for (int i = 0; i < 2; ++i) {  // A failure is not remembered as success.
    try {
      require_cuda();
      FAIL() << "require_cuda did not throw";
    } catch (const UnsupportedError& error) {
      EXPECT_THAT(error.what(), HasSubstr("cuda is not available"));
      for (const std::string& problem : problems) EXPECT_THAT(error.what(), HasSubstr(problem));
    }
  }
  EXPECT_THROW((void)cuda_symbol("bitrain_cuda_quantize_4bit"), UnsupportedError);
}

TEST(CudaLibrary, HasItsFunctionsWhereItCanBeLoaded) {
  if (!missing_for_cuda().empty()) GTEST_SKIP() << "no CUDA here";
  EXPECT_NE(cuda_symbol("bitrain_cuda_quantize_4bit"), nullptr);
  EXPECT_THROW((void)cuda_symbol("bitrain_cuda_no_such_function"), UnsupportedError);
}

}  // namespace
}  // namespace bitrain
