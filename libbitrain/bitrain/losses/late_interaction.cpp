#include <bitrain/losses/late_interaction.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/max.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/error.h>

namespace bitrain::losses {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Boundaries = std::vector<std::int32_t>;

constexpr std::int64_t kQueryTokens = 256;      ///< Rows of a tile of similarities, where queries are short.
constexpr std::int64_t kDocumentTokens = 2048;  ///< Its columns, where documents are short.

void check(const TokenVectors& texts, const char* what) {
  const Boundaries& ends = texts.boundaries;
  if (!texts.vectors.defined()) throw StateError("max_sim: the vectors of the ", what, " are undefined");
  if (texts.vectors.dim() != 2 || !texts.vectors.is_floating_point() || ends.size() < 2 ||
      ends.front() != 0 || ends.back() != texts.vectors.size(0)) {
    throw StateError(
        "max_sim: boundaries of the ", what, " must rise from 0 to the number of rows of [N, D] ",
        "floating-point vectors, which are ", texts.vectors.scalar_type(), " ", texts.vectors.sizes());
  }
  for (std::size_t s = 0; s + 1 < ends.size(); ++s) {
    if (ends[s + 1] <= ends[s])
      throw StateError("max_sim: text ", s, " of the ", what, " is empty, or the boundaries do not rise");
  }
  if (texts.left_out.defined() && (texts.left_out.scalar_type() != at::kBool ||
                                   texts.left_out.sizes() != texts.vectors.sizes().slice(0, 1)))
    throw StateError("max_sim: left_out of the ", what, " must be bool [", texts.vectors.size(0), "], not ",
                     texts.left_out.scalar_type(), " ", texts.left_out.sizes());
}

/// The same without the tokens that are left out.
TokenVectors compacted(const TokenVectors& texts, const char* what) {
  check(texts, what);
  if (!texts.left_out.defined()) return texts;
  const at::Tensor left_out = texts.left_out.to(at::kCPU).contiguous();
  const auto* skip = left_out.const_data_ptr<bool>();
  TokenVectors kept;
  kept.boundaries = {0};
  std::int32_t count = 0;
  for (std::int64_t s = 0; s < texts.texts(); ++s) {
    for (std::int32_t t = texts.boundaries[s]; t < texts.boundaries[s + 1]; ++t) count += skip[t] ? 0 : 1;
    if (count == kept.boundaries.back())
      throw DataError("max_sim: every token of text ", s, " of the ", what, " is left out");
    kept.boundaries.push_back(count);
  }
  kept.vectors = at::index_select(texts.vectors, 0, at::nonzero(texts.left_out.logical_not()).squeeze(1));
  return kept;
}

/// Which documents each query is scored against: all of them, or n of its own.
struct Plan {
  Boundaries queries;
  Boundaries documents;
  bool own = false;

  [[nodiscard]] std::int64_t query_count() const { return static_cast<std::int64_t>(queries.size()) - 1; }
  [[nodiscard]] std::int64_t document_count() const {
    return static_cast<std::int64_t>(documents.size()) - 1;
  }
  /// Scores of a query.
  [[nodiscard]] std::int64_t width() const {
    return own ? document_count() / query_count() : document_count();
  }
  /// The document of a query's first score.
  [[nodiscard]] std::int64_t first_document(std::int64_t query) const { return own ? query * width() : 0; }
};

/// The query of each token.
std::vector<std::int32_t> owners(const Boundaries& boundaries) {
  std::vector<std::int32_t> owner(static_cast<std::size_t>(boundaries.back()));
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s)
    std::fill(owner.begin() + boundaries[s], owner.begin() + boundaries[s + 1], static_cast<std::int32_t>(s));
  return owner;
}

/// The end of the texts from `first` on that hold at most `tokens` tokens together; at least one.
std::int64_t tile_end(const Boundaries& boundaries, std::int64_t first, std::int64_t last,
                      std::int64_t tokens) {
  std::int64_t end = first + 1;
  while (end < last && boundaries[end + 1] - boundaries[first] <= tokens) ++end;
  return end;
}

/// For the query tokens of a tile of similarities: the best token of each document.
template <class T>
class TileScan {
 public:
  TileScan(const Plan& plan, const at::Tensor& best, const at::Tensor& where)
      : plan_(plan),
        best_(best.mutable_data_ptr<T>()),
        where_(where.mutable_data_ptr<std::int32_t>()),
        width_(plan.width()) {}

  /// `tile`: rows from query token `token`, columns the documents first .. last - 1, the first of which is
  /// score `column` of the query.
  void take(const at::Tensor& tile, std::int64_t token, std::int64_t first, std::int64_t last,
            std::int64_t column) const {
    const T* values = tile.const_data_ptr<T>();
    const std::int64_t stride = tile.stride(0);
    at::parallel_for(0, tile.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* similarity = values + row * stride - plan_.documents[first];
        const std::int64_t place = (token + row) * width_ + column;
        for (std::int64_t d = first; d < last; ++d) {
          const std::int32_t best = largest(similarity, plan_.documents[d], plan_.documents[d + 1]);
          where_[place + d - first] = best;
          best_[place + d - first] = similarity[best];
        }
      }
    });
  }

 private:
  // The first NaN is the largest of all, so that it reaches the score.
  static std::int32_t largest(const T* values, std::int32_t begin, std::int32_t end) {
    std::int32_t best = begin;
    for (std::int32_t i = begin + 1; i < end; ++i) {
      if (values[i] > values[best] || (values[i] != values[i] && values[best] == values[best])) best = i;
    }
    return best;
  }

  const Plan& plan_;
  T* best_;
  std::int32_t* where_;
  std::int64_t width_;
};

template <class T>
void scan(const Plan& plan, const at::Tensor& q, const at::Tensor& d, const at::Tensor& best,
          const at::Tensor& where) {
  const TileScan<T> tiles(plan, best, where);
  for (std::int64_t query = 0; query < plan.query_count();) {
    const std::int64_t next =
        plan.own ? query + 1 : tile_end(plan.queries, query, plan.query_count(), kQueryTokens);
    const std::int64_t token = plan.queries[query];
    const at::Tensor rows = q.narrow(0, token, plan.queries[next] - token);
    const std::int64_t begin = plan.first_document(query);
    const std::int64_t end = begin + plan.width();
    for (std::int64_t first = begin; first < end;) {
      const std::int64_t last = tile_end(plan.documents, first, end, kDocumentTokens);
      const at::Tensor columns =
          d.narrow(0, plan.documents[first], plan.documents[last] - plan.documents[first]);
      tiles.take(at::mm(rows, columns.t()), token, first, last, first - begin);
      first = last;
    }
    query = next;
  }
}

template <class T>
void add_scaled(T* sum, const T* x, T factor, std::int64_t dim) {
#pragma omp simd
  for (std::int64_t k = 0; k < dim; ++k) sum[k] += factor * x[k];
}

/// Rows of the queries' gradient: each the sum of the tokens it chose.
template <class T>
void query_gradient(const Plan& plan, const at::Tensor& slope, const at::Tensor& where, const at::Tensor& d,
                    const at::Tensor& gradient) {
  const std::int64_t width = plan.width();
  const std::int64_t dim = d.size(1);
  const std::vector<std::int32_t> owner = owners(plan.queries);
  const T* slopes = slope.const_data_ptr<T>();
  const T* documents = d.const_data_ptr<T>();
  const auto* chosen = where.const_data_ptr<std::int32_t>();
  T* sums = gradient.mutable_data_ptr<T>();
  at::parallel_for(0, gradient.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      for (std::int64_t c = 0; c < width; ++c)
        add_scaled(sums + token * dim, documents + chosen[token * width + c] * dim,
                   slopes[owner[token] * width + c], dim);
    }
  });
}

/// Rows of the documents' gradient: a document belongs to one thread, and its queries come in order.
template <class T>
void document_gradient(const Plan& plan, const at::Tensor& slope, const at::Tensor& where,
                       const at::Tensor& q, const at::Tensor& gradient) {
  const std::int64_t width = plan.width();
  const std::int64_t dim = q.size(1);
  const std::vector<std::int32_t> owner = owners(plan.queries);
  const T* slopes = slope.const_data_ptr<T>();
  const T* queries = q.const_data_ptr<T>();
  const auto* chosen = where.const_data_ptr<std::int32_t>();
  T* sums = gradient.mutable_data_ptr<T>();
  at::parallel_for(0, plan.document_count(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t document = begin; document < end; ++document) {
      const std::int64_t query = plan.own ? document / width : 0;
      const std::int64_t c = document - plan.first_document(query);
      const std::int32_t last = plan.own ? plan.queries[query + 1] : plan.queries.back();
      for (std::int32_t token = plan.queries[query]; token < last; ++token)
        add_scaled(sums + chosen[token * width + c] * dim, queries + token * dim,
                   slopes[owner[token] * width + c], dim);
    }
  });
}

/// [tokens, width] -> [queries, width]: sums over the tokens of each query, in order.
template <class T>
void sum_queries(const Plan& plan, const at::Tensor& best, const at::Tensor& scores) {
  const std::int64_t width = plan.width();
  const T* values = best.const_data_ptr<T>();
  T* sums = scores.mutable_data_ptr<T>();
  for (std::int64_t query = 0; query < plan.query_count(); ++query) {
    for (std::int64_t token = plan.queries[query]; token < plan.queries[query + 1]; ++token)
      add_scaled(sums + query * width, values + token * width, T{1}, width);
  }
}

class MaxSimFunction : public torch::autograd::Function<MaxSimFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& queries, const at::Tensor& documents,
                            const Plan& plan) {
    const at::Tensor q = queries.contiguous();
    const at::Tensor d = documents.contiguous();
    at::Tensor best = at::empty({q.size(0), plan.width()}, q.options());
    const at::Tensor where = at::empty(best.sizes(), q.options().dtype(at::kInt));
    at::Tensor scores = at::zeros({plan.query_count(), plan.width()}, q.options());
    if (q.scalar_type() == at::kDouble) {
      scan<double>(plan, q, d, best, where);
      sum_queries<double>(plan, best, scores);
    } else {
      scan<float>(plan, q, d, best, where);
      sum_queries<float>(plan, best, scores);
    }
    context->save_for_backward({q, d, where});
    context->saved_data["queries"] = at::tensor(plan.queries, at::TensorOptions().dtype(at::kInt));
    context->saved_data["documents"] = at::tensor(plan.documents, at::TensorOptions().dtype(at::kInt));
    context->saved_data["own"] = plan.own;
    return scores;
  }

  static variable_list backward(AutogradContext* context, variable_list slopes) {
    const variable_list saved = context->get_saved_variables();
    const auto ends = [&](const char* name) {
      const at::Tensor values = context->saved_data[name].toTensor();
      const auto* first = values.const_data_ptr<std::int32_t>();
      return Boundaries(first, first + values.numel());
    };
    const Plan plan{ends("queries"), ends("documents"), context->saved_data["own"].toBool()};
    const at::Tensor slope = slopes[0].contiguous();
    at::Tensor dq;
    at::Tensor dd;
    const bool wide = slope.scalar_type() == at::kDouble;
    if (context->needs_input_grad(0)) {
      dq = at::zeros_like(saved[0]);
      (wide ? query_gradient<double> : query_gradient<float>)(plan, slope, saved[2], saved[1], dq);
    }
    if (context->needs_input_grad(1)) {
      dd = at::zeros_like(saved[1]);
      (wide ? document_gradient<double> : document_gradient<float>)(plan, slope, saved[2], saved[0], dd);
    }
    return {dq, dd, {}};
  }
};

void check_fit(const TokenVectors& queries, const TokenVectors& documents, bool own) {
  if (queries.vectors.size(1) != documents.vectors.size(1) ||
      queries.vectors.device() != documents.vectors.device())
    throw StateError("max_sim: query vectors ", queries.vectors.sizes(), " on ",
                     queries.vectors.device().str(), " do not fit document vectors ",
                     documents.vectors.sizes(), " on ", documents.vectors.device().str());
  if (own && documents.texts() % queries.texts() != 0)
    throw StateError("max_sim: ", documents.texts(), " documents are not the same number for each of ",
                     queries.texts(), " queries");
}

/// Both sides checked, compacted, and in one type of at least float32.
std::pair<TokenVectors, TokenVectors> prepared(const TokenVectors& queries, const TokenVectors& documents,
                                               bool own) {
  std::pair<TokenVectors, TokenVectors> both = {compacted(queries, "queries"),
                                                compacted(documents, "documents")};
  check_fit(both.first, both.second, own);
  const bool wide =
      queries.vectors.scalar_type() == at::kDouble || documents.vectors.scalar_type() == at::kDouble;
  both.first.vectors = both.first.vectors.to(wide ? at::kDouble : at::kFloat);
  both.second.vectors = both.second.vectors.to(wide ? at::kDouble : at::kFloat);
  return both;
}

at::Tensor scored(const TokenVectors& queries, const TokenVectors& documents, bool own) {
  const auto [q, d] = prepared(queries, documents, own);
  return MaxSimFunction::apply(q.vectors, d.vectors, Plan{q.boundaries, d.boundaries, own});
}

at::Tensor text(const TokenVectors& texts, std::int64_t index) {
  return texts.vectors.narrow(0, texts.boundaries[index],
                              texts.boundaries[index + 1] - texts.boundaries[index]);
}

at::Tensor scored_plainly(const TokenVectors& queries, const TokenVectors& documents, bool own) {
  const auto [q, d] = prepared(queries, documents, own);
  const Plan plan{q.boundaries, d.boundaries, own};
  std::vector<at::Tensor> rows;
  for (std::int64_t query = 0; query < q.texts(); ++query) {
    std::vector<at::Tensor> row;
    for (std::int64_t c = 0; c < plan.width(); ++c) {
      const at::Tensor document = text(d, plan.first_document(query) + c);
      row.push_back(std::get<0>(at::max(at::mm(text(q, query), document.t()), 1)).sum());
    }
    rows.push_back(at::stack(row));
  }
  return at::stack(rows);
}

/// The first of every n documents.
TokenVectors positives(const TokenVectors& documents, std::int64_t n) {
  TokenVectors first;
  first.boundaries = {0};
  std::vector<at::Tensor> vectors;
  std::vector<at::Tensor> left_out;
  for (std::int64_t d = 0; d < documents.texts(); d += n) {
    const std::int64_t begin = documents.boundaries[d];
    const std::int64_t length = documents.boundaries[d + 1] - begin;
    vectors.push_back(documents.vectors.narrow(0, begin, length));
    if (documents.left_out.defined()) left_out.push_back(documents.left_out.narrow(0, begin, length));
    first.boundaries.push_back(first.boundaries.back() + static_cast<std::int32_t>(length));
  }
  first.vectors = at::cat(vectors);
  if (documents.left_out.defined()) first.left_out = at::cat(left_out);
  return first;
}

}  // namespace

at::Tensor max_sim(const TokenVectors& queries, const TokenVectors& documents) {
  if (queries.vectors.defined() && !queries.vectors.is_cpu()) return reference::max_sim(queries, documents);
  return scored(queries, documents, /*own=*/false);
}

at::Tensor max_sim_own(const TokenVectors& queries, const TokenVectors& documents) {
  if (queries.vectors.defined() && !queries.vectors.is_cpu())
    return reference::max_sim_own(queries, documents);
  return scored(queries, documents, /*own=*/true);
}

at::Tensor colbert_loss(const TokenVectors& queries, const TokenVectors& documents) {
  const at::Tensor own = max_sim_own(queries, documents);
  const std::int64_t n = own.size(1);
  at::Tensor among_own = -at::log_softmax(own, 1).select(1, 0);
  if (queries.texts() == 1) {
    if (n == 1) throw DataError("colbert_loss: one query with one document has no negative to learn from");
    return among_own;
  }
  const at::Tensor in_batch = max_sim(queries, n == 1 ? documents : positives(documents, n));
  return among_own - at::log_softmax(in_batch, 1).diagonal();
}

at::Tensor reference::max_sim(const TokenVectors& queries, const TokenVectors& documents) {
  return scored_plainly(queries, documents, /*own=*/false);
}

at::Tensor reference::max_sim_own(const TokenVectors& queries, const TokenVectors& documents) {
  return scored_plainly(queries, documents, /*own=*/true);
}

}  // namespace bitrain::losses
