#include <bitrain/eval/encode_documents.h>

#include <algorithm>
#include <functional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/finite_scores.h>
#include <bitrain/nn/unit_rows.h>

namespace bitrain::eval {
namespace {

/// The sentences of documents end to end, and where each document ends.
struct Flat {
  Flat(const std::vector<Sentences>& documents, std::int64_t most) {
    for (std::size_t d = 0; d < documents.size(); ++d) {
      if (documents[d].empty()) throw DataError("document ", d, " has no sentence");
      const auto count = std::min(documents[d].size(), static_cast<std::size_t>(most));
      sentences.insert(sentences.end(), documents[d].begin(),
                       documents[d].begin() + static_cast<std::ptrdiff_t>(count));
      ends.push_back(static_cast<std::int32_t>(sentences.size()));
    }
  }
  std::vector<std::string> sentences;
  std::vector<std::int32_t> ends;
};

/// Documents read at a time: the upper encoder is small.
constexpr std::size_t kDocuments = 64;

}  // namespace

at::Tensor encode_documents(models::DocumentEncoder& model, const text::Tokenizer& tokenizer,
                            const std::vector<Sentences>& documents, const EncodeOptions& options) {
  const at::NoGradGuard no_grad;
  const Flat flat(documents, model.max_sentences());
  const at::Tensor sentences = encode_texts(model.sentences(), tokenizer, flat.sentences, options)
                                   .to(model.documents().input_embeddings().weight.device());
  std::vector<at::Tensor> vectors;
  for (std::size_t first = 0; first < flat.ends.size(); first += kDocuments) {
    const std::size_t last = std::min(first + kDocuments, flat.ends.size());
    const std::int32_t begin = first == 0 ? 0 : flat.ends[first - 1];
    std::vector<std::int32_t> ends;
    for (std::size_t d = first; d < last; ++d) ends.push_back(flat.ends[d] - begin);
    vectors.push_back(model.embed(sentences.narrow(0, begin, ends.back()), ends, {}).cpu());
    check_finite(vectors.back(), "embeddings of documents");
  }
  if (vectors.empty()) return at::empty({0, model.dimension()}, at::TensorOptions().dtype(at::kFloat));
  return at::cat(vectors);
}

at::Tensor average_sentences(models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                             const std::vector<Sentences>& documents, std::int64_t max_sentences,
                             const EncodeOptions& options) {
  const at::NoGradGuard no_grad;
  const Flat flat(documents, max_sentences);
  const at::Tensor sentences = nn::unit_rows(encode_texts(model, tokenizer, flat.sentences, options));
  std::vector<at::Tensor> means;
  std::int32_t begin = 0;
  for (const std::int32_t end : flat.ends) {
    means.push_back(sentences.narrow(0, begin, end - begin).mean(0));
    begin = end;
  }
  if (means.empty()) return at::empty({0, model.dimension()}, at::TensorOptions().dtype(at::kFloat));
  return at::stack(means);
}

}  // namespace bitrain::eval
