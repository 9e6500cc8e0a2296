#include <bitrain/losses/info_nce.h>

#include <cmath>
#include <limits>
#include <map>
#include <optional>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <bitrain/dist/thread_ranks.h>
#include <bitrain/losses/cross_entropy.h>
#include <bitrain/losses/distillation.h>
#include <bitrain/losses/grouped_info_nce.h>
#include <bitrain/losses/late_interaction.h>
#include <bitrain/losses/linear_cross_entropy.h>
#include <bitrain/losses/listwise.h>
#include <bitrain/losses/matryoshka.h>
#include <bitrain/losses/memory_bank.h>
#include <bitrain/losses/two_pool_info_nce.h>
#include <bitrain/losses/uniformity.h>
#include <bitrain/nn/logit_scale.h>
#include <bitrain/nn/unit_rows.h>

#include "cuda/on_device.h"

namespace bitrain::losses {
namespace {

using testing::Case;
using testing::constant;
using testing::distance;
using testing::expect_same;
using testing::kCuda;
using testing::leaf;
using testing::numbers;
using testing::random_tensor;
using testing::Tensors;
using testing::tolerance_of;

class LossesOnCuda : public testing::CudaTest {
 protected:
  static void expect_all(const std::vector<Case>& cases, at::ScalarType dtype = at::kFloat,
                         double tolerance = 5e-5) {
    for (const Case& one : cases) {
      SCOPED_TRACE(one.name);
      expect_same(one.f, one.inputs, dtype, tolerance);
    }
  }
};

// ---- Contrastive losses

Tensors parts(const ContrastiveLoss& loss) {
  return {loss.sum, loss.per_query};
}

/// info_nce of t[0] against t[1] with rules that are made of the other inputs.
Case of_pairs(const std::string& name, const InfoNceOptions& options, const Tensors& inputs,
              const std::function<CandidateRules(const Tensors&)>& rules = {}) {
  return {name,
          [options, rules](const Tensors& t) {
            return parts(info_nce(t[0], t[1], options, rules ? rules(t) : CandidateRules{}));
          },
          inputs};
}

TEST_F(LossesOnCuda, InfoNce) {
  const Tensors pairs = {leaf({6, 16}, 1), leaf({6, 16}, 2)};
  const Tensors with_negatives = {leaf({6, 16}, 1), leaf({11, 16}, 2)};
  const auto by_label = [](const Tensors& t) {
    CandidateRules rules;
    rules.query_labels = t[2];
    rules.candidate_labels = t[3];
    return rules;
  };
  expect_all({
      of_pairs("cosine", {}, pairs),
      of_pairs("dot", {"dot", 1}, pairs),
      of_pairs("hard negatives", {}, with_negatives),
      of_pairs("a bank that needs no gradient", {}, {leaf({6, 16}, 1), constant({40, 16}, 2)}),
      of_pairs("csls", {"cosine", 20, 3}, with_negatives),
      of_pairs("csls of products", {"dot", 0.5, 2}, pairs),
      of_pairs("csls over all", {"cosine", 20, 50}, pairs),
      of_pairs("false negatives", {},
               {leaf({6, 16}, 1), leaf({6, 16}, 2), numbers({0, 1, 0, 2, 3, 1}), numbers({0, 1, 0, 2, 3, 1})},
               by_label),
      of_pairs("positives elsewhere", {}, {leaf({6, 16}, 1), leaf({11, 16}, 2), numbers({10, 3, 5, 0, 7, 1})},
               [](const Tensors& t) {
                 CandidateRules rules;
                 rules.positives = t[2];
                 return rules;
               }),
      of_pairs("several tiles of the CPU", {}, {leaf({1500, 8}, 1), leaf({1500, 8}, 2)}),
      of_pairs("several tiles of a GPU", {}, {leaf({100, 4}, 1), leaf({700000, 4}, 2)}),
      {"weights",
       [](const Tensors& t) { return parts(info_nce(t[0], t[1], {}, {}, {}, t[2])); },
       {leaf({6, 16}, 1), leaf({6, 16}, 2), constant({6}, 3).abs()}},
  });
}

TEST_F(LossesOnCuda, InfoNceWithALearnableScale) {
  std::vector<Case> cases;
  for (const InfoNceOptions& options : {InfoNceOptions{"cosine"}, InfoNceOptions{"cosine", 20, 3}}) {
    cases.push_back({options.csls_neighbours > 0 ? "csls" : "plain",
                     [options](const Tensors& t) {
                       nn::LogitScale scale(t[0].options());
                       scale.log_scale = t[2];
                       return parts(info_nce(t[0], t[1], options, {}, scale.value()));
                     },
                     {leaf({6, 16}, 1), leaf({9, 16}, 2), leaf({}, 3)}});
  }
  expect_all(cases);
}

TEST_F(LossesOnCuda, NtXentAndSupCon) {
  const auto itself = [](const InfoNceOptions& options, bool labels) {
    return [options, labels](const Tensors& t) {
      CandidateRules rules;
      rules.exclude_self = true;
      if (labels) {
        rules.query_labels = rules.candidate_labels = t[1];
        rules.same_label = CandidateRules::SameLabel::kPositive;
      } else {
        rules.positives = t[1];
      }
      return parts(info_nce(t[0], t[0], options, rules));
    };
  };
  const at::Tensor rows = leaf({12, 16}, 1);
  expect_all({
      {"nt_xent",
       itself({"cosine", 1 / 0.07}, false),
       {rows, numbers({6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5})}},
      {"supcon", itself({"cosine", 10}, true), {rows, numbers({0, 1, 2, 0, 1, 3, 0, 2, 2, 4, 1, 3})}},
      {"nobody shares the fourth label",
       itself({"cosine", 10}, true),
       {rows, numbers({0, 1, 2, 0, 1, 3, 0, 2, 2, 4, 1, 5})}},
  });
}

TEST_F(LossesOnCuda, GroupedLosses) {
  static dist::Communicator alone;
  const Tensors three = {leaf({6, 16}, 1), leaf({6, 16}, 2), leaf({4, 16}, 3)};
  std::vector<Case> cases;
  for (const bool symmetric : {false, true}) {
    cases.push_back({symmetric ? "both ways" : "one way",
                     [symmetric](const Tensors& t) {
                       return parts(grouped_info_nce(t[0], t[1], t[2], symmetric, {}, alone));
                     },
                     three});
  }
  cases.push_back({"nt_xent",
                   [](const Tensors& t) { return parts(grouped_nt_xent(t[0], t[1], {}, {}, {}, alone)); },
                   {three[0], three[1]}});
  cases.push_back({"supcon",
                   [](const Tensors& t) { return parts(grouped_nt_xent(t[0], t[1], t[2], t[3], {}, alone)); },
                   {three[0], three[1], three[2], numbers({0, 1, 0, 2, 3, 1})}});
  expect_all(cases);
}

// Without backward: autograd has one thread a GPU, in which ranks that are threads would wait for each other.
TEST_F(LossesOnCuda, RanksGatherTheRowsOfTheGroup) {
  const at::Tensor queries = random_tensor({7, 16}, 1);
  const at::Tensor positives = random_tensor({7, 16}, 2);
  const auto sum_on = [&](at::Device device) {
    std::vector<double> sums(2);
    dist::run_ranks(2, [&](dist::Communicator& rank) {
      const at::NoGradGuard no_grad;
      const std::int64_t first = rank.rank() == 0 ? 0 : 4;
      const std::int64_t count = rank.rank() == 0 ? 4 : 3;
      const auto own = [&](const at::Tensor& rows) { return rows.narrow(0, first, count).to(device); };
      sums[static_cast<std::size_t>(rank.rank())] =
          grouped_info_nce(own(queries), own(positives), {}, true, {}, rank).sum.item<double>() +
          grouped_nt_xent(own(queries), own(positives), {}, {}, {}, rank).sum.item<double>();
    });
    return sums[0] + sums[1];
  };
  const double expected = sum_on(at::kCPU);
  EXPECT_NEAR(sum_on(kCuda), expected, 1e-5 * expected);
}

TEST_F(LossesOnCuda, TwoPools) {
  const Tensors four = {leaf({6, 16}, 1), leaf({6, 16}, 2), leaf({4, 16}, 3), leaf({3, 16}, 4)};
  expect_all({
      {"pools", [](const Tensors& t) { return parts(two_pool_info_nce(t[0], t[1], t[2], t[3])); }, four},
      {"one pool",
       [](const Tensors& t) { return parts(two_pool_info_nce(t[0], t[1], {}, t[2])); },
       {four[0], four[1], four[2]}},
      {"none",
       [](const Tensors& t) {
         return parts(two_pool_info_nce(t[0], t[1], {}, {}, {"dot", 0.5}));
       },
       {four[0], four[1]}},
  });
}

TEST_F(LossesOnCuda, Matryoshka) {
  const auto loss = [](const Tensors& e) { return info_nce(e[0], e[1]).sum; };
  std::vector<Case> cases;
  for (const bool normalize : {false, true}) {
    cases.push_back({normalize ? "normalised" : "as they are",
                     [loss, normalize](const Tensors& t) -> Tensors {
                       return {matryoshka(loss, t, {{4, 9, 16}, {0.5, 1, 2}, normalize})};
                     },
                     {leaf({6, 16}, 1), leaf({6, 16}, 2)}});
  }
  expect_all(cases);
}

// ---- Cross-entropy

TEST_F(LossesOnCuda, CrossEntropyInPlace) {
  for (const std::int64_t vocab : {33, 5003}) {
    const at::Tensor labels = at::arange(19, at::TensorOptions().dtype(at::kLong)).remainder(33);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const bool weighted : {false, true}) {
        for (const bool gradient : {false, true}) {
          const auto run = [&](at::Device device, at::ScalarType type) -> Tensors {
            const at::Tensor rows = random_tensor({19, vocab + 7}, 1, dtype).to(type).to(device);
            const at::Tensor logits = rows.narrow(1, 3, vocab);  // Rows apart.
            const at::Tensor losses =
                at::empty({19}, rows.options().dtype(type == at::kDouble ? at::kDouble : at::kFloat));
            const at::Tensor weights = random_tensor({19}, 2).to(losses.options());
            cross_entropy_in_place(logits, labels.to(device), weighted ? weights : at::Tensor(), gradient,
                                   losses);
            return {losses, rows};
          };
          const Tensors expected = run(at::kCPU, at::kDouble);
          const Tensors actual = run(kCuda, dtype);
          EXPECT_LT(distance(actual[0], expected[0]), 1e-5) << dtype;
          EXPECT_LT(distance(actual[1], expected[1]), tolerance_of(dtype)) << dtype;
        }
      }
    }
  }
}

TEST_F(LossesOnCuda, CrossEntropyOfLogitsThatAreOut) {
  const at::Tensor values = random_tensor({5, 300}, 1);
  values.narrow(1, 0, 260).fill_(-std::numeric_limits<float>::infinity());
  const auto run = [&](at::Device device) -> Tensors {
    const at::Tensor logits = values.clone().to(device);
    const at::Tensor losses = at::empty({5}, logits.options());
    cross_entropy_in_place(logits, numbers({260, 270, 280, 290, 299}).to(device), {}, true, losses);
    return {losses, logits};
  };
  const Tensors expected = run(at::kCPU);
  const Tensors actual = run(kCuda);
  EXPECT_LT(distance(actual[0], expected[0]), 1e-5);
  EXPECT_LT(distance(actual[1], expected[1]), 1e-5);
}

TEST_F(LossesOnCuda, SmallLossesOfLargeLogitsKeepTheirDigits) {
  const at::Tensor logits = at::tensor({1000.0F, 995.0F, 0.0F}).unsqueeze(0).to(kCuda);
  const at::Tensor losses = at::empty({1}, logits.options());
  cross_entropy_in_place(logits, numbers({0}).to(kCuda), {}, true, losses);
  const double loss = std::log1p(std::exp(-5.0));
  EXPECT_NEAR(losses.item<double>(), loss, 1e-4 * loss);
  EXPECT_NEAR(logits[0][1].item<double>(), std::exp(-5.0 - loss), 1e-6);
}

/// hidden, weight, bias, A, B, rows, their indices, labels, weights of tokens.
struct Head {
  bool bias = false;
  bool adapters = false;
  bool rows = false;
  bool weights = false;
  std::optional<quant::QuantizedTensor> packed = {};
  std::int64_t chunk_tokens = 1024;

  Tensors operator()(const Tensors& t) const {
    nn::Linear head(16, 33, false);
    head.weight = packed ? at::Tensor() : t[1];
    if (packed) head.quantized = packed->to(t[0].device());
    if (bias) head.bias = t[2];
    for (const double dropout : {0.25, 0.0}) {
      if (!adapters) break;
      nn::LowRank& adapter = head.adapters.emplace_back();
      adapter.a = t[3];
      adapter.b = t[4];
      adapter.scale = 0.5;
      adapter.dropout = dropout;
      adapter.dropout_stream = 30;
    }
    if (rows) head.trainable_rows = nn::TrainableRows{t[6], t[5]};
    nn::ForwardContext context;
    context.training = true;
    context.dropout = {.seed = 3, .step = 9, .first_token = 5};
    const TokenLosses losses =
        linear_cross_entropy(t[0], head, t[7], context, weights ? t[8] : at::Tensor(), {chunk_tokens});
    return {losses.sum, losses.per_token};
  }
};

TEST_F(LossesOnCuda, LinearCrossEntropy) {
  const auto ignored = static_cast<std::int64_t>(kIgnoreIndex);
  const at::Tensor some =
      numbers({5, 32, ignored, 0, 7, 7, ignored, ignored, 12, 30, 1, 2, 3, ignored, 4, 4, 4, 20, 31});
  const auto inputs = [](const at::Tensor& labels) -> Tensors {
    return {leaf({19, 16}, 1),
            leaf({33, 16}, 2),
            leaf({33}, 3),
            leaf({3, 16}, 4),
            leaf({33, 3}, 5),
            leaf({2, 16}, 6),
            numbers({4, 30}),
            labels,
            random_tensor({19}, 7).abs()};
  };
  const auto pack = [](quant::QuantType type) {
    return quant::quantize(random_tensor({33, 16}, 8), {type, 64, true});
  };
  const std::vector<Case> cases = {
      {"dense", Head{}, inputs(some)},
      {"nothing ignored", Head{}, inputs(at::arange(19, at::TensorOptions().dtype(at::kLong)))},
      {"all ignored but one", Head{},
       inputs(at::cat({numbers({3}), numbers(std::vector<std::int64_t>(18, ignored))}))},
      {"in chunks, weighted", Head{.bias = true, .weights = true, .chunk_tokens = 4}, inputs(some)},
      {"adapters", Head{.bias = true, .adapters = true, .chunk_tokens = 7}, inputs(some)},
      {"trained rows", Head{.rows = true}, inputs(some)},
      {"everything", Head{.bias = true, .adapters = true, .rows = true, .weights = true, .chunk_tokens = 5},
       inputs(some)},
      {"NF4", Head{.adapters = true, .packed = pack(quant::QuantType::kNf4)}, inputs(some)},
      {"FP4", Head{.packed = pack(quant::QuantType::kFp4), .chunk_tokens = 6}, inputs(some)},
  };
  expect_all(cases);
  // Logits of 16 bits are not the last thing that is rounded.
  expect_all(cases, at::kBFloat16, 5e-2);
  expect_all(cases, at::kHalf, 6e-3);
}

TEST_F(LossesOnCuda, Listwise) {
  const std::vector<std::int64_t> ends = {3, 5, 12, 14};
  const at::Tensor scores = leaf({14}, 1);
  expect_all({{"lists",
               [&](const Tensors& t) -> Tensors { return {listwise_cross_entropy(t[0], ends).sum}; },
               {scores}}});
  const ListwiseLoss on_cpu = listwise_cross_entropy(scores, ends);
  const ListwiseLoss on_cuda = listwise_cross_entropy(scores.to(kCuda), ends);
  EXPECT_EQ(on_cuda.count, on_cpu.count);
  EXPECT_EQ(on_cuda.first, on_cpu.first);
}

// ---- Late interaction

TEST_F(LossesOnCuda, LateInteraction) {
  const std::vector<std::int32_t> queries = {0, 5, 6, 14};
  const std::vector<std::int32_t> documents = {0, 9, 10, 31, 35, 41, 60};
  const at::Tensor skip = at::arange(60).remainder(3).eq(1);
  const auto with = [&](const auto& score, bool unit, bool left_out) {
    return [=](const Tensors& t) -> Tensors {
      const auto vectors = [&](const at::Tensor& x) { return unit ? nn::unit_rows(x) : x * 1; };
      return {score(TokenVectors{vectors(t[0]), queries, {}},
                    TokenVectors{vectors(t[1]), documents, left_out ? t[2] : at::Tensor()})};
    };
  };
  const auto all = [](const TokenVectors& q, const TokenVectors& d) { return max_sim(q, d); };
  const auto own = [](const TokenVectors& q, const TokenVectors& d) { return max_sim_own(q, d); };
  const auto loss = [](const TokenVectors& q, const TokenVectors& d) { return colbert_loss(q, d); };
  const Tensors inputs = {leaf({14, 8}, 1), leaf({60, 8}, 2), skip};
  // Products that tie: of equal ones the first gets the gradient.
  const Tensors whole = {constant({14, 8}, 1).sign().requires_grad_(),
                         constant({60, 8}, 2).sign().requires_grad_(), skip};
  const std::vector<Case> cases = {
      {"all", with(all, true, false), inputs},
      {"all, some left out", with(all, true, true), inputs},
      {"own", with(own, true, true), inputs},
      {"loss", with(loss, true, false), inputs},
      {"loss, some left out", with(loss, true, true), inputs},
      {"ties", with(all, false, false), whole},
      {"ties of own", with(own, false, true), whole},
      {"one query",
       [&](const Tensors& t) -> Tensors {
         return {colbert_loss({t[0], {0, 14}, {}}, {t[1], documents, {}})};
       },
       inputs},
  };
  expect_all(cases);
  const std::vector<Case> narrow = {cases[5], cases[6]};  // Only these are the same choices in 16 bits.
  expect_all(narrow, at::kBFloat16, tolerance_of(at::kBFloat16));
}

// ---- Distillation

TEST_F(LossesOnCuda, Distillation) {
  const at::Tensor student = leaf({6, 16}, 1);
  const at::Tensor teacher = constant({6, 16}, 2);
  const std::vector<Case> cases = {
      {"cosine_regression",
       [](const Tensors& t) -> Tensors { return {cosine_regression(t[0], t[1], t[2])}; },
       {student, leaf({6, 16}, 2), constant({6}, 3).tanh()}},
      {"embedding_mse",
       [](const Tensors& t) -> Tensors { return {embedding_mse(t[0], t[1])}; },
       {student, teacher}},
      {"kl_distillation",
       [](const Tensors& t) -> Tensors { return {kl_distillation(t[0], t[1], 2)}; },
       {student, teacher}},
      {"margin_mse",
       [](const Tensors& t) -> Tensors { return {margin_mse(t[0], t[1])}; },
       {student, teacher}},
      {"similarity_distillation",
       [](const Tensors& t) -> Tensors { return {similarity_distillation(t[0], t[1])}; },
       {leaf({600, 16}, 1), constant({600, 5}, 2)}},
  };
  expect_all(cases);
  expect_all(cases, at::kBFloat16, tolerance_of(at::kBFloat16));
  const at::Tensor rows = teacher.to(kCuda, at::kFloat);
  EXPECT_THROW((void)cosine_regression(rows, rows, constant({6}, 3).to(kCuda) * 10), DataError);
}

// ---- Bank and measures

TEST_F(LossesOnCuda, MemoryBank) {
  LanguageMemoryBank on_cpu(3, 10, 4);
  LanguageMemoryBank on_cuda(3, 10, 4, at::TensorOptions().dtype(at::kFloat).device(kCuda));
  for (std::uint64_t step = 0; step < 4; ++step) {
    const at::Tensor rows = random_tensor({7, 4}, step);
    const std::vector<std::int32_t> languages = {0, 2, 0, 0, 2, 0, 0};
    on_cpu.push(rows, languages);
    on_cuda.push(rows.to(kCuda), languages);
    for (const std::int32_t language : {0, 1, 2}) {
      EXPECT_TRUE(on_cuda.candidates(language).is_cuda());
      EXPECT_EQ(on_cuda.size(language), on_cpu.size(language));
      EXPECT_TRUE(at::equal(on_cuda.candidates(language).cpu(), on_cpu.candidates(language)));
    }
  }
  const at::Tensor bad = random_tensor({2, 4}, 9) / 0.0;
  EXPECT_THROW(on_cuda.push(bad.to(kCuda), {0, 1}), DataError);

  std::map<std::string, at::Tensor> saved;
  for (const auto& [name, tensor] : on_cuda.state()) saved[name] = tensor.cpu();
  LanguageMemoryBank loaded(3, 10, 4, at::TensorOptions().dtype(at::kFloat).device(kCuda));
  loaded.load_state([&](const std::string& name) -> std::optional<at::Tensor> {
    return saved.count(name) != 0 ? std::optional(saved[name]) : std::nullopt;
  });
  for (const std::int32_t language : {0, 1, 2}) {
    EXPECT_TRUE(loaded.candidates(language).is_cuda());
    EXPECT_TRUE(at::equal(loaded.candidates(language).cpu(), on_cpu.candidates(language)));
  }
}

TEST_F(LossesOnCuda, Uniformity) {
  for (const std::int64_t rows : {2, 600, 1100}) {
    const at::Tensor z = nn::unit_rows(random_tensor({rows, 12}, 1));
    const double expected = uniformity(z.to(at::kDouble));
    EXPECT_NEAR(uniformity(z.to(kCuda)), expected, 1e-5 * std::abs(expected)) << rows;
  }
}

}  // namespace
}  // namespace bitrain::losses
