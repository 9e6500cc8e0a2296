#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/dist/communicator.h>
#include <bitrain/losses/distillation.h>
#include <bitrain/losses/grouped_info_nce.h>
#include <bitrain/losses/info_nce.h>
#include <bitrain/losses/late_interaction.h>
#include <bitrain/losses/matryoshka.h>
#include <bitrain/losses/memory_bank.h>
#include <bitrain/models/sentence_encoder.h>
#include <bitrain/nn/logit_scale.h>
#include <bitrain/nn/projection_head.h>
#include <bitrain/nn/unit_rows.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/train/step.h>
#include <support/gradcheck.h>
#include <support/tiny_bert.h>

/// GradCache (Gao et al. 2021) for every contrastive and distilling loss of the library: a step in
/// micro-batches gives the gradients of the step at once, dropout and all.
namespace bitrain::train {
namespace {

using losses::CandidateRules;
using losses::info_nce;
using losses::TokenVectors;
using testing::random_tensor;

constexpr std::int64_t kTexts = 12;
constexpr std::int64_t kWidth = 16;

/// What may be trained beside the encoder, fresh for each step.
struct Extras {
  Extras() : head(kWidth, kWidth, 8, at::TensorOptions().dtype(at::kDouble)) {
    head.in_proj.weight = random_tensor(head.in_proj.weight.sizes(), 1, at::kDouble);
    head.out_proj.weight = random_tensor(head.out_proj.weight.sizes(), 2, at::kDouble);
    head.out_proj.bias = random_tensor(head.out_proj.bias.sizes(), 3, at::kDouble);
  }

  nn::ProjectionHead head;
  nn::LogitScale scale{at::TensorOptions().dtype(at::kDouble)};
};

/// Rows of a step: embeddings [12, 16], or for late interaction the vectors of its tokens.
using StepLoss = std::function<at::Tensor(const at::Tensor& rows, const std::vector<Batch>&, Extras&)>;

struct Case {
  std::string name;
  StepLoss loss;
  bool tokens = false;
};
void PrintTo(const Case& one, std::ostream* out) {
  *out << one.name;
}

at::Tensor left(const at::Tensor& rows) {
  return rows.narrow(0, 0, kTexts / 2);
}
at::Tensor right(const at::Tensor& rows) {
  return rows.narrow(0, kTexts / 2, kTexts / 2);
}
at::Tensor constant(at::IntArrayRef sizes, std::uint64_t seed) {
  return random_tensor(sizes, seed, at::kDouble);
}
at::Tensor products(const at::Tensor& rows) {
  return at::matmul(left(rows), right(rows).t());
}
at::Tensor numbers(const std::vector<std::int64_t>& values) {
  return at::tensor(values, at::kLong);
}

/// A loss of the embeddings alone.
Case of_rows(const std::string& name, const std::function<at::Tensor(const at::Tensor&)>& loss) {
  return {name, [loss](const at::Tensor& rows, const std::vector<Batch>&, Extras&) { return loss(rows); }};
}

at::Tensor nt_xent(const at::Tensor& rows) {
  CandidateRules rules;
  rules.positives = (at::arange(kTexts) + kTexts / 2) % kTexts;
  rules.exclude_self = true;
  return info_nce(rows, rows, {"cosine", 1 / 0.07}, rules).sum;
}

at::Tensor sup_con(const at::Tensor& rows) {
  CandidateRules rules;
  rules.query_labels = rules.candidate_labels = numbers({0, 1, 2, 0, 1, 3, 0, 2, 2, 4, 1, 3});
  rules.same_label = CandidateRules::SameLabel::kPositive;
  rules.exclude_self = true;
  return info_nce(rows, rows, {"cosine", 10}, rules).sum;
}

at::Tensor without_false_negatives(const at::Tensor& rows) {
  CandidateRules rules;
  rules.query_labels = rules.candidate_labels = numbers({0, 1, 0, 2, 3, 1});
  return info_nce(left(rows), right(rows), {}, rules).sum;
}

at::Tensor symmetric(const at::Tensor& rows) {
  dist::Communicator alone;
  return losses::grouped_info_nce(left(rows), right(rows), {}, true, {}, alone).sum;
}

/// HMDE (arXiv 2305.07016): two directions, each with hard negatives of its own, summed.
at::Tensor two_pools(const at::Tensor& rows) {
  const auto quarter = [&](std::int64_t i) { return rows.narrow(0, 3 * i, 3); };
  return info_nce(quarter(0), at::cat({quarter(1), quarter(2)})).sum +
         info_nce(quarter(1), at::cat({quarter(0), quarter(3)})).sum;
}

/// CCP (arXiv 2206.03281): negatives from a bank, one side through the head with the statistics of the batch,
/// the other with running ones.
at::Tensor with_bank_and_head(const at::Tensor& rows, const std::vector<Batch>&, Extras& extras) {
  losses::LanguageMemoryBank bank(2, 20, 8);
  bank.push(random_tensor({20, 8}, 5), std::vector<std::int32_t>(20, 1));
  nn::ForwardContext context;
  context.training = true;
  const at::Tensor centre = extras.head.forward(left(rows), nn::BatchStatistics::kBatch, context);
  const at::Tensor near = extras.head.forward(right(rows), nn::BatchStatistics::kRunning, context);
  const at::Tensor candidates = at::cat({near, bank.candidates(1).to(at::kDouble)});
  return info_nce(centre, candidates).sum;
}

/// ColBERT-XM (arXiv 2402.15059): four queries with two documents each.
at::Tensor late_interaction(const at::Tensor& rows, const std::vector<Batch>& batches, Extras&) {
  std::vector<std::int32_t> ends = {0};
  for (const Batch& batch : batches)
    for (std::size_t s = 1; s < batch.boundaries.size(); ++s)
      ends.push_back(ends.back() + batch.boundaries[s] - batch.boundaries[s - 1]);
  const at::Tensor units = nn::unit_rows(rows);
  const auto texts = [&](std::size_t from, std::size_t to) {
    TokenVectors part;
    part.vectors = units.narrow(0, ends[from], ends[to] - ends[from]);
    for (std::size_t i = from; i <= to; ++i) part.boundaries.push_back(ends[i] - ends[from]);
    return part;
  };
  return losses::colbert_loss(texts(0, 4), texts(4, 12)).sum();
}

std::vector<Case> all_losses() {
  return {
      of_rows("InfoNce", [](const auto& x) { return info_nce(left(x), right(x)).sum; }),
      of_rows("InfoNceOfProducts",
              [](const auto& x) {
                return info_nce(left(x), right(x), {"dot", 1}).sum;
              }),
      of_rows("Symmetric", symmetric),
      of_rows("HardNegatives",
              [](const auto& x) { return info_nce(x.narrow(0, 0, 4), x.narrow(0, 4, 8)).sum; }),
      of_rows("FalseNegatives", without_false_negatives),
      of_rows("NtXent", nt_xent),
      of_rows("SupCon", sup_con),
      of_rows("Csls",
              [](const auto& x) {
                return info_nce(left(x), right(x), {"cosine", 20, 3}).sum;
              }),
      {"LearnableScale",
       [](const auto& x, const auto&, Extras& extras) {
         return info_nce(left(x), right(x), {}, {}, extras.scale.value()).sum;
       }},
      {"BankAndHead", with_bank_and_head},
      of_rows("TwoPools", two_pools),
      {"LateInteraction", late_interaction, true},
      of_rows("CosineRegression",
              [](const auto& x) {
                return losses::cosine_regression(left(x), right(x), constant({kTexts / 2}, 6).tanh()).sum();
              }),
      of_rows("KlDistillation",
              [](const auto& x) {
                return losses::kl_distillation(products(x), constant({6, 6}, 7), 2).sum();
              }),
      of_rows("MarginMse",
              [](const auto& x) {
                return losses::margin_mse(products(x), constant({6, 6}, 8)).sum();
              }),
      of_rows("EmbeddingMse",
              [](const auto& x) {
                return losses::embedding_mse(x, constant({kTexts, kWidth}, 9)).sum();
              }),
      of_rows("SimilarityDistillation",
              [](const auto& x) {
                return losses::similarity_distillation(x, constant({kTexts, 5}, 10)).sum();
              }),
      of_rows("Matryoshka",
              [](const auto& x) {
                const auto loss = [](const std::vector<at::Tensor>& e) { return info_nce(e[0], e[1]).sum; };
                return losses::matryoshka(loss, {left(x), right(x)}, {{4, kWidth}, {0.5, 1}, true});
              }),
  };
}

/// Twelve texts of one to seven tokens, `rows` a micro-batch.
std::vector<Batch> micro_batches(std::size_t rows) {
  std::vector<Batch> batches;
  std::int64_t first_token = 0;
  for (std::size_t begin = 0; begin < kTexts; begin += rows) {
    std::vector<std::vector<std::int32_t>> ids;
    for (std::size_t i = begin; i < std::min<std::size_t>(begin + rows, kTexts); ++i) {
      ids.emplace_back();
      for (std::size_t t = 0; t < 1 + 5 * i % 7; ++t)
        ids.back().push_back(static_cast<std::int32_t>((7 * i + 3 * t) % 23));
    }
    batches.push_back(make_batch(ids, ids));
    batches.back().first_token = first_token;
    first_token += batches.back().tokens();
  }
  return batches;
}

struct Outcome {
  double loss = 0;
  std::vector<std::string> names;
  std::vector<at::Tensor> gradients;
};

Outcome step_of(const Case& one, std::size_t rows) {
  models::BertConfig config = testing::tiny_bert_config();
  config.hidden_dropout_prob = 0.3;
  models::SentenceEncoder model(testing::tiny_bert(at::kDouble, config),
                                models::EmbeddingOptions{{nn::Pooling::kMean}, false});
  Extras extras;
  adapters::train_all(model);
  std::vector<optim::Parameter> parameters = adapters::trainable_parameters(model);
  for (auto* tensor : {&extras.head.in_proj.weight, &extras.head.norm.weight, &extras.head.norm.bias,
                       &extras.head.out_proj.weight, &extras.head.out_proj.bias, &extras.scale.log_scale})
    parameters.push_back({"extra." + std::to_string(parameters.size()), tensor->set_requires_grad(true)});
  optim::AdamW optimizer(optim::make_groups(parameters, {}));

  objectives::EmbeddingLoss loss;
  loss.embed = [&](const Batch& batch, const nn::ForwardContext& context) {
    return one.tokens ? model.encoder().forward(batch, context).hidden : model.forward(batch, context);
  };
  loss.loss = [&](const at::Tensor& embedded, const at::Tensor&, const std::vector<Batch>& batches) {
    LossSum sum;
    sum.sum = one.loss(embedded, batches, extras);
    sum.weight = 1;
    return sum;
  };
  nn::ForwardContext context;
  context.dropout = {3, 5, 0};
  Outcome outcome;
  outcome.loss = accumulate_gradients(micro_batches(rows), loss, context, optimizer, true).loss;
  outcome.gradients = optimizer.gradients();
  for (const optim::Parameter& parameter : optimizer.parameters()) outcome.names.push_back(parameter.name);
  return outcome;
}

class GradCacheOf : public ::testing::TestWithParam<Case> {};

TEST_P(GradCacheOf, IsThePlainLossUnderAccumulation) {
  const Outcome whole = step_of(GetParam(), kTexts);
  double largest = 0;
  for (const at::Tensor& gradient : whole.gradients)
    if (gradient.defined()) largest = std::max(largest, gradient.abs().max().item<double>());
  EXPECT_GT(largest, 1e-3) << "a loss without slope would agree anyway";
  for (const std::size_t rows : {5, 1}) {
    const Outcome split = step_of(GetParam(), rows);
    EXPECT_NEAR(split.loss, whole.loss, 1e-9);
    for (std::size_t i = 0; i < whole.gradients.size(); ++i) {
      ASSERT_EQ(split.gradients[i].defined(), whole.gradients[i].defined()) << whole.names[i];
      if (!whole.gradients[i].defined()) continue;
      EXPECT_LT((split.gradients[i] - whole.gradients[i]).abs().max().item<double>(), 1e-9 * largest)
          << whole.names[i] << ", " << rows << " texts a micro-batch";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Losses, GradCacheOf, ::testing::ValuesIn(all_losses()),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace bitrain::train
