#include <cstdlib>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/data/loader.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/search.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/losses/info_nce.h>
#include <bitrain/nn/unit_rows.h>
#include <bitrain/objectives/contrastive.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/optim/param_groups.h>
#include <bitrain/train/step.h>

#include "case.h"

namespace bitrain::benchmarks {
namespace {

/// BITRAIN_MINILM: all-MiniLM-L6-v2's folder; BITRAIN_PAIRS: the verses. run.py sets both.
std::string path_of(const char* variable) {
  const char* value = std::getenv(variable);
  if (value == nullptr) throw ConfigError("set ", variable, " (benchmarks/run.sh does)");
  return value;
}

hub::OpenedSentenceEncoder open_minilm() {
  hub::OpenOptions options;
  options.dtype = at::kBFloat16;
  return hub::open_sentence_encoder(path_of("BITRAIN_MINILM"), options);
}

data::SourcePtr verses() {
  data::SourceOptions options;
  options.path = path_of("BITRAIN_PAIRS");
  options.format = "tsv";
  options.name = "pairs";
  options.language = "en";
  options.column = 2;
  options.pair_column = 3;
  options.pair_language = "es";
  return data::open_source(options);
}

/// Steps of `batch` verse pairs, 64 tokens a verse at most, with AdamW, as the trainer does them.
void bench_contrastive(const std::string& name, std::int64_t batch, std::int64_t micro_batch, int repeats) {
  const hub::OpenedSentenceEncoder opened = open_minilm();
  adapters::train_all(*opened.model);
  const std::vector<data::SourcePtr> sources = {verses()};
  objectives::ContrastiveOptions options;
  options.max_length = 64;
  options.symmetric = false;  // As MultipleNegativesRankingLoss.
  const objectives::Contrastive objective(opened.tokenizer, data::languages_of(sources), options);
  data::LoaderOptions loader_options;
  loader_options.packing = "whole";
  loader_options.rows_per_step = batch;
  loader_options.micro_batch_rows = micro_batch;
  loader_options.mixture.unit = "samples";
  data::Loader loader(loader_options, sources,
                      [&](const data::Example& example) { return objective.encode(example); }, {1, 100});
  optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*opened.model), {}));
  const objectives::EmbeddingLoss loss = objective.loss(*opened.model, nullptr);
  nn::ForwardContext context;
  std::int64_t tokens = 0;
  const auto step = [&] {
    ++context.dropout.step;
    const train::StepSums sums =
        train::accumulate_gradients(loader.next_step(), loss, context, optimizer, true);
    optimizer.step(2e-5, 1.0 / sums.weight);
    optimizer.zero_grad();
    tokens = sums.tokens;
  };
  const Timing timing = time_calls(repeats, step);
  report(name, {{"pairs_per_second", static_cast<double>(batch) / timing.best},
                {"median_pairs_per_second", static_cast<double>(batch) / timing.median},
                {"tokens_per_pair", static_cast<double>(tokens) / static_cast<double>(batch)}});
}

}  // namespace

/// The loss alone: 16,384 pairs of 384 features, forward and backward.
void bench_info_nce() {
  const at::Tensor queries = at::randn({16384, 384}).requires_grad_();
  const at::Tensor candidates = at::randn({16384, 384}).requires_grad_();
  const double before = peak_gib();
  const Timing timing = time_calls(2, [&] {
    queries.mutable_grad() = at::Tensor();
    candidates.mutable_grad() = at::Tensor();
    losses::info_nce(queries, candidates).sum.backward();
  });
  report("info_nce", {{"seconds", timing.best}, {"added_gib", peak_gib() - before}});
}

void bench_contrastive_256() {
  bench_contrastive("contrastive_256", 256, 256, 4);
}

void bench_contrastive_2048() {
  bench_contrastive("contrastive_2048", 2048, 20, 1);
}

/// English verses to embeddings, tokenizer included.
void bench_encode() {
  const hub::OpenedSentenceEncoder opened = open_minilm();
  const std::vector<std::string> texts = data::texts_of(*verses(), 5000);
  const Timing timing =
      time_calls(1, [&] { (void)eval::encode_texts(*opened.model, *opened.tokenizer, texts); });
  report("encode", {{"texts_per_second", static_cast<double>(texts.size()) / timing.best}});
}

/// 5,000 queries for the ten nearest of 100,000, 384 features in float32.
void bench_search() {
  const at::Tensor corpus = nn::unit_rows(at::randn({100'000, 384}));
  const at::Tensor queries = nn::unit_rows(at::randn({5000, 384}));
  eval::SearchOptions options;
  options.similarity = "dot";
  const Timing timing = time_calls(3, [&] { (void)eval::search(queries, corpus, options); });
  report("search", {{"queries_per_second", static_cast<double>(queries.size(0)) / timing.best}});
}

}  // namespace bitrain::benchmarks
