#include <bitrain/recipe/validate_inputs.h>

#include <filesystem>
#include <string>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/late_interaction_dir.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/io/byte_reader.h>
#include <bitrain/models/bert/language_adapters.h>
#include <bitrain/recipe/sources.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// Opens the base on LibTorch's meta device: names and shapes in the headers are held against config.json,
/// and no weight is read. Its tokenizer is opened too.
void open_base(const Recipe& recipe) {
  const fs::path base = recipe.base;
  hub::OpenOptions headers;
  headers.device = at::kMeta;
  headers.tokenizer = false;
  std::int64_t rows = 0;
  if (!works_on_encoders(recipe)) {
    rows = hub::open_model(base, headers).model->config().vocab_size;
  } else if (hub::is_late_interaction(base)) {
    rows = hub::open_late_interaction(base, headers).model->encoder().config().vocab_size;
  } else {
    const models::BertConfig shape = hub::open_sentence_encoder(base, headers).model->encoder().config();
    if (shape.has_language_adapters())
      models::LanguageRouter(shape).set_languages({recipe.source.language, recipe.target.language});
    rows = shape.vocab_size;
  }
  hub::check_vocabulary(*text::open_tokenizer(base), rows);
}

/// Rows that are looked at. A file whose bad rows are left out may begin with many.
constexpr std::int64_t kFirstRows = 10;
constexpr std::int64_t kFirstRowsWithBad = 1000;

/// "it is read with format: tsv (r.yaml:9:3), ...: set target.format, ... to what this file has", of what is
/// said elsewhere than the path: a path on the command line gets the recipe's. "" where there is nothing.
std::string inherited(const Node* document, const std::string& key) {
  static constexpr const char* kHow[] = {"format",         "column",       "text_field",
                                         "pair_field",     "score_field",  "negatives_field",
                                         "messages_field", "prompt_field", "response_field"};
  if (document == nullptr) return "";
  const bool path_in_file = mark_of(*document, key + ".path").line > 0;
  std::vector<std::string> settings;
  std::vector<std::string> keys;
  for (const char* how : kHow) {
    const Node* setting = find(*document, key + "." + how);
    if (setting == nullptr || (setting->mark.line > 0) == path_in_file) continue;
    settings.push_back(to_text(how, ": ", setting->scalar, " (", setting->mark.text(), ")"));
    keys.push_back(key + "." + how);
  }
  if (settings.empty()) return "";
  return "it is read with " + join(settings, " and ") + ": set " + join(keys, " and ") +
         " to what this file has";
}

/// Why the first rows cannot be read; "" if they can.
std::string problem_of_rows(const data::SourceOptions& options, const std::string& inherited) {
  const std::string besides = inherited.empty() ? "" : "; " + inherited;
  std::error_code error;
  if (fs::file_size(options.path, error) == 0 && !error) return options.path + " is empty";
  try {
    (void)data::open_source(options);
  } catch (const data::OtherForm& problem) {
    return inherited.empty() ? problem.what() : problem.fault + besides;
  } catch (const ConfigError& problem) {  // Such a format has no such columns or keys.
    return problem.what() + besides;
  } catch (const OutOfMemoryError&) {
    throw;
  } catch (const Error& problem) {
    return problem.what();
  }
  return "";
}

}  // namespace

Mark mark_of(const Recipe& recipe, const Node* document, const std::string& key) {
  return document == nullptr || document->kind != Node::Kind::kMap ? Mark{recipe.file.string(), 1, 1}
                                                                   : mark_of(*document, key);
}

void check_base(const Recipe& recipe, const Node* document, BaseFiles base, Problems& problems) {
  const Mark mark = mark_of(recipe, document, "base");
  std::error_code error;
  if (!fs::exists(fs::path(recipe.base) / "config.json", error) &&
      !fs::exists(fs::path(recipe.base) / "modules.json", error))
    return problems.add(mark, "base",
                        recipe.base + " is no Hugging Face model folder: it has no config.json");
  if (base == BaseFiles::kTokenizer) return;
  try {
    open_base(recipe);
  } catch (const Error& problem) {
    problems.add(mark, "base", problem.what());
  }
}

void check_first_rows(const Recipe& recipe, const Node* document, Problems& problems) {
  for (auto& [key, file] : input_files(recipe)) {
    if (io::kind_of(file.path) != io::PathKind::kFile) continue;  // Said already.
    data::SourceOptions first = file;
    first.max_rows = file.skip_invalid ? kFirstRowsWithBad : kFirstRows;
    first.held_out_every = first.held_out_last = 0;
    const std::string where = key + ".path";
    if (const std::string problem = problem_of_rows(first, inherited(document, key)); !problem.empty())
      problems.add(mark_of(recipe, document, where), where, problem);
  }
}

}  // namespace bitrain::recipe
