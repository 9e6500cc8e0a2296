#include <bitrain/losses/info_nce.h>

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/error.h>
#include <bitrain/losses/cross_entropy.h>
#include <bitrain/nn/unit_rows.h>

namespace bitrain::losses {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Elements of a tile: on the CPU it should stay in the last cache, on a GPU fill the machine.
constexpr std::int64_t kTileElements = std::int64_t{1} << 21;
constexpr std::int64_t kDeviceTileElements = std::int64_t{1} << 26;
/// torch.nn.functional.normalize's.
constexpr double kSmallestNorm = 1e-12;
/// Logit of a candidate that does not count; finite, so that no NaN can come of it.
constexpr double kLeftOut = -1e30;

// The Function's inputs. An undefined tensor may not be one: a bias without elements is none.
enum Input { kQueries, kCandidates, kScale, kBias, kInputs };

at::Tensor index_tensor(const std::vector<std::int64_t>& values) {
  at::Tensor tensor =
      at::empty({static_cast<std::int64_t>(values.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<std::int64_t>());
  return tensor;
}

/// Columns of each row that need more than the common rule.
class RowRules {
 public:
  RowRules(const CandidateRules& rules, std::int64_t rows, std::int64_t columns)
      : rows_(rows), columns_(columns), same_label_(rules.same_label), exclude_self_(rules.exclude_self) {
    if (rules.positives.defined()) positives_ = numbers(rules.positives);
    if (!rules.query_labels.defined()) return;
    labels_ = numbers(rules.query_labels);
    const std::vector<std::int64_t> candidates = numbers(rules.candidate_labels);
    for (std::size_t j = 0; j < candidates.size(); ++j)
      columns_of_[candidates[j]].push_back(static_cast<std::int64_t>(j));
  }

  /// The columns of row `i` that are positives, in order; empty for a row that has none.
  void positives_of(std::int64_t i, std::vector<std::int64_t>& columns) const {
    columns.clear();
    if (!many_positives()) {
      columns.push_back(positive_of(i));
      return;
    }
    for (const std::int64_t column : same_label(i))
      if (!(exclude_self_ && column == i)) columns.push_back(column);
  }

  /// The columns of row `i` that do not count.
  void left_out_of(std::int64_t i, std::vector<std::int64_t>& columns) const {
    columns.clear();
    if (exclude_self_) columns.push_back(i);
    if (labels_.empty() || many_positives()) return;
    for (const std::int64_t column : same_label(i))
      if (column != positive_of(i) && !(exclude_self_ && column == i)) columns.push_back(column);
  }

  /// Whether a row may have more than one positive, or none.
  [[nodiscard]] bool many_positives() const {
    return !labels_.empty() && same_label_ == CandidateRules::SameLabel::kPositive;
  }

  /// Throws as info_nce; returns the number of rows with a positive.
  std::int64_t check() const {
    std::vector<std::int64_t> positives;
    std::vector<std::int64_t> left_out;
    std::int64_t counted = 0;
    for (std::int64_t i = 0; i < rows_; ++i) {
      positives_of(i, positives);
      left_out_of(i, left_out);
      for (const std::int64_t column : positives) {
        if (column < 0 || column >= columns_ || (exclude_self_ && column == i)) {
          throw StateError("info_nce: the positive of query ", i, " is column ", column, " of ", columns_,
                           exclude_self_ && column == i ? ", which is the query itself" : "");
        }
      }
      const auto others = columns_ - static_cast<std::int64_t>(positives.size() + left_out.size());
      if (!positives.empty()) ++counted;
      if (positives.size() == 1 && others < 1) {
        throw DataError("info_nce: query ", i, " of ", rows_,
                        " has no negative: a contrastive batch needs two different pairs or more, or hard "
                        "negatives");
      }
    }
    if (counted == 0) throw DataError("info_nce: none of the ", rows_, " queries has a positive");
    return counted;
  }

  /// [B] 1 for rows that have a positive, else 0.
  [[nodiscard]] at::Tensor counted() const {
    std::vector<std::int64_t> values;
    std::vector<std::int64_t> positives;
    for (std::int64_t i = 0; i < rows_; ++i) {
      positives_of(i, positives);
      values.push_back(positives.empty() ? 0 : 1);
    }
    return index_tensor(values);
  }

 private:
  static std::vector<std::int64_t> numbers(const at::Tensor& tensor) {
    const at::Tensor host = tensor.cpu().contiguous();
    const auto* data = host.const_data_ptr<std::int64_t>();
    return {data, data + host.numel()};
  }
  [[nodiscard]] std::int64_t positive_of(std::int64_t i) const {
    return positives_.empty() ? i : positives_[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] const std::vector<std::int64_t>& same_label(std::int64_t i) const {
    static const std::vector<std::int64_t> none;
    const auto found = columns_of_.find(labels_[static_cast<std::size_t>(i)]);
    return found == columns_of_.end() ? none : found->second;
  }

  std::int64_t rows_;
  std::int64_t columns_;
  CandidateRules::SameLabel same_label_;
  bool exclude_self_;
  std::vector<std::int64_t> positives_;
  std::vector<std::int64_t> labels_;
  std::unordered_map<std::int64_t, std::vector<std::int64_t>> columns_of_;
};

/// Rows scaled to length 1, and their lengths; as they are, without lengths, for the dot product.
struct Directions {
  at::Tensor unit;     ///< [n, D]
  at::Tensor lengths;  ///< [n, 1]
};

Directions directions(const at::Tensor& x, bool cosine) {
  if (!cosine) return {x, {}};
  at::Tensor lengths = x.norm(2, {1}, /*keepdim=*/true).clamp_min_(kSmallestNorm);
  return {x / lengths, lengths};
}

/// Turns the gradient of the unit rows into that of the rows, in place and some rows at a time.
void through_normalisation(const at::Tensor& gradient, const Directions& rows) {
  if (!rows.lengths.defined()) return;
  constexpr std::int64_t kRows = 1024;
  for (std::int64_t begin = 0; begin < gradient.size(0); begin += kRows) {
    const std::int64_t count = std::min(kRows, gradient.size(0) - begin);
    const at::Tensor unit = rows.unit.narrow(0, begin, count);
    const at::Tensor slope = gradient.narrow(0, begin, count);
    const at::Tensor along = (slope * unit).sum(1, /*keepdim=*/true);
    slope.addcmul_(unit, along, -1).div_(rows.lengths.narrow(0, begin, count));
  }
}

/// What a call asks for, beside the tensors.
struct Call {
  const RowRules* rules = nullptr;
  bool cosine = true;
  at::Tensor weights;  ///< [B] of the dtype of the embeddings, 0 for rows without positives; or undefined.
  bool gradients = false;
};

/// Runs over the tiles and collects losses and gradients.
class Tiles {
 public:
  Tiles(at::TensorList inputs, const Call& call)
      : call_(call),
        queries_(inputs[kQueries]),
        candidates_(directions(inputs[kCandidates], call.cosine)),
        scale_(inputs[kScale].item<double>()),
        bias_(inputs[kBias]),
        losses_(at::empty({queries_.size(0)}, queries_.options())),
        gradients_(kInputs) {
    if (!call.gradients) return;
    for (int i = 0; i < kInputs; ++i)
      if (inputs[i].requires_grad()) gradients_[i] = at::zeros_like(inputs[i]);
  }

  void run() {
    const std::int64_t rows = queries_.size(0);
    const std::int64_t columns = candidates_.unit.size(0);
    const std::int64_t elements = queries_.is_cpu() ? kTileElements : kDeviceTileElements;
    const std::int64_t tile = std::min(rows, std::max<std::int64_t>(elements / columns, 16));
    logits_ = at::empty({std::min(tile, rows), columns}, queries_.options());
    for (std::int64_t begin = 0; begin < rows; begin += tile) run_tile(begin, std::min(tile, rows - begin));
    logits_.reset();
    if (gradients_[kCandidates].defined()) through_normalisation(gradients_[kCandidates], candidates_);
    if (gradients_[kScale].defined()) gradients_[kScale].fill_(scale_slope_);
  }

  [[nodiscard]] const at::Tensor& losses() const { return losses_; }
  [[nodiscard]] variable_list take_gradients() { return std::move(gradients_); }

 private:
  void run_tile(std::int64_t begin, std::int64_t rows) {
    const Directions queries = directions(queries_.narrow(0, begin, rows), call_.cosine);
    const at::Tensor scaled = queries.unit * scale_;
    at::Tensor logits = logits_.narrow(0, 0, rows);
    if (bias_.numel() > 0) {
      at::addmm_out(logits, bias_, scaled, candidates_.unit.t());
    } else {
      at::mm_out(logits, scaled, candidates_.unit.t());
    }
    to_slopes(logits, begin);
    if (!call_.gradients) return;
    if (gradients_[kCandidates].defined()) gradients_[kCandidates].addmm_(logits.t(), scaled);
    if (gradients_[kBias].defined()) gradients_[kBias].add_(logits.sum(0));
    if (!gradients_[kQueries].defined() && !gradients_[kScale].defined()) return;
    at::Tensor slope = at::mm(logits, candidates_.unit);
    if (gradients_[kScale].defined()) scale_slope_ += (slope * queries.unit).sum(at::kDouble).item<double>();
    if (!gradients_[kQueries].defined()) return;
    slope.mul_(scale_);
    through_normalisation(slope, queries);
    gradients_[kQueries].narrow(0, begin, rows).copy_(slope);
  }

  /// Losses of a tile; where gradients are wanted, its logits become d(weighted sum) / d(logits).
  void to_slopes(const at::Tensor& logits, std::int64_t begin) {
    const std::int64_t rows = logits.size(0);
    const Columns columns = columns_of(begin, rows, logits.size(1));
    const auto on_device = [&](const at::Tensor& host) { return host.to(logits.device()); };
    const at::Tensor flat = logits.view(-1);
    if (!columns.left_out.empty()) flat.index_fill_(0, on_device(index_tensor(columns.left_out)), kLeftOut);
    const at::Tensor first = on_device(index_tensor(columns.first));
    at::Tensor losses = losses_.narrow(0, begin, rows);
    const at::Tensor weights = call_.weights.defined() ? call_.weights.narrow(0, begin, rows) : at::Tensor();
    if (columns.several.empty()) {
      cross_entropy_in_place(logits, first, weights, call_.gradients, losses);
      return;
    }
    // The kernel takes one positive a row: the others are made good around it.
    const at::Tensor places = on_device(index_tensor(columns.several));
    const at::Tensor rows_of = on_device(index_tensor(columns.several_rows));
    const at::Tensor shares = at::ones_like(rows_of, logits.options())
                                  .div_(at::zeros({rows}, logits.options())
                                            .index_add_(0, rows_of, at::ones_like(rows_of, logits.options()))
                                            .index_select(0, rows_of));
    const at::Tensor mean =
        at::zeros({rows}, logits.options()).index_add_(0, rows_of, flat.index_select(0, places) * shares);
    const at::Tensor firsts = logits.gather(1, first.unsqueeze(1)).squeeze(1);
    cross_entropy_in_place(logits, first, weights, call_.gradients, losses);
    losses.add_(firsts).sub_(mean);
    if (weights.defined()) losses.masked_fill_(weights == 0, 0);  // Rows that have no positive.
    if (!call_.gradients) return;
    const at::Tensor row_weights = weights.defined() ? weights : at::ones_like(losses);
    logits.scatter_add_(1, first.unsqueeze(1), row_weights.unsqueeze(1));
    flat.index_add_(0, places, (shares * row_weights.index_select(0, rows_of)).neg_());
  }

  /// Places in a tile, counted through its rows.
  struct Columns {
    std::vector<std::int64_t> first;  ///< Of each row: the column of its (first) positive; 0 without one.
    std::vector<std::int64_t> left_out;
    std::vector<std::int64_t> several;       ///< All positives, where any row may have more than one.
    std::vector<std::int64_t> several_rows;  ///< The rows of those.
  };

  [[nodiscard]] Columns columns_of(std::int64_t begin, std::int64_t rows, std::int64_t width) const {
    Columns columns;
    std::vector<std::int64_t> found;
    for (std::int64_t r = 0; r < rows; ++r) {
      call_.rules->left_out_of(begin + r, found);
      for (const std::int64_t column : found) columns.left_out.push_back(r * width + column);
      call_.rules->positives_of(begin + r, found);
      columns.first.push_back(found.empty() ? 0 : found.front());
      if (!call_.rules->many_positives()) continue;
      for (const std::int64_t column : found) {
        columns.several.push_back(r * width + column);
        columns.several_rows.push_back(r);
      }
    }
    return columns;
  }

  const Call& call_;
  at::Tensor queries_;
  Directions candidates_;
  double scale_;
  at::Tensor bias_;
  at::Tensor logits_;  ///< [tile, M]
  at::Tensor losses_;  ///< [B]
  double scale_slope_ = 0;
  variable_list gradients_;
};

class InfoNceFunction : public torch::autograd::Function<InfoNceFunction> {
 public:
  // Returns {weighted sum [], losses [B]}.
  static variable_list forward(AutogradContext* context, at::TensorList inputs, const Call& call) {
    Tiles tiles(inputs, call);
    tiles.run();
    const at::Tensor& losses = tiles.losses();
    const at::Tensor weighted = call.weights.defined() ? losses * call.weights : losses;
    const at::Tensor sum = weighted.sum(at::kDouble).to(losses.scalar_type());
    if (call.gradients) context->saved_data["gradients"] = tiles.take_gradients();
    context->mark_non_differentiable({losses});
    return {sum, losses};
  }

  static variable_list backward(AutogradContext* context, variable_list slopes) {
    const auto saved = context->saved_data.find("gradients");
    if (saved == context->saved_data.end()) throw StateError("info_nce: backward can run only once");
    auto gradients = saved->second.toTensorVector();
    context->saved_data.erase(saved);  // So that accumulation may take the tensors as they are.
    const at::Tensor& slope = slopes[0];
    if (!slope.device().is_cpu() || slope.item<double>() != 1.0) {
      for (at::Tensor& gradient : gradients)
        if (gradient.defined()) gradient.mul_(slope.to(gradient.device()));
    }
    gradients.emplace_back();  // For `call`.
    return gradients;
  }
};

void check_shapes(const at::Tensor& queries, const at::Tensor& candidates, const CandidateRules& rules,
                  const at::Tensor& weights) {
  const auto fits = [](const at::Tensor& tensor, std::int64_t rows) {
    return !tensor.defined() || (tensor.dim() == 1 && tensor.size(0) == rows);
  };
  if (queries.dim() != 2 || candidates.dim() != 2 || queries.size(1) != candidates.size(1) ||
      queries.scalar_type() != candidates.scalar_type() || queries.device() != candidates.device()) {
    throw StateError("info_nce: queries ", queries.scalar_type(), queries.sizes(), " and candidates ",
                     candidates.scalar_type(), candidates.sizes(), " do not fit each other");
  }
  if (queries.size(0) == 0) throw DataError("info_nce: there are no queries");
  if (queries.scalar_type() != at::kFloat && queries.scalar_type() != at::kDouble)
    throw StateError("info_nce: embeddings must be float32 or float64, not ", queries.scalar_type());
  const bool by_label =
      rules.query_labels.defined() && rules.same_label == CandidateRules::SameLabel::kPositive;
  if (!rules.positives.defined() && !by_label &&
      (rules.exclude_self || queries.size(0) > candidates.size(0))) {
    throw StateError("info_nce: ", queries.size(0), " queries and ", candidates.size(0),
                     " candidates: say where the positives are");
  }
  if (rules.exclude_self && queries.size(0) > candidates.size(0))
    throw StateError("info_nce: exclude_self, but there are ", queries.size(0), " queries and only ",
                     candidates.size(0), " candidates: not every query is among them");
  if (!fits(rules.positives, queries.size(0)) || !fits(rules.query_labels, queries.size(0)) ||
      !fits(rules.candidate_labels, candidates.size(0)) || !fits(weights, queries.size(0)) ||
      rules.query_labels.defined() != rules.candidate_labels.defined()) {
    throw StateError("info_nce: positives, labels and weights must have a value for each of ",
                     queries.size(0), " queries and ", candidates.size(0), " candidates");
  }
}

/// [M]: the mean cosine (or product) of each candidate with its k nearest queries; differentiable. The
/// queries' own means are the same for all candidates, so the softmax does not see them.
at::Tensor neighbourhood(const at::Tensor& candidates, const at::Tensor& queries, bool cosine,
                         std::int64_t k) {
  const std::int64_t near = std::min(k, queries.size(0));
  std::vector<std::int64_t> nearest;
  {
    const at::NoGradGuard no_grad;
    const at::Tensor units = directions(queries, cosine).unit;
    const at::Tensor from = directions(candidates, cosine).unit;
    const std::int64_t tile = std::max<std::int64_t>(16, kTileElements / queries.size(0));
    for (std::int64_t begin = 0; begin < from.size(0); begin += tile) {
      const std::int64_t rows = std::min(tile, from.size(0) - begin);
      const at::Tensor found =
          std::get<1>(at::topk(at::mm(from.narrow(0, begin, rows), units.t()), near)).cpu().contiguous();
      const auto* data = found.const_data_ptr<std::int64_t>();
      nearest.insert(nearest.end(), data, data + found.numel());
    }
  }
  const auto unit = [cosine](const at::Tensor& x) { return cosine ? nn::unit_rows(x) : x; };
  const at::Tensor chosen = unit(queries)
                                .index_select(0, index_tensor(nearest).to(queries.device()))
                                .view({candidates.size(0), near, queries.size(1)});
  return (chosen * unit(candidates).unsqueeze(1)).sum(-1).mean(1);
}

}  // namespace

ContrastiveLoss info_nce(const at::Tensor& queries, const at::Tensor& candidates,
                         const InfoNceOptions& options, const CandidateRules& rules,
                         const at::Tensor& logit_scale, const at::Tensor& weights) {
  check_shapes(queries, candidates, rules, weights);
  const RowRules row_rules(rules, queries.size(0), candidates.size(0));
  const std::int64_t count = row_rules.check();
  Call call;
  call.rules = &row_rules;
  call.cosine = options.similarity == "cosine";
  if (weights.defined()) call.weights = weights.detach().to(queries.options()).contiguous();
  if (count < queries.size(0)) {
    const at::Tensor counted = row_rules.counted().to(queries.options());
    call.weights = call.weights.defined() ? call.weights * counted : counted;
  }
  at::Tensor scale = logit_scale.defined()
                         ? logit_scale
                         : at::full({}, options.scale, at::TensorOptions().dtype(at::kDouble));
  at::Tensor bias = at::empty({0}, queries.options());
  if (options.csls_neighbours > 0) {
    const at::Tensor mean = neighbourhood(candidates, queries, call.cosine, options.csls_neighbours);
    bias = -(mean * scale).to(queries.scalar_type());
    scale = scale * 2;
  }
  const std::vector<at::Tensor> inputs = {queries, candidates, scale, bias};
  call.gradients =
      at::GradMode::is_enabled() &&
      std::any_of(inputs.begin(), inputs.end(), [](const at::Tensor& x) { return x.requires_grad(); });
  const variable_list outputs = InfoNceFunction::apply(at::TensorList(inputs), call);
  return {.sum = outputs[0], .per_query = outputs[1].detach(), .count = static_cast<double>(count)};
}

}  // namespace bitrain::losses
