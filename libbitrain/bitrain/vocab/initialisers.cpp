#include <bitrain/vocab/initialisers.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/base/strings.h>
#include <bitrain/kernels/cpu_kernels.h>

namespace bitrain::vocab {
namespace {

/// Rows of the matrix that are widened to float32 at a time for statistics.
constexpr std::int64_t kChunk = 1024;
/// New rows a task.
constexpr std::int64_t kGrain = 16;

const std::vector<std::string>& rules() {
  static const std::vector<std::string> kRules = {"piece_mean",  "weighted_mean", "first",           "last",
                                                  "global_mean", "gaussian",      "mean_covariance", "copy"};
  return kRules;
}

const std::vector<std::pair<std::string, InitialiserRules>>& presets() {
  static const std::vector<std::pair<std::string, InitialiserRules>> kPresets = {
      {"zip_tie", {"piece_mean", "piece_mean"}},
      {"zip_tie_strict_tie", {"piece_mean", "tie_to_input"}},
      {"last_first", {"last", "first"}}};
  return kPresets;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// sum of weights[k] * row ids[k], over divisor; weights null: 1. For types that the kernels do not know.
template <class Scalar>
void combine(const Scalar* data, std::int64_t dim, const text::TokenId* ids, const float* weights,
             std::int64_t count, Scalar* to) {
  using Sum = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;
  Sum divisor = 0;
  for (std::int64_t k = 0; k < count; ++k) divisor += weights == nullptr ? 1.0F : weights[k];
  for (std::int64_t i = 0; i < dim; ++i) {
    Sum sum = 0;
    for (std::int64_t k = 0; k < count; ++k)
      sum += (weights == nullptr ? 1.0F : weights[k]) * static_cast<Sum>(data[ids[k] * dim + i]);
    to[i] = static_cast<Scalar>(sum / divisor);
  }
}

/// New rows as means of old ones.
void fill_with_means(at::Tensor& matrix, const PieceTable& pieces, const FillRequest& request) {
  const std::int64_t dim = matrix.size(1);
  const float* weights = request.rule == "weighted_mean" ? pieces.bytes.data() : nullptr;
  if (matrix.scalar_type() == at::kBFloat16 || matrix.scalar_type() == at::kFloat) {
    const auto type =
        matrix.scalar_type() == at::kFloat ? kernels::FloatType::kFloat32 : kernels::FloatType::kBFloat16;
    auto* data = static_cast<char*>(matrix.mutable_data_ptr());
    kernels::cpu_kernels().gather_mean(type, data, pieces.ids.data(), weights, pieces.offsets.data(),
                                       pieces.size(), dim,
                                       data + request.first_row * dim * matrix.element_size());
    return;
  }
  AT_DISPATCH_FLOATING_TYPES_AND_HALF(matrix.scalar_type(), "fill_rows", [&] {
    auto* data = matrix.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, pieces.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t offset = pieces.offsets[static_cast<std::size_t>(piece)];
        const std::int64_t count = pieces.offsets[static_cast<std::size_t>(piece) + 1] - offset;
        combine<scalar_t>(data, dim, pieces.ids.data() + offset,
                          weights == nullptr ? nullptr : weights + offset, count,
                          data + (request.first_row + piece) * dim);
      }
    });
  });
}

/// Which old row a rule copies.
std::int64_t copied_row(const std::string& rule, const FillRequest& request, const text::TokenId* ids,
                        const float* bytes, std::int64_t count) {
  if (rule == "first") return ids[0];
  if (rule == "last") return ids[count - 1];
  return request.copy_row >= 0 ? request.copy_row : ids[std::max_element(bytes, bytes + count) - bytes];
}

void fill_with_copies(at::Tensor& matrix, const PieceTable& pieces, const FillRequest& request) {
  const std::size_t bytes = static_cast<std::size_t>(matrix.size(1) * matrix.element_size());
  auto* data = static_cast<char*>(matrix.mutable_data_ptr());
  at::parallel_for(0, pieces.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t offset = pieces.offsets[static_cast<std::size_t>(piece)];
      const std::int64_t count = pieces.offsets[static_cast<std::size_t>(piece) + 1] - offset;
      const std::int64_t from =
          copied_row(request.rule, request, pieces.ids.data() + offset, pieces.bytes.data() + offset, count);
      std::memcpy(data + static_cast<std::size_t>(request.first_row + piece) * bytes,
                  data + static_cast<std::size_t>(from) * bytes, bytes);
    }
  });
}

at::ScalarType sum_type(const at::Tensor& matrix) {
  return matrix.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Calls visit(chunk) for rows [begin, end), widened.
template <class Visit>
void for_chunks(const at::Tensor& matrix, std::int64_t begin, std::int64_t end, Visit&& visit) {
  for (std::int64_t row = begin; row < end; row += kChunk)
    visit(matrix.narrow(0, row, std::min(kChunk, end - row)).to(sum_type(matrix)));
}

/// rows [count, dim] of standard normal draws, a function of (seed, purpose, row, column).
at::Tensor normal_rows(std::int64_t first, std::int64_t count, std::int64_t dim, const FillRequest& request) {
  at::Tensor draws = at::empty({count, dim}, at::kFloat);
  auto* to = draws.mutable_data_ptr<float>();
  const std::uint64_t key = stream_key(request.seed, "vocabulary rows of " + request.purpose);
  at::parallel_for(0, count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      RandomStream stream(key, static_cast<std::uint64_t>(first + row));
      for (std::int64_t i = 0; i < dim; ++i) to[row * dim + i] = static_cast<float>(stream.normal());
    }
  });
  return draws;
}

/// Factor L of the covariance L L^T of the old rows.
at::Tensor covariance_factor(const at::Tensor& matrix, std::int64_t rows, const at::Tensor& mean) {
  const std::int64_t dim = matrix.size(1);
  at::Tensor covariance = at::zeros({dim, dim}, mean.options());
  for_chunks(matrix, 0, rows, [&](const at::Tensor& chunk) {
    const at::Tensor centered = chunk - mean;
    covariance.addmm_(centered.t(), centered);
  });
  covariance.div_(static_cast<double>(std::max<std::int64_t>(1, rows - 1)));
  // Fewer rows than columns leave it singular: a little on the diagonal keeps the factor real.
  const double ridge = 1e-6 * covariance.diagonal().mean().item<double>() + 1e-20;
  covariance.diagonal().add_(ridge);
  const auto [factor, info] = at::linalg_cholesky_ex(covariance);
  if (info.item<int>() != 0)
    throw StateError("the covariance of the old rows cannot be factored: are all weights finite?");
  return factor;
}

void fill_with_draws(at::Tensor& matrix, const PieceTable& pieces, const InitialiserOptions& options,
                     const FillRequest& request) {
  const at::Tensor mean = mean_row(matrix, request.old_rows);
  at::Tensor spread;  // Per column, or the factor of the covariance.
  const bool full = request.rule == "mean_covariance";
  if (full) {
    spread = covariance_factor(matrix, request.old_rows, mean) * std::sqrt(options.covariance_scale);
  } else if (!options.std) {
    at::Tensor squares = at::zeros_like(mean);
    for_chunks(matrix, 0, request.old_rows,
               [&](const at::Tensor& chunk) { squares += (chunk - mean).square().sum(0); });
    spread = (squares / static_cast<double>(std::max<std::int64_t>(1, request.old_rows - 1))).sqrt();
  }
  for (std::int64_t first = 0; first < pieces.size(); first += kChunk) {
    const std::int64_t count = std::min(kChunk, pieces.size() - first);
    at::Tensor draws = normal_rows(first, count, matrix.size(1), request).to(mean.scalar_type());
    if (full)
      draws = at::mm(draws, spread.t()) + mean;
    else
      draws = options.std ? draws * *options.std : draws * spread + mean;
    matrix.narrow(0, request.first_row + first, count).copy_(draws);
  }
}

void match_norms(at::Tensor& matrix, const PieceTable& pieces, const FillRequest& request) {
  const double target = mean_norm(matrix, 0, request.old_rows);
  for (std::int64_t first = 0; first < pieces.size(); first += kChunk) {
    at::Tensor rows = matrix.narrow(0, request.first_row + first, std::min(kChunk, pieces.size() - first));
    const at::Tensor wide = rows.to(sum_type(matrix));
    rows.copy_(wide * (target / at::linalg_vector_norm(wide, 2, {1}, true).clamp_min(1e-12)));
  }
}

}  // namespace

InitialiserRules rules_of(const InitialiserOptions& options) {
  InitialiserRules result{options.preset, options.preset};
  bool known = contains(rules(), options.preset);
  for (const auto& [name, preset] : presets()) {
    if (name != options.preset) continue;
    result = preset;
    known = true;
  }
  if (!known)
    throw ConfigError("unknown embedding initialiser '", options.preset, "'",
                      did_you_mean(options.preset, initialiser_names()),
                      "; there are: ", join(initialiser_names(), ", "));
  if (!options.input.empty()) result.input = options.input;
  if (!options.head.empty()) result.head = options.head;
  const auto check_rule = [](const std::string& rule, const char* where, std::vector<std::string> names) {
    if (!contains(names, rule))
      throw ConfigError("unknown rule '", rule, "' for ", where, did_you_mean(rule, names),
                        "; there are: ", join(names, ", "));
  };
  check_rule(result.input, "the input embedding", rules());
  std::vector<std::string> head_rules = rules();
  head_rules.emplace_back("tie_to_input");
  check_rule(result.head, "the output head", head_rules);
  return result;
}

std::vector<std::string> initialiser_names() {
  std::vector<std::string> names;
  for (const auto& preset : presets()) names.push_back(preset.first);
  for (const std::string& rule : rules()) {
    if (rule != "piece_mean") names.push_back(rule);  // That is zip_tie.
  }
  return names;
}

void PieceTable::add(const std::vector<text::TokenId>& source, const std::vector<float>& source_bytes) {
  if (source.empty()) throw StateError("a new piece has no old pieces to start from");
  if (source.size() != source_bytes.size())
    throw StateError("a new piece has ", source.size(), " old pieces but ", source_bytes.size(), " weights");
  ids.insert(ids.end(), source.begin(), source.end());
  bytes.insert(bytes.end(), source_bytes.begin(), source_bytes.end());
  offsets.push_back(static_cast<std::int64_t>(ids.size()));
}

void fill_rows(at::Tensor& matrix, const PieceTable& pieces, const InitialiserOptions& options,
               const FillRequest& request) {
  const at::NoGradGuard no_grad;
  if (matrix.dim() != 2 || !matrix.is_contiguous() || !matrix.is_cpu() || request.old_rows < 1 ||
      request.old_rows > request.first_row || request.first_row + pieces.size() > matrix.size(0) ||
      request.copy_row >= request.old_rows)
    throw StateError("rows ", request.first_row, " to ", request.first_row + pieces.size(),
                     " cannot be filled in a matrix ", matrix.sizes(), " with ", request.old_rows,
                     " old rows");
  for (const text::TokenId id : pieces.ids) {
    if (id < 0 || id >= request.old_rows)
      throw StateError("the old piece ", id, " is outside the ", request.old_rows, " old rows");
  }
  if (!contains(rules(), request.rule)) throw ConfigError("the rule '", request.rule, "' fills no rows");
  if (request.rule == "gaussian" || request.rule == "mean_covariance") {
    fill_with_draws(matrix, pieces, options, request);
  } else if (request.rule == "global_mean") {
    matrix.narrow(0, request.first_row, pieces.size()).copy_(mean_row(matrix, request.old_rows));
  } else if (request.rule == "piece_mean" || request.rule == "weighted_mean") {
    fill_with_means(matrix, pieces, request);
  } else {
    fill_with_copies(matrix, pieces, request);
  }
  if (options.norm_match) match_norms(matrix, pieces, request);
}

at::Tensor mean_row(const at::Tensor& matrix, std::int64_t rows) {
  const at::NoGradGuard no_grad;
  at::Tensor sum = at::zeros({matrix.size(1)}, matrix.options().dtype(sum_type(matrix)).requires_grad(false));
  for_chunks(matrix, 0, rows, [&](const at::Tensor& chunk) { sum += chunk.sum(0); });
  return sum / static_cast<double>(std::max<std::int64_t>(1, rows));
}

double mean_norm(const at::Tensor& matrix, std::int64_t begin, std::int64_t end) {
  const at::NoGradGuard no_grad;
  if (end <= begin) return 0.0;
  double sum = 0;
  for_chunks(matrix.detach(), begin, end, [&](const at::Tensor& chunk) {
    sum += at::linalg_vector_norm(chunk, 2, {1}).sum(at::kDouble).item<double>();
  });
  return sum / static_cast<double>(end - begin);
}

}  // namespace bitrain::vocab
