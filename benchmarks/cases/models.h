#pragma once

#include <memory>

#include <bitrain/base/batch.h>
#include <bitrain/models/language_model.h>

namespace bitrain::benchmarks {

/// The peers' models: Llama, 16,000 pieces, untied head, random bfloat16 weights.
std::unique_ptr<models::LanguageModel> make_model(std::int64_t hidden, std::int64_t layers,
                                                  std::int64_t heads, std::int64_t ffn);

/// `rows` rows of `length` random tokens, each predicting the next.
Batch random_batch(std::int64_t rows, std::int64_t length, std::int64_t vocab);

/// One optimizer step after the other, as the trainer does them.
class Steps {
 public:
  Steps(models::LanguageModel& model, Batch batch);
  ~Steps();
  void operator()();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitrain::benchmarks
