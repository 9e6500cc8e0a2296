#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/hub/model_dir.h>
#include <bitrain/io/json.h>
#include <bitrain/models/sentence_encoder.h>

/// What the folders of sentence-transformers have in common: a list of modules, and dense maps.
namespace bitrain::hub {

/// One line of modules.json.
struct ModuleEntry {
  std::string type;  ///< Without the path of its Python module.
  std::filesystem::path directory;
};

/// Reads modules.json. Throws UnsupportedError for a type that is not among `known`, FormatError for a
/// damaged file.
[[nodiscard]] std::vector<ModuleEntry> read_modules(const std::filesystem::path& directory,
                                                    const std::vector<std::string>& known);
/// "Transformer, Pooling", for errors.
[[nodiscard]] std::string names_of(const std::vector<ModuleEntry>& modules);

/// Writes modules.json and makes the folders it names.
class ModuleWriter {
 public:
  explicit ModuleWriter(std::filesystem::path directory) : directory_(std::move(directory)) {}
  /// The folder of the next module, of a type below "sentence_transformers."; the first one's is the whole
  /// folder.
  std::filesystem::path add(const std::string& type);
  void finish() const;

 private:
  std::filesystem::path directory_;
  io::Json modules_ = io::Json::array();
};

/// A Dense that reads and writes `features`: "sentence_embedding", or "token_embeddings" for every token.
/// Throws UnsupportedError for an activation that is not known, a residual, or other features.
[[nodiscard]] std::unique_ptr<models::Dense> read_dense(const std::filesystem::path& directory,
                                                        const std::string& features,
                                                        const OpenOptions& options);
void write_dense(const std::filesystem::path& directory, models::Dense& dense, const std::string& features,
                 const SaveOptions& options);

}  // namespace bitrain::hub
