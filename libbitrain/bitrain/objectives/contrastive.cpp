#include <bitrain/objectives/contrastive.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/dist/gather_rows.h>
#include <bitrain/fields/check.h>
#include <bitrain/losses/grouped_info_nce.h>

namespace bitrain::objectives {
namespace {

/// The places of one kind of text among the segments of a micro-batch, or the rows of a step.
struct Roles {
  std::vector<std::int64_t> texts;
  std::vector<std::int64_t> pairs;
  std::vector<std::int64_t> negatives;
  std::vector<std::int64_t> taught;  ///< The texts for the teacher.

  [[nodiscard]] std::vector<std::int64_t> learned() const {
    std::vector<std::int64_t> all = texts;
    all.insert(all.end(), pairs.begin(), pairs.end());
    all.insert(all.end(), negatives.begin(), negatives.end());
    std::sort(all.begin(), all.end());
    return all;
  }
};

/// The segments of each example: text, pair, negatives, and the teacher's where there is one.
Roles roles_of(const Batch& batch, bool taught) {
  Roles roles;
  const auto segments = static_cast<std::int64_t>(batch.group_ids.size());
  if (segments != batch.segments())
    throw StateError("a contrastive batch must say which example each segment belongs to");
  for (std::int64_t begin = 0; begin < segments;) {
    std::int64_t end = begin;
    while (end < segments &&
           batch.group_ids[static_cast<std::size_t>(end)] == batch.group_ids[static_cast<std::size_t>(begin)])
      ++end;
    if (taught) roles.taught.push_back(end - 1);
    const std::int64_t last = taught ? end - 1 : end;
    if (last - begin < 2) throw StateError("example ", roles.texts.size(), " of a batch is not a pair");
    roles.texts.push_back(begin);
    roles.pairs.push_back(begin + 1);
    for (std::int64_t s = begin + 2; s < last; ++s) roles.negatives.push_back(s);
    begin = end;
  }
  return roles;
}

at::Tensor rows_at(const at::Tensor& rows, const std::vector<std::int64_t>& places) {
  at::Tensor index =
      at::empty({static_cast<std::int64_t>(places.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(places.begin(), places.end(), index.mutable_data_ptr<std::int64_t>());
  return rows.index_select(0, index.to(rows.device()));
}

/// [B, 2] int64: what the two texts of each pair are, as hashes of their tokens.
at::Tensor text_keys(const std::vector<Batch>& micro_batches, bool taught) {
  std::vector<std::int64_t> keys;
  for (const Batch& batch : micro_batches) {
    const at::Tensor ids = batch.input_ids.cpu().contiguous();
    const auto* bytes = static_cast<const char*>(ids.const_data_ptr());
    const auto key = [&](std::int64_t segment) {
      const auto s = static_cast<std::size_t>(segment);
      const auto begin = static_cast<std::size_t>(batch.boundaries[s]) * ids.itemsize();
      const auto end = static_cast<std::size_t>(batch.boundaries[s + 1]) * ids.itemsize();
      return static_cast<std::int64_t>(stream_key(0, std::string_view(bytes + begin, end - begin)));
    };
    const Roles roles = roles_of(batch, taught);
    for (std::size_t i = 0; i < roles.texts.size(); ++i) {
      keys.push_back(key(roles.texts[i]));
      keys.push_back(key(roles.pairs[i]));
    }
  }
  at::Tensor tensor =
      at::empty({static_cast<std::int64_t>(keys.size()) / 2, 2}, at::TensorOptions().dtype(at::kLong));
  std::copy(keys.begin(), keys.end(), tensor.mutable_data_ptr<std::int64_t>());
  return tensor;
}

/// [B] int64: pairs that share a text, directly or through others of the group, have one label.
at::Tensor shared_labels(const at::Tensor& keys, dist::Communicator& group) {
  const dist::GatheredRows all = dist::gather_rows(keys, group);
  const at::Tensor known = all.rows.contiguous();
  const auto* key = known.const_data_ptr<std::int64_t>();
  at::Tensor labels = at::empty({known.size(0)}, known.options());
  auto* label = labels.mutable_data_ptr<std::int64_t>();
  std::iota(label, label + labels.numel(), 0);
  const auto root = [label](std::int64_t i) {
    while (label[i] != i) i = label[i] = label[label[i]];
    return i;
  };
  std::unordered_map<std::int64_t, std::int64_t> first;
  for (std::int64_t i = 0; i < 2 * labels.numel(); ++i) {
    const auto [seen, fresh] = first.emplace(key[i], i / 2);
    if (!fresh) label[root(i / 2)] = root(seen->second);
  }
  for (std::int64_t i = 0; i < labels.numel(); ++i) label[i] = root(i);
  return labels.narrow(0, all.offset, keys.size(0)).clone();
}

void append(data::TokenSequence& sequence, const std::vector<text::TokenId>& ids, std::int32_t language) {
  sequence.ids.insert(sequence.ids.end(), ids.begin(), ids.end());
  sequence.parts.push_back({static_cast<std::int32_t>(sequence.ids.size()), language});
}

}  // namespace

Batch select_segments(const Batch& batch, const std::vector<std::int64_t>& wanted) {
  if (static_cast<std::int64_t>(wanted.size()) == batch.segments()) return batch;
  std::vector<std::int64_t> tokens;
  Batch chosen;
  chosen.boundaries.push_back(0);
  chosen.first_token = batch.first_token;
  for (const std::int64_t segment : wanted) {
    const auto s = static_cast<std::size_t>(segment);
    for (std::int32_t t = batch.boundaries[s]; t < batch.boundaries[s + 1]; ++t) tokens.push_back(t);
    chosen.boundaries.push_back(static_cast<std::int32_t>(tokens.size()));
    if (!batch.language_ids.empty()) chosen.language_ids.push_back(batch.language_ids[s]);
    if (!batch.group_ids.empty()) chosen.group_ids.push_back(batch.group_ids[s]);
    if (!batch.document_ids.empty()) chosen.document_ids.push_back(batch.document_ids[s]);
    if (!batch.weights.empty()) chosen.weights.push_back(batch.weights[s]);
    if (!batch.scores.empty()) chosen.scores.push_back(batch.scores[s]);
  }
  chosen.input_ids = rows_at(batch.input_ids, tokens);
  chosen.labels = rows_at(batch.labels, tokens);
  chosen.position_ids = rows_at(batch.position_ids, tokens);
  if (batch.token_type_ids.defined()) chosen.token_type_ids = rows_at(batch.token_type_ids, tokens);
  chosen.cu_seqlens =
      at::empty({static_cast<std::int64_t>(chosen.boundaries.size())}, at::TensorOptions().dtype(at::kInt));
  std::copy(chosen.boundaries.begin(), chosen.boundaries.end(),
            chosen.cu_seqlens.mutable_data_ptr<std::int32_t>());
  chosen.cu_seqlens = chosen.cu_seqlens.to(batch.input_ids.device());
  return chosen;
}

Contrastive::Contrastive(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
                         ContrastiveOptions options, std::shared_ptr<const text::Tokenizer> teacher_tokenizer)
    : tokenizer_(std::move(tokenizer)),
      teacher_tokenizer_(std::move(teacher_tokenizer)),
      languages_(std::move(languages)),
      options_(std::move(options)) {
  check_fields(options_, "contrastive.");
  if (options_.contrast == 0 && !distils())
    throw ConfigError("contrastive: contrast, distill_text and distill_pair are all 0: nothing to learn");
  if (distils() && teacher_tokenizer_ == nullptr)
    throw ConfigError("contrastive: distill_text and distill_pair need a teacher");
  if (!options_.matryoshka.dims.empty()) losses::check_widths(options_.matryoshka);
  if (!distils()) teacher_tokenizer_ = nullptr;
}

data::TokenSequence Contrastive::encode(const data::Example& example) const {
  if (example.pair_text.empty() && (!example.messages.empty() || !example.text.empty()))
    throw DataError(data::row_name(example),
                    " is not a pair: contrastive training needs a text and its translation or answer");
  if (example.text.empty() || example.text == example.pair_text) return {};
  const auto language = [&](const std::string& code) {
    const auto found = std::find(languages_.begin(), languages_.end(), code);
    return found == languages_.end() ? -1 : static_cast<std::int32_t>(found - languages_.begin());
  };
  const auto framed = [&](const text::Tokenizer& tokenizer, const std::string& text) {
    return text::encode_framed(tokenizer, text, options_.max_length);
  };
  const std::string text = options_.text_prompt + example.text;
  const std::int32_t first = language(example.language);
  const std::int32_t second = language(example.pair_language);
  data::TokenSequence sequence;
  append(sequence, framed(*tokenizer_, text), first);
  append(sequence, framed(*tokenizer_, options_.pair_prompt + example.pair_text), second);
  std::set<std::string> known = {"", example.text, example.pair_text};
  for (const std::string& negative : example.negatives)
    if (known.insert(negative).second)  // A positive must not be its own negative.
      append(sequence, framed(*tokenizer_, options_.pair_prompt + negative), second);
  if (teacher_tokenizer_) {
    const auto read = sequence.size();
    append(sequence, framed(*teacher_tokenizer_, text), first);
    sequence.unread = sequence.size() - read;
  }
  sequence.labels.assign(sequence.ids.size(), static_cast<std::int32_t>(kIgnoreIndex));
  return sequence;
}

EmbeddingLoss Contrastive::loss(models::SentenceEncoder& model, models::SentenceEncoder* teacher,
                                const std::shared_ptr<dist::Communicator>& group) const {
  const bool taught = distils();
  if (taught && teacher == nullptr) throw StateError("contrastive: distillation needs a teacher");
  for (const std::int64_t dim : options_.matryoshka.dims)
    if (dim > model.dimension())
      throw ConfigError("matryoshka.dims: ", dim, " is no number of leading features of embeddings of ",
                        model.dimension());
  EmbeddingLoss loss;
  loss.embed = [&model, taught](const Batch& batch, const nn::ForwardContext& context) {
    return model.forward(select_segments(batch, roles_of(batch, taught).learned()), context);
  };
  if (taught)
    loss.teach = [teacher](const Batch& batch) {
      return teacher->forward(select_segments(batch, roles_of(batch, true).taught), {});
    };
  loss.loss = [this, group](const at::Tensor& embedded, const at::Tensor& targets,
                            const std::vector<Batch>& micro_batches) {
    return loss_of(embedded, targets, micro_batches, *group);
  };
  return loss;
}

LossSum Contrastive::loss_of(const at::Tensor& embedded, const at::Tensor& taught,
                             const std::vector<Batch>& micro_batches, dist::Communicator& group) const {
  Roles rows;  // Of `embedded`: the segments without the teacher's.
  std::int64_t next = 0;
  for (const Batch& batch : micro_batches) {
    const Roles roles = roles_of(batch, distils());
    const std::vector<std::int64_t> learned = roles.learned();
    const auto add = [&](const std::vector<std::int64_t>& segments, std::vector<std::int64_t>& to) {
      for (const std::int64_t segment : segments)
        to.push_back(next + (std::lower_bound(learned.begin(), learned.end(), segment) - learned.begin()));
    };
    add(roles.texts, rows.texts);
    add(roles.pairs, rows.pairs);
    add(roles.negatives, rows.negatives);
    next += static_cast<std::int64_t>(learned.size());
  }
  const at::Tensor texts = rows_at(embedded, rows.texts);
  const at::Tensor pairs = rows_at(embedded, rows.pairs);
  LossSum result;
  result.weight = static_cast<double>(rows.texts.size());
  const auto add = [&](const std::string& name, const at::Tensor& sum) {
    result.sum = result.sum.defined() ? result.sum + sum : sum;
    LossSum::Part& part = result.parts[name];
    part.sum += sum.item<double>();
    part.weight = result.weight;
  };
  if (options_.contrast > 0) {
    std::vector<at::Tensor> sides = {texts, pairs};
    if (!rows.negatives.empty() || group.size() > 1) sides.push_back(rows_at(embedded, rows.negatives));
    const at::Tensor labels =
        options_.loss == "supcon" ? shared_labels(text_keys(micro_batches, distils()), group) : at::Tensor();
    add("contrast", contrast_of(sides, labels, group) * options_.contrast);
  }
  if (options_.distill_text > 0) add("distill", (texts - taught).square().sum() * options_.distill_text);
  if (options_.distill_pair > 0) add("distill", (pairs - taught).square().sum() * options_.distill_pair);
  return result;
}

at::Tensor Contrastive::contrast_of(const std::vector<at::Tensor>& sides, const at::Tensor& labels,
                                    dist::Communicator& group) const {
  const auto contrast = [&](const std::vector<at::Tensor>& rows) {
    const at::Tensor negatives = rows.size() > 2 ? rows[2] : at::Tensor();
    if (options_.loss == "info_nce")
      return losses::grouped_info_nce(rows[0], rows[1], negatives, options_.symmetric, options_.info_nce,
                                      group)
          .sum;
    return losses::grouped_nt_xent(rows[0], rows[1], negatives, labels, options_.info_nce, group).sum / 2;
  };
  return options_.matryoshka.dims.empty() ? contrast(sides)
                                          : losses::matryoshka(contrast, sides, options_.matryoshka);
}

}  // namespace bitrain::objectives
