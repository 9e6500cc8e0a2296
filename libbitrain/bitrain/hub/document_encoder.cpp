#include <bitrain/hub/document_encoder.h>

#include <string>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/json.h>
#include <bitrain/models/config_reader.h>

namespace bitrain::hub {
namespace fs = std::filesystem;
namespace {

constexpr const char* kUpper = "documents";
constexpr const char* kConfig = "document_encoder.json";

}  // namespace

bool is_document_encoder(const fs::path& directory) {
  std::error_code ignored;
  return fs::exists(directory / kUpper / kConfig, ignored);
}

OpenedDocumentEncoder open_document_encoder(const fs::path& directory, const OpenOptions& options) {
  const fs::path upper = directory / kUpper;
  const std::string where = (upper / kConfig).string();
  const io::Json json = io::read_json(where);
  std::string pooling = "mean";
  models::ConfigReader(json, where).read("pooling", pooling);
  OpenedSentenceEncoder lower = open_sentence_encoder(directory, options);
  OpenOptions above = options;
  above.tokenizer = false;
  OpenedEncoder documents = open_encoder(upper, above);
  OpenedDocumentEncoder opened;
  opened.tokenizer = std::move(lower.tokenizer);
  opened.settings = std::move(lower.settings);
  try {
    opened.model = std::make_unique<models::DocumentEncoder>(std::move(lower.model),
                                                             std::move(documents.model), pooling);
  } catch (const ConfigError& error) {
    throw FormatError(where, ": ", error.what());
  }
  return opened;
}

void save_document_encoder(const fs::path& directory, models::DocumentEncoder& model,
                           const text::Tokenizer* tokenizer, const SentenceSettings& settings,
                           const SaveOptions& options) {
  io::AtomicDirectory folder(directory);
  write_sentence_encoder(folder.path(), model.sentences(), tokenizer, settings, options);
  const fs::path upper = folder.path() / kUpper;
  fs::create_directories(upper);
  write_encoder(upper, model.documents(), nullptr, options);
  io::write_json(upper / kConfig, {{"pooling", model.pooling()}});
  folder.commit();
}

}  // namespace bitrain::hub
