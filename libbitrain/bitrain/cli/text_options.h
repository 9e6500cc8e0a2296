#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include <bitrain/data/source.h>

namespace bitrain::cli {

/// Adds --data (or another name) and what it takes to read it: --format, --column, --text-field,
/// --skip-invalid.
CLI::Option* add_text_options(
    CLI::App& verb, data::SourceOptions& data, const std::string& name = "--data",
    const std::string& meaning = "Text, TSV or JSON file or pipe, also .gz or .zst");

/// Opens what the options name, a pipe too, for texts; says how many rows were left out.
[[nodiscard]] data::SourcePtr open_text(data::SourceOptions options, data::Split split = data::Split::kAll);

/// Logs how many rows were left out by skip_invalid.
void log_invalid(const data::SourceOptions& options, const data::SourceCounts& counts);

}  // namespace bitrain::cli
