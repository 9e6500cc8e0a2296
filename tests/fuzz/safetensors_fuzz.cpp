#include <cstring>
#include <fstream>

#include <ATen/TensorOperators.h>
#include <ATen/ops/sum.h>

#include <bitrain/base/error.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/io/temporary_directory.h>

#include "driver.h"

namespace bitrain::fuzz {

void fuzz_one(const std::uint8_t* data, std::size_t size) {
  static const io::TemporaryDirectory folder("bitrain-fuzz");
  static const std::string path = folder.path() / "input.safetensors";
  {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  }
  try {
    const io::SafetensorsFile file = io::SafetensorsFile::open(path);
    for (const std::string& name : file.names()) {
      // Read every byte, so that one outside the mapping is seen.
      const at::Tensor tensor = file.tensor(name);
      volatile unsigned char sum = 0;
      const auto* bytes = static_cast<const unsigned char*>(tensor.const_data_ptr());
      for (std::size_t i = 0; i < tensor.nbytes(); ++i) sum = static_cast<unsigned char>(sum + bytes[i]);
    }
  } catch (const Error&) {
  }
}

std::vector<std::string> seeds() {
  std::vector<std::string> inputs;
  for (
      const char* header :
      {R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})",
       R"({"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"y":{"dtype":"I64","shape":[0,7],"data_offsets":[1,1]},"z":{"dtype":"U8","shape":[31],"data_offsets":[1,32]}})",
       "{}"}) {
    const std::uint64_t size = std::strlen(header);
    std::string file(reinterpret_cast<const char*>(&size), 8);
    file += header;
    if (size > 2) file += std::string(32, '\x42');
    inputs.push_back(file);
  }
  return inputs;
}

}  // namespace bitrain::fuzz
