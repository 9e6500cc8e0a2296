#include <bitrain/cli/text_options.h>

#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/cli/cli.h>

namespace bitrain::cli {

CLI::Option* add_text_options(CLI::App& verb, data::SourceOptions& data, const std::string& name,
                              const std::string& meaning) {
  CLI::Option* path = is_path(verb.add_option(name, data.path, meaning));
  verb.add_option("--format", data.format, "What a row is: auto, text, tsv or jsonl")
      ->check(CLI::IsMember({"auto", "text", "tsv", "jsonl"}))
      ->capture_default_str();
  verb.add_option("--column", data.column, "TSV: column of the text, from 1")->capture_default_str();
  CLI::Option* field =
      verb.add_option("--text-field", data.text_field, "JSON: key of the text; text where empty");
  if (!data.text_field.empty()) field->capture_default_str();
  verb.add_flag("--skip-invalid", data.skip_invalid, "Leave out rows that cannot be read and count them");
  return path;
}

data::SourcePtr open_text(data::SourceOptions options, data::Split split) {
  options.reads = "text";
  data::SourceCounts counts;
  const data::SourcePtr source = data::open_source_once(options, split, &counts);
  log_invalid(options, counts);
  return source;
}

void log_invalid(const data::SourceOptions& options, const data::SourceCounts& counts) {
  if (counts.invalid > 0)
    log_info(options.path, ": ", with_thousands(counts.invalid), " of ", with_thousands(counts.rows),
             " rows cannot be read and are left out");
}

}  // namespace bitrain::cli
