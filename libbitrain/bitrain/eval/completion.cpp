#include <bitrain/eval/completion.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>

namespace bitrain::eval {
namespace {

constexpr const char* kSpace = " \t\r\n\v\f";

/// The first `count` words of `text`, and whether the last of them surely ends there (something follows it).
struct Words {
  std::vector<std::string> words;
  bool closed = false;
};

Words first_words(const std::string& text, std::int64_t count) {
  Words result;
  std::size_t at = text.find_first_not_of(kSpace);
  while (at != std::string::npos && static_cast<std::int64_t>(result.words.size()) < count) {
    const std::size_t end = text.find_first_of(kSpace, at);
    result.words.push_back(text.substr(at, end == std::string::npos ? end : end - at));
    result.closed = end != std::string::npos && static_cast<std::int64_t>(result.words.size()) == count;
    at = end == std::string::npos ? end : text.find_first_not_of(kSpace, end);
  }
  return result;
}

/// A case while its reply is being written.
struct Reply {
  const CompletionCase* from = nullptr;
  std::vector<std::string> expected;
  std::vector<text::TokenId> written;
  bool done = false;
  bool correct = false;
};

/// The likeliest next token of each unfinished reply, from one packed pass without a cache: prompts are
/// short.
std::vector<std::int64_t> next_tokens(models::LanguageModel& model, const std::vector<Reply*>& replies) {
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<std::int32_t>> labels;
  std::vector<std::int64_t> last;
  std::int64_t tokens = 0;
  for (const Reply* reply : replies) {
    std::vector<std::int32_t> row = reply->from->prompt;
    row.insert(row.end(), reply->written.begin(), reply->written.end());
    tokens += static_cast<std::int64_t>(row.size());
    last.push_back(tokens - 1);
    labels.emplace_back(row.size(), static_cast<std::int32_t>(kIgnoreIndex));
    ids.push_back(std::move(row));
  }
  const at::Device device = model.input_embeddings().weight.device();
  const Batch batch = make_batch(ids, labels).to(device);
  const at::Tensor hidden = model.forward(batch, {}).hidden;
  const at::Tensor rows = at::index_select(hidden, 0, at::tensor(last, at::kLong).to(device));
  const at::Tensor best = at::argmax(model.output_head().forward(rows, {}), -1).to(at::kCPU);
  const auto* data = best.const_data_ptr<std::int64_t>();
  return {data, data + best.numel()};
}

/// Looks whether a reply is decided: right or wrong.
void judge(Reply& reply, const text::Tokenizer& tokenizer, bool ended) {
  const auto count = static_cast<std::int64_t>(reply.expected.size());
  const Words words = first_words(tokenizer.decode(reply.written), count);
  if (!ended && !words.closed) return;
  reply.done = true;
  reply.correct = words.words == reply.expected;
}

void write_replies(models::LanguageModel& model, const text::Tokenizer& tokenizer, std::vector<Reply*> open,
                   std::int64_t max_new_tokens) {
  for (std::int64_t i = 0; i < max_new_tokens && !open.empty(); ++i) {
    const std::vector<std::int64_t> next = next_tokens(model, open);
    for (std::size_t r = 0; r < open.size(); ++r) {
      const auto id = static_cast<text::TokenId>(next[r]);
      // Rows beyond the tokenizer are padding of the vocabulary: no text.
      const bool ended = id == tokenizer.special_tokens().eos || id >= tokenizer.vocab_size();
      if (!ended) open[r]->written.push_back(id);
      judge(*open[r], tokenizer, ended || i + 1 == max_new_tokens);
    }
    open.erase(std::remove_if(open.begin(), open.end(), [](const Reply* reply) { return reply->done; }),
               open.end());
  }
}

}  // namespace

std::map<std::string, CompletionScore> completion_accuracy(models::LanguageModel& model,
                                                           const text::Tokenizer& tokenizer,
                                                           const std::vector<CompletionCase>& cases,
                                                           const CompletionOptions& options) {
  if (cases.empty()) throw DataError("there is no case to complete");
  if (options.words < 1 || options.max_new_tokens < 1) {
    throw ConfigError("completion: words and max_new_tokens must be 1 or more");
  }
  const at::NoGradGuard no_grad;
  std::map<std::string, CompletionScore> result;
  for (std::size_t begin = 0; begin < cases.size();) {
    const auto start = std::chrono::steady_clock::now();
    const std::string& language = cases[begin].language;
    std::vector<Reply> replies;
    std::int64_t tokens = 0;
    std::size_t end = begin;
    for (; end < cases.size() && cases[end].language == language &&
           (end == begin || tokens < options.batch_tokens);
         ++end) {
      Reply reply;
      reply.from = &cases[end];
      reply.expected = first_words(cases[end].expected, options.words).words;
      if (reply.from->prompt.empty() || reply.expected.empty()) {
        throw DataError(
            reply.from->place.empty() ? to_text("case ", end + 1, " of ", cases.size()) : reply.from->place,
            reply.expected.empty() ? " has an empty reply" : " has no prompt",
            ": there is nothing to complete; leave it out");
      }
      tokens += static_cast<std::int64_t>(reply.from->prompt.size());
      replies.push_back(std::move(reply));
    }
    std::vector<Reply*> open;
    open.reserve(replies.size());
    for (Reply& reply : replies) open.push_back(&reply);
    write_replies(model, tokenizer, std::move(open), options.max_new_tokens);
    CompletionScore& score = result[language];
    for (const Reply& reply : replies) {
      ++score.cases;
      score.correct += reply.correct ? 1 : 0;
    }
    score.accuracy = static_cast<double>(score.correct) / static_cast<double>(score.cases);
    score.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    begin = end;
  }
  return result;
}

std::vector<text::TokenId> encode_prompt(const text::Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<text::TokenId> ids;
  if (!prompt.empty())
    ids = tokenizer.encode_markup(prompt, {{0, static_cast<std::int32_t>(prompt.size())}}).ids;
  const std::optional<text::TokenId> bos = tokenizer.special_tokens().bos;
  if (bos && (ids.empty() || ids.front() != *bos)) ids.insert(ids.begin(), *bos);
  return ids;
}

CompletionCase split_case(const text::Tokenizer& tokenizer, const std::string& text,
                          const std::string& language, std::int64_t prompt_words) {
  CompletionCase result;
  result.language = language;
  std::size_t end = 0;
  for (std::int64_t word = 0; word < prompt_words && end != std::string::npos; ++word) {
    const std::size_t begin = text.find_first_not_of(kSpace, end);
    end = begin == std::string::npos ? begin : text.find_first_of(kSpace, begin);
  }
  result.prompt = tokenizer.encode(text.substr(0, end));
  if (tokenizer.special_tokens().bos)
    result.prompt.insert(result.prompt.begin(), *tokenizer.special_tokens().bos);
  const std::size_t rest = end == std::string::npos ? end : text.find_first_not_of(kSpace, end);
  if (rest != std::string::npos) result.expected = text.substr(rest);
  return result;
}

}  // namespace bitrain::eval
