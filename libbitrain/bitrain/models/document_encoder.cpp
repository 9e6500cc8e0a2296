#include <bitrain/models/document_encoder.h>

#include <algorithm>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/models/bert/model.h>

namespace bitrain::models {
namespace {

BertConfig upper_config(std::int64_t width, const DocumentEncoderOptions& options) {
  BertConfig config;
  config.vocab_size = 1;  // DCLS.
  config.hidden_size = width;
  config.num_hidden_layers = options.layers;
  config.num_attention_heads = options.heads;
  config.intermediate_size = options.intermediate_size;
  config.max_position_embeddings = options.max_sentences + 1;
  config.type_vocab_size = 1;
  config.hidden_dropout_prob = config.attention_probs_dropout_prob = options.dropout;
  return config;
}

bool trains(nn::Module& model) {
  bool any = false;
  model.visit_tensors([&](const std::string&, at::Tensor& tensor) { any = any || tensor.requires_grad(); });
  return any;
}

}  // namespace

DocumentEncoder::DocumentEncoder(std::unique_ptr<SentenceEncoder> sentences,
                                 const DocumentEncoderOptions& options)
    : sentences_(std::move(sentences)),
      documents_(make_bert(upper_config(sentences_->dimension(), options),
                           sentences_->encoder().input_embeddings().weight.options().requires_grad(false))),
      pooling_(options.pooling == "dcls" ? nn::Pooling::kCls : nn::Pooling::kMean) {
  register_parts();
}

DocumentEncoder::DocumentEncoder(std::unique_ptr<SentenceEncoder> sentences,
                                 std::unique_ptr<EncoderModel> documents, const std::string& pooling)
    : sentences_(std::move(sentences)),
      documents_(std::move(documents)),
      pooling_(pooling == "dcls" ? nn::Pooling::kCls : nn::Pooling::kMean) {
  if (pooling != "mean" && pooling != "dcls")
    throw ConfigError("a document encoder pools by 'mean' or 'dcls', not '", pooling, "'");
  if (documents_->config().vocab_size != 1)
    throw ConfigError("the upper encoder of a document encoder has one word, the document itself, not ",
                      documents_->config().vocab_size);
  if (dimension() != sentences_->dimension())
    throw ConfigError("the upper encoder reads vectors of width ", dimension(), ", but sentences have ",
                      sentences_->dimension());
  register_parts();
}

void DocumentEncoder::register_parts() {
  register_child("sentences", *sentences_);
  register_child("documents", *documents_);
}

namespace {

/// For the encoder of documents: not the masks of the layers below, and its own places in the step.
nn::ForwardContext above(nn::ForwardContext context, const Batch& batch) {
  context.dropout.seed = stream_key(context.dropout.seed, "documents");
  context.dropout.first_token = batch.first_sentence;
  return context;
}

}  // namespace

at::Tensor DocumentEncoder::forward(const Batch& batch, const nn::ForwardContext& context) {
  const std::vector<std::int32_t> ends = document_ends(batch);
  if (!context.training || trains(*sentences_))
    return embed(sentences_->forward(batch, context), ends, above(context, batch));
  at::Tensor sentences;
  {
    const at::NoGradGuard no_grad;
    nn::ForwardContext frozen = context;
    frozen.training = false;
    sentences = sentences_->forward(batch, frozen);
  }
  return embed(sentences, ends, above(context, batch));
}

at::Tensor DocumentEncoder::embed(const at::Tensor& sentences, const std::vector<std::int32_t>& ends,
                                  const nn::ForwardContext& context) {
  const DocumentStates read = states(sentences, ends, context);
  return nn::pool_segments(read.hidden, read.boundaries, {pooling_});
}

DocumentStates DocumentEncoder::states(const at::Tensor& sentences, const std::vector<std::int32_t>& ends,
                                       const nn::ForwardContext& context) {
  const at::Tensor& own = documents_->input_embeddings().weight;  // [1, D]
  if (ends.empty() || sentences.dim() != 2 || sentences.size(0) != ends.back() ||
      sentences.size(1) != dimension())
    throw StateError("sentence vectors ", sentences.sizes(), " are not those of ", ends.size(),
                     " documents, [", ends.empty() ? 0 : ends.back(), ", ", dimension(), "]");
  std::vector<std::vector<std::int32_t>> words;
  std::vector<std::int64_t> rows;  // Of [DCLS; sentences].
  std::int32_t begin = 0;
  for (std::size_t d = 0; d < ends.size(); ++d) {
    const std::int32_t count = ends[d] - begin;
    if (count < 1) throw DataError("document ", d, " has no sentence");
    if (count > max_sentences())
      throw DataError("document ", d, " has ", count, " sentences; the encoder has places for ",
                      max_sentences());
    rows.push_back(0);
    for (std::int32_t s = begin; s < ends[d]; ++s) rows.push_back(s + 1);
    words.emplace_back(count + 1, 0);
    begin = ends[d];
  }
  const Batch batch = make_batch(words, words).to(own.device());
  const at::Tensor joined = at::cat({own, sentences.to(own.scalar_type())});
  return {documents_
              ->forward_embeddings(joined.index_select(0, at::tensor(rows).to(own.device())), batch, context)
              .hidden,
          batch.boundaries};
}

void initialise_documents(DocumentEncoder& model, std::uint64_t seed) {
  initialise(model.documents(), seed);
}

std::vector<std::int32_t> document_ends(const Batch& batch) {
  const auto segments = static_cast<std::size_t>(batch.segments());
  if (batch.document_ids.size() != segments ||
      (!batch.group_ids.empty() && batch.group_ids.size() != segments))
    throw StateError("a batch of documents must say which document each of its ", segments,
                     " sentences is of");
  std::vector<std::int32_t> ends;
  for (std::size_t s = 1; s <= segments; ++s) {
    const bool same_group =
        batch.group_ids.empty() || (s < segments && batch.group_ids[s] == batch.group_ids[s - 1]);
    if (s == segments || !same_group || batch.document_ids[s] != batch.document_ids[s - 1])
      ends.push_back(static_cast<std::int32_t>(s));
  }
  return ends;
}

}  // namespace bitrain::models
