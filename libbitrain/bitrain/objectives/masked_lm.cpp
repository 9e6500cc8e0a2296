#include <bitrain/objectives/masked_lm.h>

#include <algorithm>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>

#include <bitrain/base/error.h>
#include <bitrain/losses/linear_cross_entropy.h>

namespace bitrain::objectives {
namespace {

std::string place_of(const data::Example& example) {
  return data::row_name(example);
}

template <class T>
at::Tensor tensor_of(const std::vector<T>& values, at::ScalarType dtype) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, dtype);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<T>());
  return tensor;
}

void check(const MaskedBatch& batch) {
  const Batch& tokens = batch.tokens;
  const auto segments = static_cast<std::size_t>(tokens.segments());
  const auto fits = [](const char* what, std::size_t have, std::size_t want) {
    if (have != 0 && have != want) throw StateError("a masked batch of ", want, " has ", have, " ", what);
  };
  fits("weights of segments", tokens.weights.size(), segments);
  fits("next_sentence labels of segments", batch.next_sentence.size(), segments);
  fits("languages of tokens", batch.token_languages.size(), static_cast<std::size_t>(tokens.tokens()));
}

/// The hidden tokens of a batch.
struct HiddenTokens {
  explicit HiddenTokens(const MaskedBatch& batch) {
    const Batch& tokens = batch.tokens;
    const at::Tensor all = tokens.labels.cpu().contiguous();
    const auto* label = all.const_data_ptr<std::int64_t>();
    for (std::size_t s = 0; s + 1 < tokens.boundaries.size(); ++s) {
      for (std::int64_t i = tokens.boundaries[s]; i < tokens.boundaries[s + 1]; ++i) {
        if (label[i] == kIgnoreIndex) continue;
        positions.push_back(i);
        labels.push_back(label[i]);
        segments.push_back(s);
        weights.push_back(tokens.weights.empty() ? 1.0F : tokens.weights[s]);
      }
    }
  }

  std::vector<std::int64_t> positions;
  std::vector<std::int64_t> labels;
  std::vector<std::size_t> segments;
  std::vector<float> weights;
};

std::string part_name(std::int32_t language, const std::vector<std::string>& languages) {
  const auto id = static_cast<std::size_t>(language);
  if (language < 0 || id >= languages.size() || languages[id].empty()) return "language/unknown";
  return "language/" + languages[id];
}

void add_language_parts(LossSum& loss, const MaskedBatch& batch, const HiddenTokens& hidden,
                        const at::Tensor& token_losses, const std::vector<std::string>& languages) {
  const at::Tensor values = token_losses.to(at::kCPU, at::kDouble).contiguous();
  const auto* value = values.const_data_ptr<double>();
  std::vector<LossSum::Part> parts(languages.size() + 1);
  for (std::size_t i = 0; i < hidden.positions.size(); ++i) {
    const std::int32_t id = batch.token_languages[static_cast<std::size_t>(hidden.positions[i])];
    const bool known = id >= 0 && static_cast<std::size_t>(id) < languages.size();
    LossSum::Part& part = parts[known ? static_cast<std::size_t>(id) : languages.size()];
    part.sum += hidden.weights[i] * value[i];
    part.weight += hidden.weights[i];
  }
  for (std::size_t id = 0; id < parts.size(); ++id) {
    if (parts[id].weight == 0) continue;
    LossSum::Part& part = loss.parts[part_name(static_cast<std::int32_t>(id), languages)];
    part.sum += parts[id].sum;
    part.weight += parts[id].weight;
  }
}

/// Adds the loss of next sentences: that of a pair counts once for each of its hidden tokens.
void add_next_sentence(LossSum& loss, models::MaskedLanguageModel& model, const MaskedBatch& batch,
                       const HiddenTokens& hidden, const at::Tensor& states,
                       const nn::ForwardContext& context) {
  std::vector<std::int64_t> labels = batch.next_sentence;
  std::vector<float> plain(labels.size());
  std::vector<float> by_tokens(labels.size());
  for (std::size_t i = 0; i < hidden.segments.size(); ++i) by_tokens[hidden.segments[i]] += hidden.weights[i];
  double pairs = 0;
  for (std::size_t s = 0; s < labels.size(); ++s) {
    if (labels[s] == kIgnoreIndex) {
      labels[s] = 0;
      by_tokens[s] = 0;
      continue;
    }
    if (labels[s] != 0 && labels[s] != 1)
      throw DataError("the next_sentence label of segment ", s, " is ", labels[s], ", not 0 or 1");
    plain[s] = batch.tokens.weights.empty() ? 1.0F : batch.tokens.weights[s];
    pairs += plain[s];
  }
  const at::Tensor logits = model.next_sentence_logits(states, batch.tokens, context);
  const at::ScalarType wide = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor index = tensor_of(labels, at::kLong).to(logits.device()).unsqueeze(1);
  const at::Tensor losses = -at::log_softmax(logits.to(wide), -1).gather(1, index).squeeze(1);
  const auto weighted = [&](const std::vector<float>& weights) {
    return (losses * tensor_of(weights, at::kFloat).to(losses.device())).sum();
  };
  loss.sum = loss.sum + weighted(by_tokens);
  loss.parts["next_sentence"] = {weighted(plain).detach().item<double>(), pairs};
}

/// The sentence types that the template gives a framed text.
std::vector<std::int32_t> types_of(const text::InputTemplate& frame, const FramedText& text) {
  using Kind = text::InputTemplate::Kind;
  const auto& items = text.second > 0 ? frame.pair : frame.single;
  const auto is = [](Kind kind) { return [kind](const auto& item) { return item.kind == kind; }; };
  const auto second = std::find_if(items.begin(), items.end(), is(Kind::kSecond));
  const std::size_t end = text.second > 0 ? text.second : text.ids.size();
  const auto first_length =
      end - static_cast<std::size_t>(std::count_if(items.begin(), second, is(Kind::kSpecial)));
  std::vector<std::int32_t> types;
  for (auto item = items.begin(); item != items.end(); ++item) {
    const auto rest = static_cast<std::size_t>(items.end() - item) - 1;  // Specials after the second text.
    const std::size_t length = item->kind == Kind::kFirst    ? first_length
                               : item->kind == Kind::kSecond ? text.ids.size() - types.size() - rest
                                                             : 1;
    types.resize(types.size() + length, item->type_id);
  }
  return types;
}

}  // namespace

LossSum masked_lm_loss(models::MaskedLanguageModel& model, const MaskedBatch& batch,
                       const nn::ForwardContext& context, const std::vector<std::string>& languages) {
  check(batch);
  const at::Tensor states = model.forward(batch.tokens, context).hidden;
  const HiddenTokens hidden(batch);
  const at::Device device = states.device();
  const at::Tensor rows = states.index_select(0, tensor_of(hidden.positions, at::kLong).to(device));
  at::Tensor weights;
  if (!batch.tokens.weights.empty()) weights = tensor_of(hidden.weights, at::kFloat).to(device);
  const losses::TokenLosses losses =
      losses::linear_cross_entropy(model.transform(rows, context), model.output_head(),
                                   tensor_of(hidden.labels, at::kLong).to(device), context, weights);
  LossSum loss;
  loss.sum = losses.sum;
  for (const float weight : hidden.weights) loss.weight += weight;
  if (!batch.token_languages.empty()) add_language_parts(loss, batch, hidden, losses.per_token, languages);
  if (!batch.next_sentence.empty()) add_next_sentence(loss, model, batch, hidden, states, context);
  return loss;
}

MaskedLm::MaskedLm(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
                   std::uint64_t seed, MaskedLmOptions options)
    : tokenizer_(std::move(tokenizer)),
      languages_(std::move(languages)),
      options_(options),
      vocabulary_(*tokenizer_, options.masking.whole_words),
      key_(stream_key(seed, "masks")) {
  objectives::check(options_.masking);
  const std::int64_t special = tokenizer_->input_template().special_count(/*two_texts=*/true);
  if (options_.max_length < special + 2) {
    throw ConfigError("masked_lm: max_length ", options_.max_length,
                      " leaves no room for a pair of texts: ", special, " special tokens stand around them");
  }
}

std::int32_t MaskedLm::language_id(const std::string& language) const {
  const auto found = std::find(languages_.begin(), languages_.end(), language);
  return found == languages_.end() ? -1 : static_cast<std::int32_t>(found - languages_.begin());
}

FramedText MaskedLm::encode(const data::Example& example, std::optional<bool> follows) const {
  if (!example.messages.empty())
    throw DataError(place_of(example), " is a conversation; masked_lm reads texts and pairs of texts");
  if (example.clone != 0)
    throw UnsupportedError(place_of(example), ": masked_lm does not read clones of a language");
  if (follows && example.pair_text.empty())
    throw DataError(place_of(example), " has no second text that could follow on the first");
  const text::InputTemplate& frame = tokenizer_->input_template();
  text::Encoding first = tokenizer_->encode_with_offsets(example.text);
  text::Encoding second;
  if (!example.pair_text.empty()) second = tokenizer_->encode_with_offsets(example.pair_text);
  if (follows && (first.ids.empty() || second.ids.empty())) return {};
  std::int32_t first_language = language_id(example.language);
  const std::int32_t second_language =
      example.pair_language.empty() ? first_language : language_id(example.pair_language);
  if (first.ids.empty()) {
    std::swap(first, second);
    first_language = second_language;
  }
  if (first.ids.empty()) return {};

  const bool pair = !second.ids.empty();
  text::cut_longest_first(first, second, options_.max_length - frame.special_count(pair));
  FramedText framed;
  text::Encoding whole = pair ? frame.frame(first, second) : frame.frame(first);
  framed.words = vocabulary_.words(whole.ids);
  framed.languages.assign(whole.ids.size(), first_language);
  if (pair) {  // From the second text to the end; special tokens are never hidden.
    std::size_t begin = 0;
    for (const text::InputTemplate::Item& item : frame.pair) {
      if (item.kind == text::InputTemplate::Kind::kSecond) break;
      begin += item.kind == text::InputTemplate::Kind::kFirst ? first.ids.size() : 1;
    }
    std::fill(framed.languages.begin() + static_cast<std::ptrdiff_t>(begin), framed.languages.end(),
              second_language);
    framed.second = begin;
  }
  framed.ids = std::move(whole.ids);
  framed.type_ids = std::move(whole.type_ids);
  framed.follows = follows;
  return framed;
}

data::TokenSequence MaskedLm::sequence(const data::Example& example) const {
  const FramedText framed = encode(example, example.follows);
  data::TokenSequence sequence;
  if (framed.empty()) return sequence;
  sequence.ids = framed.ids;
  sequence.labels.assign(framed.ids.size(), static_cast<std::int32_t>(kIgnoreIndex));
  if (framed.follows) sequence.labels.front() = *framed.follows ? 0 : 1;
  if (framed.second > 0)
    sequence.parts.push_back({static_cast<std::int32_t>(framed.second), framed.languages.front()});
  sequence.parts.push_back({static_cast<std::int32_t>(framed.ids.size()), framed.languages.back()});
  return sequence;
}

/// What sequence() was made of, from the parts of each example.
std::vector<FramedText> MaskedLm::framed_texts(const Batch& batch) const {
  const auto segments = static_cast<std::size_t>(batch.segments());
  if (batch.group_ids.size() != segments || batch.language_ids.size() != segments)
    throw StateError("masked_lm: a batch must say which text and language each segment is of: packing whole");
  const at::Tensor ids = batch.input_ids.cpu();
  const at::Tensor labels = batch.labels.cpu();
  const auto* id = ids.const_data_ptr<std::int64_t>();
  const auto* label = labels.const_data_ptr<std::int64_t>();
  std::vector<FramedText> texts;
  for (std::size_t s = 0; s < segments; ++s) {
    const bool continues = s > 0 && batch.group_ids[s] == batch.group_ids[s - 1];
    const std::int64_t first_label = label[batch.boundaries[s]];
    if (!continues) {
      texts.emplace_back();
      if (first_label != kIgnoreIndex) texts.back().follows = first_label == 0;
    }
    FramedText& text = texts.back();
    if (continues) text.second = text.ids.size();
    text.ids.insert(text.ids.end(), id + batch.boundaries[s], id + batch.boundaries[s + 1]);
    text.languages.resize(text.ids.size(), batch.language_ids[s]);
  }
  for (FramedText& text : texts) {
    text.words = vocabulary_.words(text.ids);
    text.type_ids = types_of(tokenizer_->input_template(), text);
  }
  return texts;
}

MaskedBatch MaskedLm::masked(const Batch& batch, std::int64_t step) const {
  const std::vector<FramedText> texts = framed_texts(batch);
  std::vector<std::int64_t> samples;
  std::int64_t place = (step << 32) + batch.first_token;
  for (const FramedText& text : texts) {
    samples.push_back(place);
    place += static_cast<std::int64_t>(text.ids.size());
  }
  MaskedBatch masked = collate(texts, samples);
  for (std::size_t s = 0; s < batch.weights.size(); ++s)
    if (s == 0 || batch.group_ids[s] != batch.group_ids[s - 1])
      masked.tokens.weights.push_back(batch.weights[s]);
  return masked.to(batch.input_ids.device());
}

LossSum MaskedLm::loss(models::MaskedLanguageModel& model, const Batch& batch,
                       const nn::ForwardContext& context) const {
  return loss(model, masked(batch, context.dropout.step), context);
}

MaskedTokens MaskedLm::mask(const FramedText& text, std::int64_t sample) const {
  return mask_words(text.ids, text.words, vocabulary_, options_.masking,
                    RandomStream(key_, static_cast<std::uint64_t>(sample)));
}

MaskedBatch MaskedLm::collate(const std::vector<FramedText>& texts,
                              const std::vector<std::int64_t>& samples) const {
  if (samples.size() != texts.size())
    throw StateError("masked_lm: ", texts.size(), " texts have ", samples.size(), " sample numbers");
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<std::int32_t>> labels;
  std::vector<std::int64_t> types;
  std::vector<std::int32_t> segment_languages;
  MaskedBatch batch;
  bool pairs = false;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const FramedText& text = texts[i];
    if (text.empty()) throw StateError("masked_lm: text ", i, " of a batch is empty");
    MaskedTokens masked = mask(text, samples[i]);
    ids.push_back(std::move(masked.ids));
    labels.push_back(std::move(masked.labels));
    types.insert(types.end(), text.type_ids.begin(), text.type_ids.end());
    segment_languages.push_back(text.languages.front());
    batch.token_languages.insert(batch.token_languages.end(), text.languages.begin(), text.languages.end());
    batch.next_sentence.push_back(text.follows ? (*text.follows ? 0 : 1) : kIgnoreIndex);
    pairs = pairs || text.follows.has_value();
  }
  if (!pairs) batch.next_sentence.clear();
  batch.tokens = make_batch(ids, labels, segment_languages);
  if (std::any_of(types.begin(), types.end(), [](std::int64_t type) { return type != 0; }))
    batch.tokens.token_type_ids = tensor_of(types, at::kLong);
  return batch;
}

}  // namespace bitrain::objectives
