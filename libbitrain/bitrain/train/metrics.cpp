#include <bitrain/train/metrics.h>

#include <cerrno>
#include <cstring>
#include <string>

#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>

namespace bitrain::train {
namespace {

using Json = nlohmann::ordered_json;

/// The lines of an earlier process that a run resumed at `step` still stands on.
std::string lines_until(const std::filesystem::path& path, std::int64_t step) {
  std::string kept;
  if (step == 0 || !std::filesystem::exists(path)) return kept;
  for (const std::string& line : split(io::read_file(path), '\n')) {
    const Json value = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!value.is_object() || !value.contains("step") || !value["step"].is_number_integer()) continue;
    if (value["step"].get<std::int64_t>() <= step) kept += line + "\n";
  }
  return kept;
}

}  // namespace

void MetricsFile::on_begin(const RunInfo& info) {
  log_every_ = info.log_every;
  total_steps_ = info.total_steps;
  io::write_file_atomic(path_, lines_until(path_, info.first_step));
  file_.open(path_, std::ios::app | std::ios::binary);
  if (!file_) throw IoError(path_.string(), ": cannot be opened for writing: ", std::strerror(errno));
}

void MetricsFile::on_step(const StepRecord& record) {
  if (!is_logged(record.step, log_every_, total_steps_) && !record.skipped) return;
  Json line = {{"step", record.step},
               {"loss", record.loss},
               {"learning_rate", record.learning_rate},
               {"grad_norm", record.grad_norm},
               {"tokens", record.total_tokens},
               {"tokens_per_second", record.tokens_per_second},
               {"seconds", record.seconds}};
  if (record.skipped) line["skipped"] = record.skip_reason;
  if (!record.parts.empty()) line["parts"] = record.parts;
  write_line(line.dump());
}

void MetricsFile::on_evaluate(const Evaluation& evaluation) {
  write_line(
      Json{{"step", evaluation.step}, {"seconds", evaluation.seconds}, {"evaluation", evaluation.languages}}
          .dump());
}

void MetricsFile::write_line(const std::string& line) {
  errno = 0;
  file_ << line << '\n' << std::flush;
  if (!file_) throw IoError(path_.string(), ": cannot write: ", std::strerror(errno));
}

}  // namespace bitrain::train
