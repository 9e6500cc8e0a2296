#pragma once

#include <filesystem>
#include <fstream>
#include <string>

/// What the recipes of tests have in common: a file of made-up pairs, and the keys in front of the stages.
namespace bitrain::test {

/// Rows `I \t English \t Spanish`, in which `animal` stands.
inline void write_pairs(const std::filesystem::path& path, int rows = 300,
                        const std::string& animal = "cat") {
  std::ofstream file(path);
  for (int i = 0; i < rows; ++i)
    file << i << "\tthe " << animal << " number " << i << " saw the dog\tel gato número " << i
         << " vio al perro\n";
}

/// A recipe on pairs.tsv beside it, up to `stages:`; the stages follow, two blanks in.
inline std::string tiny_recipe(const std::string& dtype) {
  return "schema: 1\nname: tiny\nthreads: 1\ndtype: " + dtype + R"(
source: {path: pairs.tsv, format: tsv, column: 2, language: en}
target: {path: pairs.tsv, format: tsv, column: 3, language: es}
held_out: {every: 10, max_documents: 10}
stages:
)";
}

}  // namespace bitrain::test
