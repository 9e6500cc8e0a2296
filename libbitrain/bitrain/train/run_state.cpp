#include <bitrain/train/run_state.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include <bitrain/base/format.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::train {
namespace {

using Json = nlohmann::ordered_json;

/// JSON has no NaN: null stands for it.
double number(const Json& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

Json log_entry(const StepRecord& record) {
  Json entry = {{"step", record.step},
                {"loss", record.loss},
                {"learning_rate", record.learning_rate},
                {"grad_norm", record.grad_norm},
                {"tokens", record.total_tokens},
                {"tokens_per_second", record.tokens_per_second}};
  if (record.skipped) entry["skipped"] = record.skip_reason;
  return entry;
}

StepRecord parse_log_entry(const Json& entry) {
  StepRecord record;
  record.step = entry.at("step");
  record.loss = number(entry.at("loss"));
  record.learning_rate = number(entry.at("learning_rate"));
  record.grad_norm = number(entry.at("grad_norm"));
  record.total_tokens = entry.at("tokens");
  record.tokens_per_second = number(entry.at("tokens_per_second"));
  record.skipped = entry.contains("skipped");
  if (record.skipped) record.skip_reason = entry.at("skipped");
  return record;
}

/// Steps and evaluations in one list by step, as Hugging Face's tools expect it.
Json log_history(const RunState& state) {
  Json history = Json::array();
  std::size_t next_evaluation = 0;
  const auto add_evaluations = [&](std::int64_t before_step) {
    for (; next_evaluation < state.evaluations.size(); ++next_evaluation) {
      const Evaluation& evaluation = state.evaluations[next_evaluation];
      if (evaluation.step >= before_step) return;
      Json entry = {{"step", evaluation.step}, {"eval_runtime", evaluation.seconds}};
      for (const auto& [language, figures] : evaluation.languages) {
        for (const auto& [name, value] : figures) {
          std::string key = "eval_" + language;
          key += "_" + name;
          entry[key] = value;
        }
      }
      history.push_back(std::move(entry));
    }
  };
  for (const StepRecord& record : state.log) {
    add_evaluations(record.step);
    history.push_back(log_entry(record));
  }
  add_evaluations(std::numeric_limits<std::int64_t>::max());
  return history;
}

Json evaluations_json(const std::vector<Evaluation>& evaluations) {
  Json list = Json::array();
  for (const Evaluation& evaluation : evaluations) {
    list.push_back(
        {{"step", evaluation.step}, {"seconds", evaluation.seconds}, {"languages", evaluation.languages}});
  }
  return list;
}

Evaluation parse_evaluation(const Json& json) {
  Evaluation evaluation;
  evaluation.step = json.at("step");
  evaluation.seconds = number(json.at("seconds"));
  for (const auto& [language, figures] : json.at("languages").items()) {
    for (const auto& [name, value] : figures.items()) evaluation.languages[language][name] = number(value);
  }
  return evaluation;
}

}  // namespace

Json trainer_state_json(const RunState& state, const TrainOptions& options, std::int64_t total_steps) {
  Json json;
  const bool evaluated = state.best_step > 0;
  json["best_global_step"] = evaluated ? Json(state.best_step) : Json();
  json["best_metric"] = evaluated ? Json(state.best_metric) : Json();
  json["best_model_checkpoint"] =
      evaluated && options.keep_best ? Json("checkpoint-" + std::to_string(state.best_step)) : Json();
  json["epoch"] = 0.0;
  json["eval_steps"] = options.eval_every;
  json["global_step"] = state.step;
  json["is_hyper_param_search"] = false;
  json["is_local_process_zero"] = true;
  json["is_world_process_zero"] = true;
  json["log_history"] = log_history(state);
  json["logging_steps"] = options.log_every;
  json["max_steps"] = total_steps;
  json["num_input_tokens_seen"] = state.tokens;
  json["num_train_epochs"] = 1;
  json["save_steps"] = options.save_every;
  json["stateful_callbacks"] = Json::object();
  json["total_flos"] = 0.0;
  json["train_batch_size"] = nullptr;
  json["trial_name"] = nullptr;
  json["trial_params"] = nullptr;
  json["bitrain"] = {{"version", 1},
                     {"seed", state.seed},
                     {"supervised", state.supervised},
                     {"seconds", state.seconds},
                     {"language_tokens", state.language_tokens},
                     {"evaluations", evaluations_json(state.evaluations)},
                     {"recent_losses", state.guard.recent},
                     {"skipped_steps", state.guard.skipped},
                     {"cursor", state.cursor}};
  return json;
}

RunState parse_trainer_state(const Json& json, const std::string& name) {
  try {
    RunState state;
    const Json& own = json.at("bitrain");
    if (own.at("version") != 1) {
      throw FormatError(name, ": trainer state of version ", own.at("version").dump(),
                        "; this program knows 1");
    }
    state.step = json.at("global_step");
    state.tokens = json.at("num_input_tokens_seen");
    state.supervised = own.at("supervised");
    state.seconds = own.at("seconds");
    state.language_tokens = own.at("language_tokens").get<std::map<std::string, std::int64_t>>();
    for (const Json& entry : json.at("log_history")) {
      if (entry.contains("loss")) state.log.push_back(parse_log_entry(entry));
    }
    for (const Json& entry : own.at("evaluations")) state.evaluations.push_back(parse_evaluation(entry));
    state.guard.recent = own.at("recent_losses").get<std::vector<double>>();
    state.guard.skipped = own.at("skipped_steps");
    if (!json.at("best_global_step").is_null()) {
      state.best_step = json.at("best_global_step");
      state.best_metric = number(json.at("best_metric"));
    }
    state.cursor = own.at("cursor");
    state.seed = own.at("seed");
    return state;
  } catch (const Json::exception& error) {
    throw FormatError(name, ": not a trainer state that bitrain can resume from: ", error.what());
  }
}

TrainResult summarise_run(const RunState& state) {
  TrainResult result;
  result.steps = state.step;
  result.tokens = state.tokens;
  result.supervised_tokens = std::llround(state.supervised);
  result.seconds = state.seconds;
  result.tokens_per_second = state.seconds > 0 ? static_cast<double>(state.tokens) / state.seconds : 0;
  for (const StepRecord& record : state.log) {
    result.curve.step.push_back(record.step);
    result.curve.loss.push_back(record.loss);
    result.curve.learning_rate.push_back(record.learning_rate);
    result.curve.tokens_per_second.push_back(record.tokens_per_second);
  }
  const std::size_t last_part = (state.log.size() + 9) / 10;
  for (std::size_t i = state.log.size() - last_part; i < state.log.size(); ++i) {
    result.train_loss += state.log[i].loss / static_cast<double>(last_part);
  }
  result.evaluations = state.evaluations;
  std::int64_t known = 0;
  for (const auto& [language, tokens] : state.language_tokens) known += tokens;
  for (const auto& [language, tokens] : state.language_tokens) {
    result.shares[language] = {
        tokens, static_cast<double>(tokens) / static_cast<double>(std::max<std::int64_t>(known, 1))};
  }
  result.skipped_steps = state.guard.skipped;
  result.best_step = state.best_step;
  result.best_metric = state.best_metric;
  return result;
}

double metric_of(const Evaluation& evaluation, const std::string& best_metric) {
  const std::size_t slash = best_metric.rfind('/');
  const std::string language = slash == std::string::npos ? "" : best_metric.substr(0, slash);
  const std::string figure = slash == std::string::npos ? best_metric : best_metric.substr(slash + 1);
  double sum = 0;
  double count = 0;
  std::set<std::string> known;
  for (const auto& [name, figures] : evaluation.languages) {
    for (const auto& [key, value] : figures) {
      known.insert(key);
      known.insert(to_text(name, "/", key));
      if (key != figure || (!language.empty() && name != language)) continue;
      sum += value;
      ++count;
    }
  }
  if (count == 0) {
    const std::vector<std::string> names(known.begin(), known.end());
    throw ConfigError("train.best_metric '", best_metric, "' is not among the figures of the evaluation",
                      did_you_mean(best_metric, names), "; there are: ", join(names, ", "));
  }
  return sum / count;
}

}  // namespace bitrain::train
