#include <bitrain/data/loader.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/data/inspect.h>
#include <support/byte_tokenizer.h>

namespace bitrain::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Token t of sample n of a source is base + 1000 n + t, so that every token can be told apart.
TokenSequence numbered(std::int32_t first, std::int32_t length) {
  TokenSequence sequence;
  sequence.ids.resize(static_cast<std::size_t>(length));
  std::iota(sequence.ids.begin(), sequence.ids.end(), first);
  for (std::int32_t id : sequence.ids) sequence.labels.push_back(id + 1);
  return sequence;
}

/// Documents of random lengths; Example::text is the length, id the number.
SourcePtr documents(const std::string& name, std::int64_t count, std::int64_t longest) {
  RandomStream random(1, "documents " + name);
  std::vector<Example> examples(static_cast<std::size_t>(count));
  for (Example& example : examples) {
    example.text = std::to_string(1 + random.below(static_cast<std::uint64_t>(longest)));
  }
  return make_source(name, name, examples);
}

TokenSequence encode(const Example& example) {
  const std::int32_t base = example.source == "es" ? 100'000'000 : 0;
  return numbered(base + 1000 * static_cast<std::int32_t>(example.id), std::stoi(example.text));
}

/// A step as plain numbers: ids, labels, boundaries, languages and first_token of each micro-batch.
using Plain = std::vector<std::vector<std::int64_t>>;
Plain plain(const std::vector<Batch>& step) {
  Plain result;
  for (const Batch& batch : step) {
    for (const at::Tensor& tensor : {batch.input_ids, batch.labels, batch.position_ids}) {
      const auto* data = tensor.const_data_ptr<std::int64_t>();
      result.emplace_back(data, data + tensor.numel());
    }
    result.emplace_back(batch.boundaries.begin(), batch.boundaries.end());
    result.emplace_back(batch.language_ids.begin(), batch.language_ids.end());
    result.push_back({batch.first_token});
  }
  return result;
}

LoaderOptions options(const std::string& packing = "best_fit", std::int64_t threads = 0) {
  LoaderOptions o;
  o.sequence_length = 32;
  o.rows_per_step = 4;
  o.packing = packing;
  o.prefetch_threads = threads;
  o.mixture.weights = {{"en", 0.3}, {"es", 0.7}};
  return o;
}

std::unique_ptr<Loader> loader(const LoaderOptions& o, std::uint64_t seed = 5, Encode how = encode) {
  return std::make_unique<Loader>(o, std::vector<SourcePtr>{documents("en", 50, 40), documents("es", 37, 80)},
                                  std::move(how), LoaderRun{seed, 100});
}

TEST(Loader, EveryPassGivesEveryTokenOnceWithItsLabel) {
  for (const char* packing : {"cut", "best_fit"}) {
    LoaderOptions o = options(packing);
    o.mixture.kind = "passes";
    o.mixture.weights = {{"en", 2}, {"es", 1}};
    auto l = loader(o);
    std::map<std::int64_t, int> seen;
    for (auto step = l->next_step(); !step.empty(); step = l->next_step()) {
      for (const Batch& batch : step) {
        EXPECT_LE(batch.longest_segment(), 32);
        const auto* ids = batch.input_ids.const_data_ptr<std::int64_t>();
        const auto* labels = batch.labels.const_data_ptr<std::int64_t>();
        for (std::int64_t i = 0; i < batch.tokens(); ++i) {
          ++seen[ids[i]];
          ASSERT_EQ(labels[i], ids[i] + 1);  // also at cuts: the token that comes next in the document
        }
      }
    }
    std::int64_t expected = 0;
    for (const SourcePtr& source : {documents("en", 50, 40), documents("es", 37, 80)}) {
      for (std::int64_t i = 0; i < source->size(); ++i) {
        for (std::int32_t id : encode(source->at(i)).ids) {
          ASSERT_EQ(seen[id], source->name() == "en" ? 2 : 1) << packing << " token " << id;
          ++expected;
        }
      }
    }
    EXPECT_EQ(static_cast<std::int64_t>(seen.size()), expected);
    EXPECT_TRUE(l->next_step().empty());
  }
}

TEST(Loader, CutFillsEveryRow) {
  auto l = loader(options("cut"));
  for (int step = 0; step < 20; ++step) EXPECT_EQ(l->next_step().at(0).tokens(), 128);
}

TEST(Loader, BestFitWastesLittleAndKeepsShortDocumentsWhole) {
  auto l = loader(options("best_fit"));
  std::int64_t tokens = 0;
  for (int step = 0; step < 50; ++step) {
    for (const Batch& batch : l->next_step()) {
      tokens += batch.tokens();
      for (std::size_t s = 0; s + 1 < batch.boundaries.size(); ++s) {
        const auto id = batch.input_ids.const_data_ptr<std::int64_t>()[batch.boundaries[s]];
        EXPECT_EQ(id % 1000 % 32, 0);  // begins a document, or a piece of a long one
      }
    }
  }
  EXPECT_GT(static_cast<double>(tokens), 0.93 * 50 * 128);
}

TEST(Loader, ThreadsChangeNothing) {
  for (const char* packing : {"cut", "best_fit"}) {
    std::vector<Plain> expected;
    auto none = loader(options(packing, 0));
    for (int i = 0; i < 40; ++i) expected.push_back(plain(none->next_step()));
    for (std::int64_t threads : {1, 2, 4}) {
      auto some = loader(options(packing, threads));
      for (int i = 0; i < 40; ++i) {
        ASSERT_EQ(plain(some->next_step()), expected[static_cast<std::size_t>(i)])
            << packing << ", " << threads << " threads, step " << i;
      }
      EXPECT_EQ(to_json(some->cursor()), to_json(none->cursor()));
    }
  }
}

TEST(Loader, ResumedAtAnyStepIsUninterrupted) {
  for (const char* packing : {"cut", "best_fit"}) {
    for (const char* unit : {"samples", "tokens"}) {
      LoaderOptions o = options(packing, 2);
      o.mixture.unit = unit;
      auto whole = loader(o);
      std::vector<std::string> cursors{to_json(whole->cursor()).dump()};
      std::vector<Plain> expected;
      for (int i = 0; i < 20; ++i) {
        expected.push_back(plain(whole->next_step()));
        cursors.push_back(to_json(whole->cursor()).dump());
      }
      for (std::size_t at : {0u, 1u, 7u, 13u}) {
        o.prefetch_threads = static_cast<std::int64_t>(at % 3);
        auto resumed = loader(o);
        (void)resumed->next_step();  // seek must also undo what was prefetched
        resumed->seek(cursor_from_json(nlohmann::ordered_json::parse(cursors[at])));
        for (std::size_t i = at; i < expected.size(); ++i) {
          ASSERT_EQ(plain(resumed->next_step()), expected[i]) << packing << " from " << at << ", step " << i;
          ASSERT_EQ(to_json(resumed->cursor()).dump(), cursors[i + 1]);
        }
      }
    }
  }
}

TEST(Loader, MicroBatchesSplitTheSameStep) {
  LoaderOptions o = options();
  auto one = loader(o);
  o.micro_batch_rows = 1;
  auto four = loader(o);
  for (int step = 0; step < 10; ++step) {
    const Batch whole = one->next_step().at(0);
    const auto parts = four->next_step();
    EXPECT_EQ(parts.size(), 4u);
    std::int64_t at = 0;
    for (const Batch& part : parts) {
      EXPECT_EQ(part.first_token, at);
      for (std::int64_t i = 0; i < part.tokens(); ++i, ++at) {
        ASSERT_EQ(part.input_ids.const_data_ptr<std::int64_t>()[i],
                  whole.input_ids.const_data_ptr<std::int64_t>()[at]);
        ASSERT_EQ(part.position_ids.const_data_ptr<std::int64_t>()[i],
                  whole.position_ids.const_data_ptr<std::int64_t>()[at]);
      }
    }
    EXPECT_EQ(at, whole.tokens());
  }
}

TEST(Loader, RealisedSharesAreThoseAskedFor) {
  for (const char* unit : {"samples", "tokens"}) {
    LoaderOptions o = options();
    o.mixture.unit = unit;
    auto l = loader(o);
    for (int i = 0; i < 100; ++i) (void)l->next_step();
    const auto shares = l->shares();
    ASSERT_EQ(shares.size(), 2u);
    EXPECT_EQ(shares[1].language, "es");
    EXPECT_NEAR(shares[1].asked, 0.7, 1e-9);
    EXPECT_NEAR(shares[1].realised, 0.7, 0.01) << unit;
    EXPECT_NEAR(shares[0].realised + shares[1].realised, 1, 1e-12);
    EXPECT_GT(shares[1].epochs, 1);
    EXPECT_THAT(describe(shares, unit), HasSubstr(std::string("es: asked 70.0 %, realised ")));
  }
}

TEST(Loader, EveryEpochReadsEverythingInAnotherOrder) {
  LoaderOptions o = options("best_fit");
  o.mixture.weights = {{"en", 1}, {"es", 0}};
  o.rows_per_step = 1;
  std::vector<std::int64_t> order;
  auto l = loader(o, 5, [&](const Example& example) {
    order.push_back(example.id);
    return numbered(0, 32);
  });
  for (int i = 0; i < 100; ++i) (void)l->next_step();
  ASSERT_EQ(order.size(), 100u);
  const std::vector<std::int64_t> first(order.begin(), order.begin() + 50);
  const std::vector<std::int64_t> second(order.begin() + 50, order.end());
  EXPECT_EQ(std::set<std::int64_t>(first.begin(), first.end()).size(), 50u);
  EXPECT_EQ(std::set<std::int64_t>(second.begin(), second.end()).size(), 50u);
  EXPECT_NE(first, second);
  EXPECT_NE(plain(loader(options(), 5)->next_step()), plain(loader(options(), 6)->next_step()));
}

TEST(Loader, WithoutBoundariesARowIsOneSegment) {
  LoaderOptions o = options("cut");
  o.keep_boundaries = false;
  EXPECT_THAT(loader(o)->next_step().at(0).boundaries, ElementsAre(0, 32, 64, 96, 128));
}

TEST(Loader, FailuresComeAtTheirStepWithAnyNumberOfThreads) {
  const auto fail_at = [](const Example& example) {
    if (example.source == "es" && example.id == 11) throw DataError("row 12 is bad");
    return encode(example);
  };
  std::vector<int> steps;
  for (std::int64_t threads : {0, 1, 4}) {
    auto l = loader(options("cut", threads), 5, fail_at);
    int step = 0;
    std::string message;
    try {
      for (;; ++step) (void)l->next_step();
    } catch (const DataError& error) {
      message = error.what();
    }
    EXPECT_EQ(message, "row 12 is bad");
    EXPECT_THROW((void)l->next_step(), DataError);  // and again, rather than hang
    EXPECT_EQ(l->cursor().step, step);
    steps.push_back(step);
  }
  EXPECT_EQ(steps[0], steps[1]);
  EXPECT_EQ(steps[0], steps[2]);
}

TEST(Loader, DropsAreCountedAndASourceOfNothingButDropsIsAnError) {
  auto some = loader(options(), 5, [](const Example& example) {
    return example.id % 2 == 0 ? TokenSequence{} : encode(example);
  });
  for (int i = 0; i < 30; ++i) (void)some->next_step();
  EXPECT_GT(some->shares()[0].dropped, 0);
  EXPECT_NEAR(some->shares()[1].realised, 0.7, 0.05);
  for (std::int64_t threads : {0, 2}) {
    auto all = loader(options("cut", threads), 5, [](const Example& example) {
      return example.source == "es" ? TokenSequence{} : encode(example);
    });
    EXPECT_THROW((void)all->next_step(), DataError);
  }
  auto reasoned = loader(options("cut", 0), 5, [](const Example& example) {
    if (example.source != "es") return encode(example);
    TokenSequence nothing;
    nothing.why_empty = "has 900 tokens, max_length is 512";
    return nothing;
  });
  try {
    (void)reasoned->next_step();
    FAIL() << "nothing of es can be learnt";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), testing::ContainsRegex(
                                  "for example row [0-9]+ of source 'es' has 900 tokens, max_length is 512"));
  }
}

TEST(Loader, UnimaxCapHolds) {
  LoaderOptions o = options();
  o.mixture = {};
  o.mixture.kind = "unimax";
  o.mixture.max_epochs = 1.5;
  auto l = loader(o);
  while (!l->next_step().empty()) {
  }
  for (const SourceShare& share : l->shares()) EXPECT_LE(share.epochs, 1.5);
}

TEST(Loader, CursorsOfOtherDataOrDamagedAreRefused) {
  auto l = loader(options("cut"));
  (void)l->next_step();
  Cursor cursor = l->cursor();
  ASSERT_FALSE(cursor.carried.empty());
  Cursor other = cursor;
  other.sources[0] = "en (51 documents)";
  EXPECT_THROW(l->seek(other), StateError);
  other = cursor;
  other.carried[0].end = 100000;
  EXPECT_THROW(l->seek(other), StateError);
  other = cursor;
  other.carried[0].source = 2;
  EXPECT_THROW(l->seek(other), StateError);
  EXPECT_THROW(l->seek(Cursor{}), StateError);
  EXPECT_THROW((void)cursor_from_json(nlohmann::ordered_json::parse("{\"step\": 1}")), FormatError);
  EXPECT_THROW((void)cursor_from_json(nlohmann::ordered_json::parse("[3]")), FormatError);
}

TEST(Loader, WrongOptionsAreErrors) {
  LoaderOptions o = options();
  o.packing = "bestfit";
  EXPECT_THROW((void)loader(o), ConfigError);
  o = options();
  o.rows_per_step = 0;
  EXPECT_THROW((void)loader(o), ConfigError);
  const auto twice = [] { Loader l(options(), {documents("en", 5, 5), documents("en", 5, 5)}, encode, {}); };
  EXPECT_THROW(twice(), ConfigError);
}

TEST(Inspect, MarksWhatIsSupervised) {
  test::ByteTokenizer tokenizer;
  // Prompt "ab", reply "c" and EOS; the second segment is a piece that goes on after a cut.
  const Batch batch = make_batch({{256, 'a', 'b', 'c'}, {'x', '\n'}},
                                 {{kIgnoreIndex, kIgnoreIndex, 'c', 257}, {'\n', kIgnoreIndex}}, {1, 0});
  const std::string text = render_batch(batch, tokenizer, {"en", "es"});
  EXPECT_EQ(text,
            "segment 0 · es · 4 tokens · 2 supervised\n<s> a b [c] [-></s>]\n"
            "segment 1 · en · 2 tokens · 1 supervised\nx [\\n]\n");
  InspectOptions masked;
  masked.in_place = true;
  EXPECT_EQ(render_batch(make_batch({{'a', 258, 'c', 'd'}}, {{kIgnoreIndex, 'b', 'c', kIgnoreIndex}}, {0}),
                         tokenizer, {"en"}, masked),
            "segment 0 · en · 4 tokens · 2 supervised\na [" + tokenizer.id_to_piece(258) + "->b] [c] d\n");
  Batch pair = make_batch({{'a'}, {'b'}}, {{kIgnoreIndex}, {kIgnoreIndex}}, {0, 1});
  pair.group_ids = {7, 7};
  EXPECT_EQ(render_batch(pair, tokenizer, {"en", "es"}),
            "segment 0 · en · 1 tokens · example 7\na\nsegment 1 · es · 1 tokens · example 7\nb\n");
  InspectOptions some;
  some.max_segments = 1;
  some.color = true;
  some.ids = true;
  const std::string colored = render_batch(batch, tokenizer, {"en", "es"}, some);
  EXPECT_THAT(colored, HasSubstr("\x1b[32m[c(99)]\x1b[0m"));
  EXPECT_THAT(colored, HasSubstr("... 1 more segments"));
}

// An example of two texts of two and three tokens; examples of equal number / 4 share the first text.
TokenSequence two_texts(const Example& example) {
  const auto number = static_cast<std::int32_t>(example.id);
  const std::int32_t base = example.source == "es" ? 1'000'000 : 0;
  TokenSequence sequence;
  sequence.ids = {base + number / 4, 7, base + 5000 + number, 8, 9};
  sequence.labels.assign(5, static_cast<std::int32_t>(kIgnoreIndex));
  sequence.parts = {{2, 0}, {5, 1}};
  return sequence;
}

LoaderOptions whole_options() {
  LoaderOptions o = options("whole");
  o.rows_per_step = 6;
  o.micro_batch_rows = 4;
  o.mixture.unit = "samples";
  return o;
}

TEST(WholeExamples, BecomeSegmentsInGroups) {
  const auto data = loader(whole_options(), 5, two_texts);
  for (int step = 0; step < 4; ++step) {
    const std::vector<Batch> batches = data->next_step();
    ASSERT_EQ(batches.size(), 2U);
    EXPECT_EQ(batches[0].segments(), 8);
    EXPECT_EQ(batches[1].segments(), 4);
    EXPECT_THAT(batches[1].group_ids, ElementsAre(0, 0, 1, 1));
    EXPECT_THAT(batches[1].language_ids, ElementsAre(0, 1, 0, 1));
    EXPECT_THAT(batches[1].boundaries, ElementsAre(0, 2, 5, 7, 10));
    EXPECT_EQ(batches[1].first_token, 20);
  }
}

std::vector<std::int64_t> first_ids(const std::vector<Batch>& step) {
  std::vector<std::int64_t> ids;
  for (const Batch& batch : step)
    for (std::int64_t s = 0; s < batch.segments(); s += 2)
      ids.push_back(batch.input_ids[batch.boundaries[static_cast<std::size_t>(s)]].item<std::int64_t>());
  return ids;
}

TEST(WholeExamples, DistinctTextsComeOnceInAStepAndAreNotLost) {
  LoaderOptions o = whole_options();
  o.distinct_texts = true;
  o.mixture.kind = "passes";
  o.mixture.weights = {{"en", 1}, {"es", 1}};
  const auto data = loader(o, 5, two_texts);
  std::int64_t examples = 0;
  bool some_waited = false;
  for (std::vector<Batch> step = data->next_step(); !step.empty(); step = data->next_step()) {
    const std::vector<std::int64_t> ids = first_ids(step);
    EXPECT_EQ(std::set<std::int64_t>(ids.begin(), ids.end()).size(), ids.size());
    examples += static_cast<std::int64_t>(ids.size());
    some_waited = some_waited || !data->cursor().carried.empty();
  }
  EXPECT_EQ(examples, 87);
  EXPECT_TRUE(some_waited);
}

TEST(WholeExamples, SingleSourceStepsNeverMixAndMeetTheShares) {
  LoaderOptions o = whole_options();
  o.single_source_steps = true;
  o.distinct_texts = true;
  const auto data = loader(o, 5, two_texts);
  std::map<bool, int> steps;
  for (int step = 0; step < 100; ++step) {
    const std::vector<std::int64_t> ids = first_ids(data->next_step());
    ASSERT_EQ(ids.size(), 6U);
    const bool spanish = ids.front() >= 1'000'000;
    for (const std::int64_t id : ids) EXPECT_EQ(id >= 1'000'000, spanish);
    ++steps[spanish];
  }
  EXPECT_NEAR(steps[true], 70, 1);
}

TEST(WholeExamples, GoOnFromACursor) {
  for (const bool single : {false, true}) {
    LoaderOptions o = whole_options();
    o.single_source_steps = single;
    o.distinct_texts = true;
    const auto through = loader(o, 5, two_texts);
    for (int step = 0; step < 7; ++step) (void)through->next_step();
    const Cursor cursor = cursor_from_json(to_json(through->cursor()));
    o.prefetch_threads = 3;
    const auto resumed = loader(o, 5, two_texts);
    resumed->seek(cursor);
    for (int step = 0; step < 7; ++step) EXPECT_EQ(plain(resumed->next_step()), plain(through->next_step()));
  }
}

TEST(WholeExamples, AStepThatCannotBeFilledIsAnError) {
  LoaderOptions o = whole_options();
  o.distinct_texts = true;
  const auto same = [](const Example&) {
    TokenSequence sequence;
    sequence.ids = {1, 2};
    sequence.labels.assign(2, static_cast<std::int32_t>(kIgnoreIndex));
    sequence.parts = {{1, 0}, {2, 1}};
    return sequence;
  };
  const auto data = loader(o, 5, same);
  try {
    (void)data->next_step();
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("a step of 6 cannot be filled"));
  }
}

TEST(WholeExamples, OptionsForThemNeedThem) {
  LoaderOptions o = options("cut");
  o.distinct_texts = true;
  EXPECT_THROW((void)loader(o), ConfigError);
  o.distinct_texts = false;
  o.single_source_steps = true;
  EXPECT_THROW((void)loader(o), ConfigError);
}

/// `count` different pairs of languages `a` and `b`.
SourcePtr pairs_of(const std::string& a, const std::string& b, std::int64_t count) {
  std::vector<Example> examples(static_cast<std::size_t>(count));
  for (Example& example : examples) {
    example.text = "3";
    example.pair_text = "4";
    example.pair_language = b;
  }
  return make_source(a + "-" + b, a, examples);
}

// Batches of one language each, the languages by a temperature over their sizes (WebFAQ's and SWIM-X's
// batches).
TEST(WholeExamples, ATemperatureMixesLanguagesAcrossStepsOfOne) {
  LoaderOptions o = whole_options();
  o.single_source_steps = true;
  o.mixture.kind = "temperature";
  o.mixture.temperature = 2;
  o.mixture.over = "languages";
  const std::vector<SourcePtr> sources = {pairs_of("en", "en", 900), pairs_of("es", "es", 100)};
  const auto encode = [](const Example& example) {
    Example named = example;
    named.source = example.language;
    return two_texts(named);
  };
  Loader loader(o, sources, encode, {1, 200});
  int spanish = 0;
  for (int step = 0; step < 200; ++step) {
    std::set<std::int32_t> languages;
    for (const Batch& batch : loader.next_step())
      for (std::size_t s = 0; s < batch.group_ids.size(); ++s)
        languages.insert(batch.input_ids[batch.boundaries[s]].item<std::int64_t>() >= 1'000'000 ? 1 : 0);
    ASSERT_EQ(languages.size(), 1U);
    spanish += *languages.begin();
  }
  EXPECT_NEAR(spanish, 50, 1);  // sqrt(100) / (sqrt(900) + sqrt(100)) of 200; by size it would be 20.
}

TEST(Loader, PairsOfLanguagesHaveSharesByTheExponentOfTheirSizes) {
  const std::vector<SourcePtr> sources = {pairs_of("en", "es", 640), pairs_of("es", "en", 260),
                                          pairs_of("en", "ko", 75), pairs_of("ko", "et", 25)};
  const auto realised = [&](double exponent, const std::string& over) {
    LoaderOptions options;
    options.packing = "whole";
    options.rows_per_step = 10;
    options.mixture.kind = "exponent";
    options.mixture.exponent = exponent;
    options.mixture.over = over;
    options.mixture.unit = "samples";
    Loader loader(
        options, sources,
        [](const Example& example) { return numbered(1000 * static_cast<std::int32_t>(example.id), 3); },
        {1, 100});
    for (int step = 0; step < 100; ++step) (void)loader.next_step();
    std::vector<double> shares;
    for (const SourceShare& share : loader.shares()) shares.push_back(share.realised_samples);
    return shares;
  };
  const auto near = [](std::vector<double> shares) {
    return ::testing::Pointwise(::testing::DoubleNear(2e-3), std::move(shares));
  };
  // BabelBERT: q_i = p_i^0.5 / sum, for unordered pairs: 900, 75 and 25.
  const double total = std::sqrt(0.9) + std::sqrt(0.075) + std::sqrt(0.025);
  const double both_ways = std::sqrt(0.9) / total;
  EXPECT_THAT(realised(0.5, "pairs"), near({both_ways * 64 / 90, both_ways * 26 / 90,
                                            std::sqrt(0.075) / total, std::sqrt(0.025) / total}));
  EXPECT_THAT(realised(1, "pairs"), near({0.64, 0.26, 0.075, 0.025}));
  EXPECT_THAT(realised(0, "pairs"), near({64.0 / 270, 26.0 / 270, 1.0 / 3, 1.0 / 3}));
  EXPECT_THAT(realised(0, "sources"), near({0.25, 0.25, 0.25, 0.25}));
}

}  // namespace
}  // namespace bitrain::data
