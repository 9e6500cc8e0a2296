#include <bitrain/models/bert/language_adapters.h>

#include <algorithm>
#include <numeric>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/nn/functional.h>

namespace bitrain::models {

// ---- Routing

std::int64_t LanguageRouter::adapter_named(const std::string& language) const {
  std::vector<std::string> fitting;
  std::int64_t last = 0;
  for (std::size_t i = 0; i < config_.languages.size(); ++i) {
    const std::string& name = config_.languages[i];
    if (name == language) return static_cast<std::int64_t>(i);
    if (name.substr(0, name.find('_')) != language) continue;
    fitting.push_back(name);
    last = static_cast<std::int64_t>(i);
  }
  if (fitting.size() == 1) return last;
  if (fitting.empty()) {
    throw ConfigError("language '", language, "' has no adapter", did_you_mean(language, config_.languages),
                      "; there are: ", join(config_.languages, ", "));
  }
  throw ConfigError("language '", language, "' fits several adapters, name one: ", join(fitting, ", "));
}

void LanguageRouter::set_languages(const std::vector<std::string>& languages) {
  std::vector<std::int64_t> adapters;
  adapters.reserve(languages.size());
  for (const std::string& language : languages) adapters.push_back(adapter_named(language));
  languages_ = languages;
  adapters_ = std::move(adapters);
}

std::int64_t LanguageRouter::adapter_of(const Batch& batch, std::int64_t segment) const {
  const std::int32_t id =
      batch.language_ids.empty() ? -1 : batch.language_ids[static_cast<std::size_t>(segment)];
  if (id < 0) {
    if (config_.default_language) return adapter_named(*config_.default_language);
    throw DataError("the language of segment ", segment,
                    " is unknown, and the model has no default_language: give the texts a language out of ",
                    join(config_.languages, ", "));
  }
  if (adapters_.empty())
    throw StateError("a model with an adapter for each language must know the languages: call set_languages");
  if (static_cast<std::size_t>(id) >= adapters_.size()) {
    throw DataError("language id ", id, " of segment ", segment, " is outside the ", languages_.size(),
                    " languages of the run: ", join(languages_, ", "));
  }
  return adapters_[static_cast<std::size_t>(id)];
}

LanguageRows LanguageRouter::route(const Batch& batch) const {
  const std::int64_t segments = batch.segments();
  if (!batch.language_ids.empty() && static_cast<std::int64_t>(batch.language_ids.size()) != segments)
    throw StateError("a batch of ", segments, " segments has ", batch.language_ids.size(), " language ids");
  std::vector<std::int64_t> adapter(static_cast<std::size_t>(segments));
  for (std::int64_t s = 0; s < segments; ++s) adapter[static_cast<std::size_t>(s)] = adapter_of(batch, s);
  std::vector<std::size_t> sorted(adapter.size());
  std::iota(sorted.begin(), sorted.end(), 0);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](std::size_t a, std::size_t b) { return adapter[a] < adapter[b]; });

  LanguageRows result;
  for (const std::size_t segment : sorted) {
    if (result.groups.empty() || result.groups.back().adapter != adapter[segment])
      result.groups.push_back({adapter[segment], 0});
    result.groups.back().rows += batch.boundaries[segment + 1] - batch.boundaries[segment];
  }
  if (std::is_sorted(sorted.begin(), sorted.end())) return result;
  const at::Tensor order = at::empty({batch.tokens()}, at::TensorOptions().dtype(at::kLong));
  const at::Tensor inverse = at::empty({batch.tokens()}, at::TensorOptions().dtype(at::kLong));
  auto* to = order.mutable_data_ptr<std::int64_t>();
  auto* back = inverse.mutable_data_ptr<std::int64_t>();
  std::int64_t next = 0;
  for (const std::size_t segment : sorted) {
    for (std::int64_t row = batch.boundaries[segment]; row < batch.boundaries[segment + 1]; ++row) {
      to[next] = row;
      back[row] = next++;
    }
  }
  result.order = order.to(batch.input_ids.device());
  result.inverse = inverse.to(batch.input_ids.device());
  return result;
}

// ---- Adapters

class LanguageAdapters::Adapter : public nn::Module {
 public:
  Adapter(const BertConfig& config, nn::Activation activation, at::TensorOptions options)
      : activation_(activation),
        dense1_(config.hidden_size, config.hidden_size / config.adapter_reduction_factor, true, options),
        dense2_(config.hidden_size / config.adapter_reduction_factor, config.hidden_size, true, options) {
    register_child("dense1", dense1_);
    register_child("dense2", dense2_);
  }

  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const nn::ForwardContext& context) const {
    return dense2_.forward(nn::activate(dense1_.forward(x, context), activation_), context);
  }

 private:
  nn::Activation activation_;
  nn::Linear dense1_;
  nn::Linear dense2_;
};

LanguageAdapters::LanguageAdapters(const BertConfig& config, nn::Activation activation,
                                   at::TensorOptions options) {
  for (const std::string& language : config.languages) {
    adapters_.push_back(std::make_unique<Adapter>(config, activation, options));
    register_child(language, *adapters_.back());
  }
}

LanguageAdapters::~LanguageAdapters() = default;

at::Tensor LanguageAdapters::forward(const at::Tensor& x, const LanguageRows& rows,
                                     const nn::ForwardContext& context) const {
  const at::Tensor grouped = rows.order.defined() ? nn::embedding(x, rows.order) : x;
  std::vector<at::Tensor> parts;
  std::int64_t first = 0;
  for (const LanguageRows::Group& group : rows.groups) {
    const Adapter& adapter = *adapters_[static_cast<std::size_t>(group.adapter)];
    parts.push_back(adapter.forward(grouped.narrow(0, first, group.rows), context));
    first += group.rows;
  }
  const at::Tensor adapted = parts.size() == 1 ? parts.front() : at::cat(parts, 0);
  return rows.inverse.defined() ? nn::embedding(adapted, rows.inverse) : adapted;
}

}  // namespace bitrain::models
