#include <bitrain/objectives/listwise.h>

#include <algorithm>
#include <set>
#include <utility>

#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>
#include <bitrain/losses/listwise.h>

namespace bitrain::objectives {
namespace {

template <class T>
at::Tensor tensor_of(const std::vector<T>& values, at::ScalarType dtype, at::Device device) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, dtype);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<T>());
  return tensor.to(device);
}

}  // namespace

Listwise::Listwise(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
                   ListwiseOptions options, std::string prompt)
    : tokenizer_(std::move(tokenizer)),
      languages_(std::move(languages)),
      options_(options),
      prompt_(std::move(prompt)) {
  const std::int64_t special = tokenizer_->input_template().special_count(/*two_texts=*/true);
  if (options_.max_length < special + 2)
    throw ConfigError("cross_encoder: max_length ", options_.max_length,
                      " leaves no room for two texts beside ", special, " special tokens");
}

data::TokenSequence Listwise::encode(const data::Example& example) const {
  const std::string place = data::row_name(example);
  if (example.pair_text.empty() && (!example.messages.empty() || !example.text.empty()))
    throw DataError(place, " is not a pair: a cross-encoder learns from a query and its answer");
  if (example.text.empty() || example.text == example.pair_text) return {};
  const auto language = [&](const std::string& code) {
    const auto found = std::find(languages_.begin(), languages_.end(), code);
    return found == languages_.end() ? -1 : static_cast<std::int32_t>(found - languages_.begin());
  };
  const std::int32_t first = language(example.language);
  const std::int32_t second = language(example.pair_language);
  data::TokenSequence sequence;
  const auto add = [&](const std::string& candidate) {
    const text::FramedPair pair =
        text::encode_pair_framed(*tokenizer_, prompt_ + example.text, candidate, options_.max_length);
    sequence.parts.push_back({static_cast<std::int32_t>(sequence.ids.size() + pair.second), first});
    sequence.ids.insert(sequence.ids.end(), pair.ids.begin(), pair.ids.end());
    sequence.parts.push_back({static_cast<std::int32_t>(sequence.ids.size()), second});
  };
  add(example.pair_text);
  std::set<std::string> known = {"", example.text, example.pair_text};
  for (const std::string& negative : example.negatives)
    if (known.insert(negative).second) add(negative);  // A positive must not be its own negative.
  if (sequence.parts.size() == 2)
    throw DataError(place,
                    " has no negatives to tell the answer from: mine them with `fill`, or leave the row out");
  sequence.labels.assign(sequence.ids.size(), static_cast<std::int32_t>(kIgnoreIndex));
  return sequence;
}

Listwise::Candidates Listwise::candidates_of(const Batch& batch) const {
  const auto parts = static_cast<std::size_t>(batch.segments());
  if (batch.group_ids.size() != parts || parts % 2 != 0)
    throw StateError("cross_encoder: a batch must have two parts for each candidate, and say of which query");
  const text::InputTemplate& input = tokenizer_->input_template();
  const auto before = static_cast<std::size_t>(input.special_count_before_second());
  const std::size_t after = static_cast<std::size_t>(input.special_count(/*two_texts=*/true)) - before;
  Candidates result;
  Batch& pairs = result.pairs;
  pairs.boundaries = {0};
  pairs.first_token = batch.first_token;
  std::vector<std::int64_t> places;
  std::vector<std::int64_t> types;
  for (std::size_t s = 0; s < parts; s += 2) {
    const auto first = static_cast<std::size_t>(batch.boundaries[s + 1] - batch.boundaries[s]);
    const auto second = static_cast<std::size_t>(batch.boundaries[s + 2] - batch.boundaries[s + 1]);
    if (batch.group_ids[s] != batch.group_ids[s + 1] || first < before || second < after)
      throw StateError("cross_encoder: parts ", s, " and ", s + 1,
                       " of a batch are not a query and its text");
    text::Encoding query;
    text::Encoding candidate;
    query.ids.resize(first - before);
    candidate.ids.resize(second - after);
    const std::vector<std::int32_t> of_pair = input.frame(query, candidate).type_ids;
    types.insert(types.end(), of_pair.begin(), of_pair.end());
    for (std::size_t i = 0; i < first + second; ++i) places.push_back(static_cast<std::int64_t>(i));
    pairs.boundaries.push_back(batch.boundaries[s + 2]);
    if (!batch.language_ids.empty()) pairs.language_ids.push_back(batch.language_ids[s + 1]);
    const bool continues = s > 0 && batch.group_ids[s] == batch.group_ids[s - 1];
    if (!continues) result.ends.push_back(0);
    result.ends.back() = static_cast<std::int64_t>(s / 2) + 1;
  }
  const at::Device device = batch.input_ids.device();
  pairs.input_ids = batch.input_ids;
  pairs.labels = batch.labels;
  pairs.position_ids = tensor_of(places, at::kLong, device);
  pairs.cu_seqlens = tensor_of(pairs.boundaries, at::kInt, device);
  if (std::any_of(types.begin(), types.end(), [](std::int64_t type) { return type != 0; }))
    pairs.token_type_ids = tensor_of(types, at::kLong, device);
  return result;
}

LossSum Listwise::loss(models::CrossEncoder& model, const Batch& batch,
                       const nn::ForwardContext& context) const {
  const Candidates candidates = candidates_of(batch);
  const losses::ListwiseLoss loss =
      losses::listwise_cross_entropy(model.forward(candidates.pairs, context), candidates.ends);
  LossSum result;
  result.sum = loss.sum;
  result.weight = static_cast<double>(loss.count);
  result.parts["positive_first"] = {static_cast<double>(loss.first), result.weight};
  return result;
}

}  // namespace bitrain::objectives
