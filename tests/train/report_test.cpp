#include <bitrain/train/report.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/train/summary_view.h>
#include <bitrain/train/svg_chart.h>

namespace bitrain::train {
namespace {

using nlohmann::ordered_json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

ordered_json sample() {
  return ordered_json::parse(R"({
    "schema": 1, "name": "en_es <b>", "version": "0.1.0",
    "machine": {"cpu": "a CPU", "threads": 2, "device": "cpu", "dtype": "bfloat16"},
    "languages": {"source": "en", "target": "es"}, "seconds": 512.5, "peak_memory_bytes": 1073741824,
    "stages": {
      "base": {"type": "pretrain", "seconds": 300, "steps": 2, "tokens": 8192, "tokens_per_second": 4321.4,
        "shares": {"en": {"asked": 0.93, "realised": 0.931}, "es": {"asked": 0.07, "realised": 0.069}},
        "curve": {"step": [1, 2], "loss": [9.0, 8.5], "tokens_per_second": [4000, 4100]}},
      "evaluate": {"type": "evaluate", "seconds": 3,
        "languages": {"en": {"loss_per_token": 3.9, "bits_per_byte": 1.46}, "es": {"loss_per_token": 4.9, "bits_per_byte": 2.93}}},
      "extend": {"type": "extend_vocab", "seconds": 4, "old_vocab_size": 8000, "vocab_size": 10345, "chosen": "zip_tie",
        "changed_segmentation": {"en": 0.012},
        "fertility": {"es": {"before": {"tokens_per_word": 2.4, "bytes_per_token": 2.5}, "after": {"tokens_per_word": 1.5, "bytes_per_token": 3.9}}},
        "initialisers": {"gaussian": {"en": {"loss_per_token": 4.0, "bits_per_byte": 1.47}, "es": {"loss_per_token": 7.0, "bits_per_byte": 2.8}},
                         "zip_tie": {"en": {"loss_per_token": 4.0, "bits_per_byte": 1.48}, "es": {"loss_per_token": 7.1, "bits_per_byte": 2.9}}}},
      "adapt": {"type": "cpt", "seconds": 100, "steps": 100, "tokens": 409600,
        "evaluations": [{"step": 0, "languages": {"en": {"loss_per_token": 4.0, "bits_per_byte": 1.48}, "es": {"loss_per_token": 7.1, "bits_per_byte": 2.9}}},
                        {"step": 50, "languages": {"en": {"loss_per_token": 4.0, "bits_per_byte": 1.52}, "es": {"loss_per_token": 5.1, "bits_per_byte": 2.0}}},
                        {"step": 100, "languages": {"en": {"loss_per_token": 4.1, "bits_per_byte": 1.53}, "es": {"loss_per_token": 4.4, "bits_per_byte": 1.88}}}],
        "curve": {"step": [50, 100], "loss": [6.0, null]}},
      "merge": {"type": "merge", "seconds": 2, "max_logit_difference": 0.031, "generations": [{"prompt": "En el <principio>", "text": "creó Dios & los cielos"}]}
    }})");
}

TEST(Report, ShowsEveryPartOfTheRun) {
  const std::string html = render_report(sample());
  for (const char* part :
       {"From English to Spanish", "2.930 → 1.880", "-35.8 %", "2.40 → 1.50", "Initialisers at step 0",
        "8,000 → 10,345", "1.2 %", "93.1 %", "4,321", "1.0 GiB", "base: training loss", "0.0310"})
    EXPECT_THAT(html, HasSubstr(part));
}

TEST(Report, EscapesWhatComesFromOutside) {
  const std::string html = render_report(sample());
  EXPECT_THAT(html, HasSubstr("en_es &lt;b&gt;"));
  EXPECT_THAT(html, HasSubstr("En el &lt;principio&gt;"));
  EXPECT_THAT(html, HasSubstr("creó Dios &amp; los cielos"));
  EXPECT_THAT(html, Not(HasSubstr("en_es <b>")));
}

TEST(Report, NeedsNothingFromElsewhere) {
  const std::string html = render_report(sample());
  for (const char* reference : {"http:", "https:", "src=", "<link", "<script", "@import", "url("})
    EXPECT_THAT(html, Not(HasSubstr(reference)));
}

TEST(Report, ChosenInitialiserStandsOutAndTheBestComesFirst) {
  const std::string html = render_report(sample());
  EXPECT_THAT(html, HasSubstr("<tr class=\"chosen\"><td>zip_tie</td>"));
  EXPECT_LT(html.find("<td>gaussian</td>"), html.find("<td>zip_tie</td>"));
}

TEST(Report, LeavesOutWhatARunDoesNotHave) {
  const ordered_json summary = {{"name", "short"},
                                {"stages", {{"tok", {{"type", "tokenizer"}, {"seconds", 1}}}}}};
  const std::string html = render_report(summary);
  EXPECT_THAT(html, Not(HasSubstr("Initialisers")));
  EXPECT_THAT(html, Not(HasSubstr("Before and after")));
  EXPECT_THAT(html, HasSubstr("Speed and memory"));
  EXPECT_THAT(summarise(summary), HasSubstr("tok"));
}

TEST(Report, WrongTypesInsideAreLeftOut) {
  ordered_json summary = sample();
  summary["stages"]["base"]["curve"] = "none";
  summary["stages"]["adapt"]["evaluations"][1]["languages"]["es"] = 3;
  summary["stages"]["extend"]["fertility"]["es"]["before"] = nullptr;
  summary["machine"] = 7;
  EXPECT_THAT(render_report(summary), HasSubstr("</html>"));
  EXPECT_THAT(summarise(summary), HasSubstr("bits per byte"));
}

TEST(Report, RefusesWhatIsNoSummary) {
  for (const char* text : {"[]", "3", "{}", R"({"stages": []})"})
    EXPECT_THROW((void)render_report(ordered_json::parse(text)), FormatError) << text;
}

TEST(Report, ComparesWithTheBaseAsItWasBeforeItWasAdapted) {
  ordered_json summary = sample();
  // The base was scored on the way too: half trained it is no baseline.
  summary["stages"]["base"]["evaluations"] = ordered_json::parse(
      R"([{"step": 1, "languages": {"en": {"bits_per_byte": 9.0, "loss_per_token": 9.0}, "es": {"bits_per_byte": 9.5, "loss_per_token": 9.0}}}])");
  EXPECT_THAT(render_report(summary), HasSubstr("2.930 → 1.880"));
  EXPECT_THAT(summarise(summary), HasSubstr("-35.8 %"));
}

TEST(Report, ComparesWithTheScoreOfTheBaseWhereAStageTookIt) {
  ordered_json summary = ordered_json::parse(R"({"name": "one", "languages": {"source": "en", "target": "es"},
    "stages": {"adapt": {"type": "cpt", "seconds": 9,
      "base": {"model": "base", "weights": "nf4",
        "languages": {"en": {"loss_per_token": 3.0, "bits_per_byte": 1.0}, "es": {"loss_per_token": 5.0, "bits_per_byte": 2.0}}},
      "evaluations": [{"step": 0, "languages": {"en": {"loss_per_token": 3.0, "bits_per_byte": 1.0}, "es": {"loss_per_token": 5.0, "bits_per_byte": 2.0}}},
                      {"step": 9, "languages": {"en": {"loss_per_token": 3.3, "bits_per_byte": 1.1}, "es": {"loss_per_token": 4.0, "bits_per_byte": 1.5}}}]}}})");
  const std::string html = render_report(summary);
  for (const char* part : {"<td>base in nf4</td>", "2.000 → 1.500", "-25.0 %", "The base is: base in nf4."})
    EXPECT_THAT(html, HasSubstr(part));
  const std::string text = summarise(summary);
  for (const char* part : {"base in nf4", "adapt, step 0", "adapt, step 9", "-25.0 %", "+10.0 %"})
    EXPECT_THAT(text, HasSubstr(part));
  for (const ordered_json& broken :
       {ordered_json(3), ordered_json::object(), ordered_json{{"languages", 3}}}) {
    summary["stages"]["adapt"]["base"] = broken;
    EXPECT_THAT(render_report(summary), HasSubstr("The base is: adapt, step 0."));
  }
  EXPECT_THAT(render_report(sample()),
              HasSubstr("The base is: evaluate, which this run trained from random weights."));
}

TEST(Report, ShowsTheShareOfBytePieces) {
  ordered_json summary = sample();
  ordered_json& sides = summary["stages"]["extend"]["fertility"]["es"];
  EXPECT_THAT(render_report(summary),
              HasSubstr("<td>–</td><td>–</td></tr>"));  // Of a run before there were any.
  sides["before"]["byte_pieces"] = 0.0625;
  sides["after"]["byte_pieces"] = 0.001;
  for (const std::string& text : {render_report(summary), summarise(summary)})
    for (const char* part : {"6.2 %", "0.1 %"}) EXPECT_THAT(text, HasSubstr(part));
}

TEST(Report, ShowsResponsesBeforeAndAfter) {
  const ordered_json summary =
      ordered_json::parse(R"({"name": "sft", "stages": {"instruct": {"type": "sft", "seconds": 5,
    "before": {"translation": {"es": {"response_loss": 5.5, "next_word_accuracy": 0.0}}},
    "after": {"translation": {"es": {"response_loss": 3.25, "next_word_accuracy": 0.125}}, "new": {"en": {"response_loss": 1.5}}}}}})");
  for (const std::string& text : {render_report(summary), summarise(summary)})
    for (const char* part : {"translation", "5.500", "3.250", "0.0 %", "12.5 %", "1.500"})
      EXPECT_THAT(text, HasSubstr(part));
}

TEST(Report, ShowsTablesOfStagesAndClaims) {
  const ordered_json summary = ordered_json::parse(R"({"name": "x",
    "stages": {"bench": {"type": "evaluate", "tables": [
      {"title": "Systems <1>", "note": "higher is better", "columns": ["System", "MRR@10", "documents"], "rows": [["BM25 & co", 0.41249, 12345], ["none", null, 1]]},
      {"title": "no columns", "rows": []}, 7]}},
    "claims": [{"says": "it is <good>", "relation": "at_least", "value": 0.75, "bound_value": 0.5, "held": true},
               {"says": "it is not there", "relation": "above", "value": null, "bound_value": 1, "held": false}, 3]})");
  const std::string html = render_report(summary);
  for (const char* part : {"Systems &lt;1&gt;", "bench: higher is better", "BM25 &amp; co", "0.412", "12,345",
                           "it is &lt;good&gt;", "0.7500", "at least", "✓ yes", "✗ no"})
    EXPECT_THAT(html, HasSubstr(part));
  EXPECT_THAT(html, Not(HasSubstr("no columns")));
  const std::string text = summarise(summary);
  for (const char* part : {"Systems <1> (bench)", "BM25 & co", "12,345", "it is <good>", "NO"})
    EXPECT_THAT(text, HasSubstr(part));
}

TEST(Summarise, TellsTheSameFiguresInText) {
  const std::string text = summarise(sample());
  for (const char* part : {"English to Spanish", "2.930", "1.880", "-35.8 %", "zip_tie *", "4,321", "8:33"})
    EXPECT_THAT(text, HasSubstr(part));
  EXPECT_THAT(text, Not(HasSubstr("step 50")));
}

TEST(Chart, TicksAreRoundAndCoverTheRange) {
  EXPECT_THAT(nice_ticks(0, 100, 6), ElementsAre(0, 20, 40, 60, 80, 100));
  const std::vector<double> ticks = nice_ticks(1.46, 2.93, 6);
  EXPECT_LE(ticks.front(), 1.46);
  EXPECT_GE(ticks.back(), 2.93);
  EXPECT_LE(ticks.size(), 7u);
}

TEST(Chart, TicksAreReadable) {
  const auto labels = [](std::vector<double> ticks) { return tick_labels(ticks); };
  EXPECT_THAT(labels({0, 5000, 10000, 15000}), ElementsAre("0", "5,000", "10,000", "15,000"));
  EXPECT_THAT(labels({13000, 13500, 14000}), ElementsAre("13,000", "13,500", "14,000"));
  EXPECT_THAT(labels({0, 50000, 100000}), ElementsAre("0", "50k", "100k"));
  EXPECT_THAT(labels({99500, 100000}), ElementsAre("99.5k", "100.0k"));
  EXPECT_THAT(labels({0, 500000, 1000000, 1500000}), ElementsAre("0", "0.5M", "1.0M", "1.5M"));
  EXPECT_THAT(labels({-2, 0, 2}), ElementsAre("-2", "0", "2"));
  EXPECT_THAT(labels({1.5, 2.0, 2.5}), ElementsAre("1.5", "2.0", "2.5"));
  EXPECT_THAT(labels({0, 0.0001, 0.0002, 0.0003}), ElementsAre("0", "0.0001", "0.0002", "0.0003"));
  EXPECT_THAT(labels({0, 1e-5, 2e-5}), ElementsAre("0", "1e-05", "2e-05"));
  EXPECT_THAT(labels({0.1 + 0.2 - 0.3, 0.25, 0.5}), ElementsAre("0", "0.25", "0.50"));
  EXPECT_THAT(labels({0, 2e9}), ElementsAre("0", "2e+09"));
  EXPECT_THAT(labels({}), ElementsAre());
  Chart chart{"speed", "step", "tokens per second", {{"s", 0, {1, 20000}, {9000, 14000}}}, {}};
  const std::string svg = render_chart(chart);
  EXPECT_THAT(svg, AllOf(HasSubstr(">14,000<"), HasSubstr(">20,000<"), Not(HasSubstr("e+0"))));
}

TEST(Chart, ThinsLongSeriesAndBreaksAtHoles) {
  Chart chart{"c", "step", "y", {{"s", 0, {}, {}}}, {}};
  for (int i = 0; i < 5000; ++i) {
    chart.series[0].x.push_back(i);
    chart.series[0].y.push_back(i == 2100 ? std::nan("") : i);
  }
  const std::string svg = render_chart(chart);
  EXPECT_LT(svg.size(), 60000u);
  EXPECT_THAT(svg, HasSubstr("step 4999"));
  EXPECT_EQ(svg.find(": nan"), std::string::npos);
  EXPECT_EQ(svg.find("\"nan"), std::string::npos);
  EXPECT_THAT(render_chart({"c", "x", "y", {}, {}}), HasSubstr("Nothing was measured"));
}

ordered_json retrieval_sample() {
  return ordered_json::parse(R"({"schema": 1, "name": "pairs", "languages": {"source": "en", "target": "es"},
    "machine": {"device": "cpu", "threads": 2, "dtype": "bfloat16"}, "seconds": 10, "peak_memory_bytes": 1000,
    "stages": {
      "before": {"type": "evaluate_encoder", "retrieval": {"en-es": {"accuracy_at_1": 0.13, "mrr_at_10": 0.2},
        "es-en": {"accuracy_at_1": 0.15, "mrr_at_10": 0.22}}, "agreement": {"en": 1.0},
        "similarities": [[0.9, 0.1], [0.2, 0.8]]},
      "align": {"type": "contrastive", "pairs_per_step": 4,
        "curve": {"step": [1, 2], "loss": [5, 4], "learning_rate": [1, 1], "tokens_per_second": [9, 9]},
        "evaluations": [{"step": 2, "retrieval": {"en": {"agreement": 0.97},
          "en-es": {"accuracy_at_1": 0.74, "mrr_at_10": 0.8}, "es-en": {"accuracy_at_1": 0.75, "mrr_at_10": 0.81}}}],
        "retrieval": {"en-es": {"accuracy_at_1": 0.76, "mrr_at_10": 0.82},
          "es-en": {"accuracy_at_1": 0.77, "mrr_at_10": 0.83}}, "agreement": {"en": 0.961},
        "similarities": [[0.95, 0.05], [0.1, 0.9]]}}})");
}

TEST(Report, ShowsRetrievalByPairOfLanguages) {
  const std::string html = render_report(retrieval_sample());
  EXPECT_THAT(html, HasSubstr("<h2>Retrieval</h2>"));
  EXPECT_THAT(html, HasSubstr("English → Spanish"));
  EXPECT_THAT(html, HasSubstr("0.130 → 0.760"));
  EXPECT_THAT(html, HasSubstr("<td>align, step 2</td><td>0.740</td>"));
  EXPECT_THAT(html, HasSubstr("align: translations found at rank 1"));
  EXPECT_THAT(html, HasSubstr("nats per pair"));
  EXPECT_THAT(html, HasSubstr("0.961"));
  std::size_t pictures = 0;
  for (std::size_t at = html.find("class=\"matrix\""); at != std::string::npos;
       at = html.find("class=\"matrix\"", at + 1))
    ++pictures;
  EXPECT_EQ(pictures, 2U);
  const std::string text = summarise(retrieval_sample());
  EXPECT_THAT(text, HasSubstr("translations found at rank 1"));
  EXPECT_THAT(text, HasSubstr("0.770"));
}

TEST(Report, ShowsHiddenWordsByLanguage) {
  ordered_json summary = ordered_json::parse(R"({"schema": 1, "languages": {"source": "en", "target": "hi"},
    "machine": {"device": "cpu", "threads": 2, "dtype": "float32"}, "seconds": 1, "peak_memory_bytes": 1,
    "stages": {"tlm": {"type": "masked_lm",
      "before": {"en": {"masked_loss": 9.1, "masked_accuracy": 0.01}},
      "evaluations": [{"step": 5, "masked": {"hi": {"masked_loss": 5, "masked_accuracy": 0.2}}}],
      "masked": {"en": {"masked_loss": 3.25, "masked_accuracy": 0.305, "translated_loss": 1.5,
        "translated_accuracy": 0.707, "next_sentence_accuracy": 0.812}, "broken": 4}}}})");
  const std::string html = render_report(summary);
  EXPECT_THAT(html, HasSubstr("<h2>Hidden words</h2>"));
  EXPECT_THAT(html, HasSubstr("<td>tlm, before</td><td>English</td><td>9.100</td><td>1.0 %</td>"));
  EXPECT_THAT(html, HasSubstr("<td>English, translated</td><td>1.500</td><td>70.7 %</td>"));
  EXPECT_THAT(html, HasSubstr("<td>English, next sentences</td><td>–</td><td>81.2 %</td>"));
  EXPECT_THAT(html, HasSubstr("tlm: hidden words predicted"));
  summary["stages"]["tlm"]["evaluations"][0]["masked"] = 3;
  EXPECT_THAT(render_report(summary), HasSubstr("</html>"));
}

ordered_json search_sample() {
  return ordered_json::parse(R"({"schema": 1, "name": "sets", "languages": {"source": "en", "target": "pl"},
    "machine": {"device": "cpu", "threads": 2, "dtype": "bfloat16"}, "seconds": 10, "peak_memory_bytes": 1000,
    "stages": {
      "before": {"type": "evaluate_retrieval", "search": {"scifact-pl": {"queries": 3, "documents": 9,
        "bm25": {"ndcg@10": 0.5, "mrr@10": 0.4, "accuracy@1": 0.3, "recall@100": 0.9},
        "encoder": {"ndcg@10": 0.21, "mrr@10": 0.2, "accuracy@1": 0.1, "recall@100": 0.5}}}},
      "after": {"type": "evaluate_retrieval", "search": {"scifact-pl": {
        "bm25": {"ndcg@10": 0.5, "mrr@10": 0.4, "accuracy@1": 0.3, "recall@100": 0.9},
        "encoder": {"ndcg@10": 0.654, "mrr@10": 0.6, "accuracy@1": 0.55, "recall@100": 0.95}},
        "broken": 3, "empty": {"encoder": {"ndcg@10": "x"}}}}}})");
}

TEST(Report, ShowsSearchesOfRetrievalSetsBySystem) {
  const std::string html = render_report(search_sample());
  EXPECT_THAT(html, HasSubstr("<h2>Search</h2>"));
  EXPECT_THAT(html, HasSubstr("<td>scifact-pl</td><td>BM25</td><td>0.500</td>"));
  EXPECT_THAT(html, HasSubstr("<td>before</td><td>0.210</td>"));
  EXPECT_THAT(html, HasSubstr("<td>after</td><td>0.654</td>"));
  EXPECT_EQ(html.find("BM25</td>"), html.rfind("BM25</td>")) << "words are the same in every stage";
  const std::string text = summarise(search_sample());
  EXPECT_THAT(text, HasSubstr("retrieval sets"));
  EXPECT_THAT(text, HasSubstr("0.654"));
}

TEST(Report, SurvivesBrokenRetrieval) {
  ordered_json summary = retrieval_sample();
  summary["stages"]["before"]["similarities"] = ordered_json::parse(R"([[1, "x"], 3])");
  summary["stages"]["align"]["evaluations"][0]["retrieval"]["en-es"] = 5;
  summary["stages"]["before"]["retrieval"] = ordered_json::parse("[1]");
  EXPECT_THAT(render_report(summary), HasSubstr("</html>"));
  EXPECT_NO_THROW((void)summarise(summary));
}

}  // namespace
}  // namespace bitrain::train
