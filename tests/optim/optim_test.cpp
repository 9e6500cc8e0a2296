#include <cmath>
#include <fstream>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/optim/clip.h>
#include <bitrain/optim/schedule.h>

namespace bitrain::optim {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::ThrowsMessage;

json golden(const std::string& name) {
  std::ifstream file(std::string(BITRAIN_SOURCE_DIR) + "/tests/optim/golden/" + name);
  return json::parse(file);
}

at::Tensor tensor_of(const json& values, at::ScalarType dtype) {
  return at::tensor(values.get<std::vector<double>>(), at::kDouble).to(dtype);
}

Parameter make_parameter(const std::string& name, at::Tensor tensor, Role role = Role::kLinear,
                         bool adapter = false) {
  return {name, tensor.set_requires_grad(true), role, adapter};
}

double largest_difference(const at::Tensor& a, const json& b) {
  const at::Tensor expected = tensor_of(b, at::kDouble);
  return (a.to(at::kDouble) - expected).abs().max().item<double>();
}

/// Largest element-wise |difference| allowed: moments and weights are of order 1.
struct Precision {
  const char* name;
  at::ScalarType dtype;
  double tolerance;
};

class AdamWGolden : public testing::TestWithParam<Precision> {};

TEST_P(AdamWGolden, MatchesPyTorch) {
  const Precision& precision = GetParam();
  const json expected = golden("adamw.json").at(precision.name);
  std::vector<Parameter> parameters = {make_parameter("a", tensor_of(expected["start"][0], precision.dtype)),
                                       make_parameter("b", tensor_of(expected["start"][1], precision.dtype))};
  const std::vector<ParameterGroup> groups = {{"decayed", {parameters[0]}, 1.0, 0.1},
                                              {"slow", {parameters[1]}, 0.5, 0.0}};
  AdamW optimizer(groups, {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8});
  // Gradients come as sums over 4 tokens: the division is the optimizer's.
  for (const json& step : expected["gradients"]) {
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      parameters[i].tensor.mutable_grad() = tensor_of(step[i], precision.dtype) * 4;
    }
    optimizer.step(0.02, 0.25);
    optimizer.zero_grad();
    EXPECT_FALSE(parameters[0].tensor.grad().defined());
  }
  std::map<std::string, at::Tensor> state;
  for (const auto& [name, tensor] : optimizer.state()) state[name] = tensor;
  const std::vector<std::string> names = {"a", "b"};
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_LE(largest_difference(state.at(names[i] + ".exp_avg"), expected["exp_avg"][i]),
              precision.tolerance);
    EXPECT_LE(largest_difference(state.at(names[i] + ".exp_avg_sq"), expected["exp_avg_sq"][i]),
              precision.tolerance);
    EXPECT_EQ(state.at(names[i] + ".step").item<std::int64_t>(), 7);
    if (precision.dtype == at::kBFloat16) {
      EXPECT_LE(largest_difference(state.at(names[i] + ".master"), expected["master"][i]),
                precision.tolerance);
      // One unit in the last place where the masters straddle a rounding boundary, in at most one element.
      const at::Tensor end = tensor_of(expected["end"][i], at::kBFloat16);
      EXPECT_LE(end.ne(parameters[i].tensor).sum().item<std::int64_t>(), 1);
    } else {
      EXPECT_EQ(state.count(names[i] + ".master"), 0U);
      EXPECT_LE(largest_difference(parameters[i].tensor.detach(), expected["end"][i]), precision.tolerance);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, AdamWGolden,
                         testing::Values(Precision{"float32", at::kFloat, 2e-6},
                                         Precision{"bfloat16", at::kBFloat16, 2e-6},
                                         Precision{"float64", at::kDouble, 1e-12}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(AdamW, FusedAndForeachAgreeOnFloat32Gradients) {
  // float16 weights go through ATen with a master, bfloat16 ones through the kernel: the masters agree.
  const at::Tensor start = at::full({300}, 0.5, at::kFloat);
  Parameter half = make_parameter("w", start.to(at::kHalf));
  Parameter brain = make_parameter("w", start.to(at::kBFloat16));
  AdamW a({{"g", {half}, 1.0, 0.1}});
  AdamW b({{"g", {brain}, 1.0, 0.1}});
  for (int i = 1; i <= 4; ++i) {
    const at::Tensor gradient = at::full({300}, 0.25 * i, at::kFloat);
    a.set_gradients({gradient.clone()});
    b.set_gradients({gradient.clone()});
    a.step(0.01, 0.5);
    b.step(0.01, 0.5);
  }
  const at::Tensor master_a = a.state()[2].second;
  const at::Tensor master_b = b.state()[2].second;
  EXPECT_LE((master_a - master_b).abs().max().item<double>(), 1e-7);
  EXPECT_TRUE(at::equal(half.tensor.detach(), master_a.to(at::kHalf)));
  EXPECT_TRUE(at::equal(brain.tensor.detach(), master_b.to(at::kBFloat16)));
}

TEST(AdamW, LeavesParametersWithoutGradientAlone) {
  Parameter trained = make_parameter("trained", at::ones({4}));
  Parameter idle = make_parameter("idle", at::ones({4}));
  AdamW optimizer({{"g", {trained, idle}, 1.0, 0.5}});
  trained.tensor.mutable_grad() = at::ones({4});
  optimizer.step(0.1);
  EXPECT_FALSE(at::equal(trained.tensor.detach(), at::ones({4})));
  EXPECT_TRUE(at::equal(idle.tensor.detach(), at::ones({4})));  // Not even decayed.
  EXPECT_EQ(optimizer.state().size(), 3U);
  EXPECT_EQ(optimizer.state_bytes(), 2 * 4 * 4);
}

TEST(AdamW, SavedStateContinuesBitForBit) {
  const auto make = [](const at::Tensor& weight) { return make_parameter("w", weight); };
  const auto gradient = [](int i) { return at::full({64}, 0.1 * i - 0.3, at::kBFloat16); };
  Parameter one = make(at::ones({64}, at::kBFloat16));
  AdamW through({{"g", {one}, 1.0, 0.1}});
  std::map<std::string, at::Tensor> saved;
  at::Tensor saved_weight;
  for (int i = 1; i <= 6; ++i) {
    through.set_gradients({gradient(i)});
    through.step(0.05);
    if (i == 3) {
      for (const auto& [name, tensor] : through.state()) saved[name] = tensor.clone();
      saved_weight = one.tensor.detach().clone();
    }
  }
  Parameter two = make(saved_weight);
  AdamW resumed({{"g", {two}, 1.0, 0.1}});
  resumed.load_state([&](const std::string& name) -> std::optional<at::Tensor> {
    return saved.count(name) != 0 ? std::optional(saved[name]) : std::nullopt;
  });
  for (int i = 4; i <= 6; ++i) {
    resumed.set_gradients({gradient(i)});
    resumed.step(0.05);
  }
  EXPECT_TRUE(at::equal(one.tensor.detach(), two.tensor.detach()));
  EXPECT_TRUE(at::equal(through.state()[2].second, resumed.state()[2].second));
}

TEST(AdamW, RefusesAStateThatDoesNotFit) {
  Parameter parameter = make_parameter("w", at::ones({4}));
  AdamW optimizer({{"g", {parameter}}});
  const auto with_shape = [](std::int64_t size) {
    return [size](const std::string& name) -> std::optional<at::Tensor> {
      if (name == "w.step") return at::ones({}, at::kLong);
      if (name == "w.exp_avg") return at::zeros({size});
      return std::nullopt;
    };
  };
  EXPECT_THAT([&] { optimizer.load_state(with_shape(5)); },
              ThrowsMessage<StateError>(HasSubstr("'w.exp_avg' has shape [5], the parameter [4]")));
  EXPECT_THAT([&] { optimizer.load_state(with_shape(4)); },
              ThrowsMessage<StateError>(HasSubstr("'w.exp_avg_sq' is missing")));
  EXPECT_TRUE(optimizer.state().empty());
}

TEST(AdamW, RefusesImpossibleConstants) {
  const std::vector<ParameterGroup> groups = {{"g", {make_parameter("w", at::ones({4}))}}};
  EXPECT_THROW(AdamW(groups, {.beta1 = 1.0}), ConfigError);
  EXPECT_THROW(AdamW(groups, {.eps = 0.0}), ConfigError);
}

TEST(ParameterGroups, FollowRolesAndOptions) {
  const std::vector<Parameter> parameters = {
      make_parameter("q_proj.weight", at::ones({2, 2})),
      make_parameter("norm.weight", at::ones({2}), Role::kNorm),
      make_parameter("q_proj.bias", at::ones({2}), Role::kBias),
      make_parameter("embed_tokens.weight", at::ones({3, 2}), Role::kEmbedding),
      make_parameter("lm_head.weight", at::ones({3, 2}), Role::kHead),
      make_parameter("q_proj.lora_A.weight", at::ones({1, 2}), Role::kLinear, true),
      make_parameter("q_proj.lora_B.weight", at::ones({2, 1}), Role::kLinear, true),
      make_parameter("embed_tokens.lora_embedding_B", at::ones({2, 1}), Role::kEmbedding, true)};
  GroupOptions options;
  options.weight_decay = 0.1;
  options.decay_embeddings = false;
  options.embedding_lr_factor = 0.2;
  options.loraplus_lr_ratio = 16;
  std::map<std::string, const ParameterGroup*> by_parameter;
  const std::vector<ParameterGroup> groups = make_groups(parameters, options);
  for (const ParameterGroup& group : groups) {
    for (const Parameter& parameter : group.parameters) by_parameter[parameter.name] = &group;
  }
  const auto expect = [&](const std::string& name, double lr_factor, double decay) {
    ASSERT_EQ(by_parameter.count(name), 1U) << name;
    EXPECT_DOUBLE_EQ(by_parameter[name]->lr_factor, lr_factor) << name;
    EXPECT_DOUBLE_EQ(by_parameter[name]->weight_decay, decay) << name;
  };
  expect("q_proj.weight", 1, 0.1);
  expect("norm.weight", 1, 0);
  expect("q_proj.bias", 1, 0);
  expect("embed_tokens.weight", 0.2, 0);
  expect("lm_head.weight", 0.2, 0);
  expect("q_proj.lora_A.weight", 1, 0.1);
  expect("q_proj.lora_B.weight", 16, 0.1);
  expect("embed_tokens.lora_embedding_B", 0.2 * 16, 0);
  EXPECT_EQ(by_parameter["norm.weight"], by_parameter["q_proj.bias"]);
  EXPECT_EQ(by_parameter["norm.weight"]->numel(), 4);
}

TEST(ParameterGroups, RefuseWhatCannotBeTrained) {
  const auto groups_of = [](std::vector<Parameter> parameters) {
    return [parameters] { (void)make_groups(parameters, {}); };
  };
  const Parameter good = make_parameter("w", at::ones({2, 3}));
  EXPECT_THAT(groups_of({}), ThrowsMessage<StateError>(HasSubstr("nothing to train")));
  EXPECT_THAT(groups_of({good, make_parameter("w", at::ones({1}))}),
              ThrowsMessage<StateError>(HasSubstr("have the name 'w'")));
  EXPECT_THAT(groups_of({good, {"tied", good.tensor}}),
              ThrowsMessage<StateError>(HasSubstr("the same tensor")));
  EXPECT_THAT(
      groups_of({{"frozen", at::ones({2})}}),
      ThrowsMessage<StateError>(HasSubstr("'frozen' cannot be trained: it does not require a gradient")));
  EXPECT_THAT(groups_of({{"computed", good.tensor * 2}}), ThrowsMessage<StateError>(HasSubstr("not a leaf")));
  EXPECT_THAT(groups_of({{"none", at::Tensor()}}), ThrowsMessage<StateError>(HasSubstr("has no tensor")));
  EXPECT_THAT(groups_of({{"ids", at::ones({2}, at::kLong)}}),
              ThrowsMessage<StateError>(HasSubstr("dtype is Long")));
  EXPECT_THAT(groups_of({make_parameter("turned", at::ones({2, 3}).t())}),
              ThrowsMessage<StateError>(HasSubstr("not contiguous")));
}

TEST(Clip, NormAndFactorAreThoseOfPyTorch) {
  const std::vector<at::Tensor> gradients = {
      at::full({3}, 2.0), at::Tensor(), at::full({4}, 1.0, at::kBFloat16), at::full({2}, 3.0, at::kDouble)};
  EXPECT_DOUBLE_EQ(global_norm(gradients), std::sqrt(12.0 + 4.0 + 18.0));
  EXPECT_DOUBLE_EQ(global_norm({}), 0.0);
  EXPECT_DOUBLE_EQ(clip_factor(4.0, 1.0), 1.0 / (4.0 + 1e-6));
  EXPECT_DOUBLE_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(100.0, 0.0), 1.0);
}

TEST(Clip, ANonfiniteElementShows) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      const at::Tensor tensor = at::ones({1000}, dtype);
      tensor[777].fill_(bad);
      EXPECT_FALSE(std::isfinite(global_norm({at::ones({3}), tensor})));
    }
  }
}

ScheduleOptions schedule_of(const std::string& name) {
  ScheduleOptions options;
  options.type = name.substr(0, 3) == "wsd" ? "wsd" : name;
  options.warmup_steps = 8;
  if (options.type == "cosine" || options.type == "wsd") options.min_ratio = 0.1;
  if (options.type == "wsd") {
    options.decay_ratio = 0.25;
    options.decay_shape = name.substr(4);
  }
  return options;
}

TEST(Schedule, DecaysAreThoseOfTransformers) {
  const json expected = golden("schedules.json");
  ASSERT_EQ(expected.size(), 6U);
  for (const auto& [name, factors] : expected.items()) {
    const ScheduleOptions options = schedule_of(name);
    for (std::int64_t step = 0; step < 40; ++step) {
      // Warm-up is a step ahead (the first step must not be wasted at 0), and from 0 also where there is a
      // floor.
      const double factor = schedule_factor(options, step, 40);
      if (step < 8) {
        EXPECT_DOUBLE_EQ(factor, static_cast<double>(step + 1) / 8);
      } else {
        EXPECT_NEAR(factor, factors[static_cast<std::size_t>(step)].get<double>(), 1e-12)
            << name << " at " << step;
      }
    }
  }
}

TEST(Schedule, RatioWarmupConstantAndBeyondTheEnd) {
  ScheduleOptions options;
  options.type = "constant";
  options.warmup_ratio = 0.05;
  EXPECT_EQ(warmup_steps(options, 90), 5);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 0, 90), 0.2);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 50, 90), 1.0);
  options.type = "cosine";
  options.min_ratio = 0.1;
  EXPECT_NEAR(schedule_factor(options, 500, 90), 0.1, 1e-12);
  options.type = "inverse_sqrt";
  options.min_ratio = 0.5;
  EXPECT_DOUBLE_EQ(schedule_factor(options, 10000, 90), 0.5);
}

TEST(Schedule, RefusesWhatDoesNotFit) {
  ScheduleOptions options;
  options.warmup_steps = 50;
  EXPECT_THAT([&] { check_schedule(options, 40); },
              ThrowsMessage<ConfigError>(HasSubstr("50 steps of warm-up do not fit into 40 steps")));
  options = {.type = "wsd", .warmup_ratio = 0.6, .decay_ratio = 0.5};
  EXPECT_THROW(check_schedule(options, 100), ConfigError);
  options = {.type = "inverse_sqrt"};
  EXPECT_THAT([&] { check_schedule(options, 100); }, ThrowsMessage<ConfigError>(HasSubstr("needs warm-up")));
  options = {.type = "cosin"};
  EXPECT_THAT([&] { check_schedule(options, 100); }, ThrowsMessage<ConfigError>(HasSubstr("'cosin'")));
  options = {.type = "wsd", .decay_shape = "cliff"};
  EXPECT_THROW(check_schedule(options, 100), ConfigError);
}

}  // namespace
}  // namespace bitrain::optim
