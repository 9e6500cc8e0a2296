#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/base/batch.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/nn/activation.h>
#include <bitrain/nn/linear.h>
#include <bitrain/nn/module.h>

namespace bitrain::models {

/// The rows of a batch that each adapter takes.
struct LanguageRows {
  struct Group {
    std::int64_t adapter = 0;  ///< Index into BertConfig::languages.
    std::int64_t rows = 0;
  };
  std::vector<Group> groups;  ///< In the order of the rows once they are permuted.
  at::Tensor order;           ///< [N] int64: rows by adapter; undefined when they lie so already.
  at::Tensor inverse;         ///< [N] int64: where each row went.
};

/// Chooses the adapter of each segment.
class LanguageRouter {
 public:
  explicit LanguageRouter(const BertConfig& config) : config_(config) {}

  /// As EncoderModel::set_languages.
  void set_languages(const std::vector<std::string>& languages);
  /// The rows of `batch` by adapter. A segment of unknown language (no language_ids, or a negative one) takes
  /// default_language. Throws DataError when there is none or an id is outside the list, StateError when
  /// set_languages was not called.
  [[nodiscard]] LanguageRows route(const Batch& batch) const;

 private:
  [[nodiscard]] std::int64_t adapter_of(const Batch& batch, std::int64_t segment) const;
  [[nodiscard]] std::int64_t adapter_named(const std::string& language) const;

  const BertConfig& config_;
  std::vector<std::string> languages_;
  std::vector<std::int64_t> adapters_;  ///< Of each language of the run.
};

/// "adapter_modules": a bottleneck for each language (Pfeiffer et al. 2022).
class LanguageAdapters : public nn::Module {
 public:
  LanguageAdapters(const BertConfig& config, nn::Activation activation, at::TensorOptions options);
  ~LanguageAdapters() override;

  /// x [N, D] -> each row through the adapter of its language, [N, D]. Adapters without rows get no gradient.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const LanguageRows& rows,
                                   const nn::ForwardContext& context) const;

 private:
  class Adapter;
  std::vector<std::unique_ptr<Adapter>> adapters_;
};

}  // namespace bitrain::models
