#include <bitrain/data/mixture.h>

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>

namespace bitrain::data {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pointwise;

std::vector<MixtureSource> sources(const std::vector<std::int64_t>& sizes) {
  std::vector<MixtureSource> result;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::string name(1, static_cast<char>('a' + i));
    result.push_back({name, name, sizes[i], static_cast<double>(10 * sizes[i])});
  }
  return result;
}

MixtureOptions weights(std::map<std::string, double> values, const std::string& unit = "samples") {
  MixtureOptions o;
  o.weights = std::move(values);
  o.unit = unit;
  return o;
}

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Mixture, SamplesStayWithinOneOfTheirShareAtEveryMoment) {
  RandomStream random(7, "mixture test");
  for (int trial = 0; trial < 30; ++trial) {
    const auto count = 2 + random.below(6);
    std::map<std::string, double> asked;
    for (std::size_t i = 0; i < count; ++i)
      asked[std::string(1, static_cast<char>('a' + i))] = random.uniform() + 1e-3;
    Mixture mixture(weights(asked), sources(std::vector<std::int64_t>(count, 1000)), {});
    const auto shares = mixture.shares(0);
    MixtureState state = mixture.start();
    for (int drawn = 1; drawn <= 2000; ++drawn) {
      mixture.record(state, static_cast<std::size_t>(mixture.next(state, 0)), 5, 0);
      for (std::size_t i = 0; i < count; ++i) {
        const double away = std::abs(static_cast<double>(state.sources[i].samples) - shares[i] * drawn);
        ASSERT_LT(away, 1.0) << "source " << i << " after " << drawn;
      }
    }
  }
}

TEST(Mixture, TokensStayWithinAFewSamplesOfTheirShare) {
  Mixture mixture(weights({{"a", 0.7}, {"b", 0.2}, {"c", 0.1}}, "tokens"), sources({10, 10, 10}), {});
  MixtureState state = mixture.start();
  RandomStream random(3, "lengths");
  const double asked[] = {0.7, 0.2, 0.1};
  double total = 0;
  for (int i = 0; i < 5000; ++i) {
    const auto source = static_cast<std::size_t>(mixture.next(state, 0));
    // Sources with very different lengths: shares by samples would be far off.
    const auto tokens = static_cast<std::int64_t>(1 + random.below(source == 0 ? 10 : 200));
    mixture.record(state, source, tokens, 0);
    total += static_cast<double>(tokens);
    for (std::size_t s = 0; s < 3; ++s) {
      ASSERT_LE(std::abs(static_cast<double>(state.sources[s].tokens) - asked[s] * total), 400.0);
    }
  }
}

TEST(Mixture, DroppedSamplesMoveThePositionButNotTheShares) {
  Mixture mixture(weights({}), sources({10, 10}), {});
  MixtureState state = mixture.start();
  const auto first = mixture.next(state, 0);
  mixture.record(state, static_cast<std::size_t>(first), 0, 0);
  EXPECT_EQ(mixture.next(state, 0), first);
  EXPECT_EQ(state.sources[static_cast<std::size_t>(first)].samples, 1);
  EXPECT_EQ(state.sources[static_cast<std::size_t>(first)].dropped, 1);
}

TEST(Mixture, ExponentAndTemperatureFollowTheFormula) {
  // Shares (0.9, 0.1) under 0.3, 0.7 and 1: the table of methods for MuRIL.
  EXPECT_THAT(shares_by_exponent({0.9, 0.1}, 0.3), Pointwise(DoubleNear(5e-4), {0.659, 0.341}));
  EXPECT_THAT(shares_by_exponent({0.9, 0.1}, 0.7), Pointwise(DoubleNear(5e-4), {0.823, 0.177}));
  EXPECT_THAT(shares_by_exponent({9, 1}, 1), Pointwise(DoubleNear(1e-12), {0.9, 0.1}));
  EXPECT_THAT(shares_by_exponent({9, 1}, 0), Pointwise(DoubleNear(1e-12), {0.5, 0.5}));
  MixtureOptions o;
  o.kind = "temperature";
  o.temperature = 2;
  EXPECT_THAT(Mixture(o, sources({900, 100}), {}).shares(0), Pointwise(DoubleNear(1e-12), {0.75, 0.25}));
}

TEST(Mixture, UpsamplingReadsTheLargestOnceAndGivesTheSharesOfTheExponent) {
  for (const double exponent : {0.0, 0.3, 0.7, 1.0}) {
    const std::vector<double> sizes = {900, 100, 0, 7};
    const std::vector<double> multipliers = upsampling_multipliers(sizes, exponent);
    EXPECT_EQ(multipliers[0], 1);
    EXPECT_EQ(multipliers[2], 0);
    // The rule as it is written: shares by the exponent over shares by size, scaled.
    const std::vector<double> asked = shares_by_exponent(sizes, exponent);
    const std::vector<double> given = shares_by_exponent(sizes, 1);
    double total = 0;
    for (std::size_t i : {0, 1, 3}) {
      EXPECT_NEAR(multipliers[i], asked[i] / given[i] / (asked[0] / given[0]), 1e-12);
      EXPECT_GE(multipliers[i], 1);
      total += multipliers[i] * sizes[i];
    }
    for (std::size_t i = 0; i < sizes.size(); ++i)
      EXPECT_NEAR(multipliers[i] * sizes[i] / total, asked[i], 1e-12);
  }
  // MuRIL's exponent: the language with a ninth of the text is read 4.66 times, with mBERT's 1.93 times.
  EXPECT_NEAR(upsampling_multipliers({0.9, 0.1}, 0.3)[1], std::pow(9, 0.7), 1e-12);
  EXPECT_NEAR(upsampling_multipliers({0.9, 0.1}, 0.7)[1], 1.933, 1e-3);
  EXPECT_TRUE(upsampling_multipliers({}, 0.3).empty());
  EXPECT_THAT(message_of([] { (void)upsampling_multipliers({1, -1}, 0.3); }), HasSubstr("-1 is no size"));
  EXPECT_THAT(message_of([] { (void)upsampling_multipliers({1}, 1.5); }), HasSubstr("must lie in [0, 1]"));
}

TEST(Mixture, SourcesOfOneLanguageShareItsShare) {
  MixtureOptions o;
  o.kind = "exponent";
  o.exponent = 0;
  auto three = sources({300, 100, 50});
  three[1].language = "a";
  EXPECT_THAT(Mixture(o, three, {}).shares(0), Pointwise(DoubleNear(1e-12), {0.375, 0.125, 0.5}));
}

TEST(Mixture, UnimaxCapsSmallLanguages) {
  // Budget 90: uniform would be 30 each, but 5 x 2 epochs = 10 for the smallest; 40 each for the others.
  EXPECT_THAT(unimax_shares({5, 100, 400}, 90, 2), Pointwise(DoubleNear(1e-12), {1. / 9, 4. / 9, 4. / 9}));
  EXPECT_THAT(unimax_shares({100, 100}, 50, 1), Pointwise(DoubleNear(1e-12), {0.5, 0.5}));
  EXPECT_THAT(message_of([] { (void)unimax_shares({1, 2}, 0, 1); }), HasSubstr("number of steps"));
}

TEST(Mixture, UnimaxNeverReadsALanguageMoreThanItsEpochs) {
  MixtureOptions o;
  o.kind = "unimax";
  o.max_epochs = 2;
  Mixture mixture(o, sources({5, 100}), {100, 2000});
  MixtureState state = mixture.start();
  // Samples turn out much shorter than estimated; the cap holds all the same.
  for (std::int64_t next = mixture.next(state, 0); next >= 0; next = mixture.next(state, 0)) {
    mixture.record(state, static_cast<std::size_t>(next), 1, 0);
  }
  EXPECT_EQ(state.sources[0].samples, 10);
  EXPECT_EQ(state.sources[1].samples, 200);
}

TEST(Mixture, PassesAreExactAndEnd) {
  MixtureOptions o;
  o.kind = "passes";
  o.weights = {{"a", 2}, {"b", 0.5}};
  for (const char* unit : {"samples", "tokens"}) {
    o.unit = unit;
    Mixture mixture(o, sources({30, 100}), {});
    MixtureState state = mixture.start();
    for (std::int64_t next = mixture.next(state, 0); next >= 0; next = mixture.next(state, 0)) {
      mixture.record(state, static_cast<std::size_t>(next), 7, 0);
    }
    EXPECT_EQ(state.sources[0].samples, 60);
    EXPECT_EQ(state.sources[1].samples, 50);
  }
}

TEST(Mixture, RatioEndsWithTheFirstSource) {
  MixtureOptions o = weights({{"a", 1}, {"b", 2}});
  o.kind = "ratio";
  Mixture mixture(o, sources({100, 40}), {});
  MixtureState state = mixture.start();
  for (std::int64_t next = mixture.next(state, 0); next >= 0; next = mixture.next(state, 0)) {
    mixture.record(state, static_cast<std::size_t>(next), 1, 0);
  }
  EXPECT_EQ(state.sources[1].samples, 40);
  EXPECT_NEAR(static_cast<double>(state.sources[0].samples), 20, 1);
}

TEST(Mixture, StagesSwitchAfterTheirSteps) {
  MixtureOptions o;
  o.stages = {{{}, {}, {{"a", 1}, {"b", 9}}}, {{}, {}, {{"a", 5}, {"b", 5}}}, {{}, {}, {{"a", 9}, {"b", 1}}}};
  Mixture mixture(o, sources({10, 10}), {10, 0});
  for (std::int64_t step = 0; step < 10; ++step) {
    EXPECT_NEAR(mixture.shares(step)[0], step < 3 ? 0.1 : step < 6 ? 0.5 : 0.9, 1e-12) << step;
  }
}

TEST(Mixture, StagesEndAtStepsOrFractionsAndMayInterpolate) {
  MixtureOptions o;
  o.stages = {{4, {}, {{"a", 1}, {"b", 0}}}, {{}, 0.8, {{"a", 0}, {"b", 1}}}, {{}, {}, {{"a", 1}, {"b", 1}}}};
  o.interpolate = true;
  Mixture mixture(o, sources({10, 10}), {10, 0});
  EXPECT_DOUBLE_EQ(mixture.shares(3)[0], 1);
  EXPECT_DOUBLE_EQ(mixture.shares(4)[0], 0.75);
  EXPECT_DOUBLE_EQ(mixture.shares(7)[0], 0);
  EXPECT_DOUBLE_EQ(mixture.shares(9)[0], 0.5);
}

TEST(Mixture, WrongOptionsAreNamed) {
  auto with = [](const MixtureOptions& o) {
    return message_of([&] { Mixture mixture(o, sources({10, 10}), {10, 100}); });
  };
  EXPECT_THAT(with(weights({{"a", 1}, {"bb", 1}})), AllOf(HasSubstr("'bb'"), HasSubstr("there are: a, b")));
  EXPECT_THAT(with(weights({{"a", 1}})), HasSubstr("do not name the source 'b'"));
  EXPECT_THAT(with(weights({{"a", -1}, {"b", 1}})), HasSubstr("0 or more"));
  EXPECT_THAT(with(weights({{"a", NAN}, {"b", 1}})), HasSubstr("mixture.weights.a must be a finite number"));
  EXPECT_THAT(with(weights({{"a", 0}, {"b", 0}})), HasSubstr("all 0"));
  EXPECT_THAT(with(weights({}, "words")), HasSubstr("mixture.unit: 'words' is none of samples, tokens"));
  MixtureOptions o;
  o.kind = "uniform";
  EXPECT_THAT(with(o), HasSubstr("mixture.kind: 'uniform' is none of"));
  o.kind = "unimax";
  o.max_epochs = 0;
  EXPECT_THAT(with(o), HasSubstr("max_epochs"));
  o = {};
  o.stages = {{8, {}, {{"a", 1}, {"b", 1}}}, {4, {}, {{"a", 1}, {"b", 1}}}, {{}, {}, {{"a", 1}, {"b", 1}}}};
  EXPECT_THAT(with(o), HasSubstr("stage 2 ends at step 4, before"));
  o.stages = {{4, 0.5, {{"a", 1}, {"b", 1}}}};
  EXPECT_THAT(with(o), HasSubstr("keep one"));
  o.stages = {{4, {}, {{"a", 1}, {"b", 1}}}, {{}, {}, {{"a", 1}, {"b", 1}}}, {{}, {}, {{"a", 1}, {"b", 1}}}};
  EXPECT_THAT(with(o), HasSubstr("stage 2 names no end"));
  o.kind = "unimax";
  EXPECT_THAT(with(o), HasSubstr("kind weights"));
}

}  // namespace
}  // namespace bitrain::data
