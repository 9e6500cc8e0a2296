#include <cmath>
#include <fstream>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/eval/word_vectors.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/recipe/run.h>
#include <bitrain/recipe/validate.h>
#include <bitrain/text/hf_tokenizer.h>

#include "support/temporary_directory.h"
#include "support/tiny_bert.h"

namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// Recipes in a folder of their own.
class WordStages : public ::testing::Test {
 protected:
  [[nodiscard]] std::string file(const std::string& name) const {
    return (directory_.path() / name).string();
  }
  void write(const std::string& name, const std::string& text) const { std::ofstream(file(name)) << text; }

  [[nodiscard]] fs::path recipe_of(const std::string& stages, const std::string& head) const {
    write("recipe.yaml", "schema: 1\nname: tiny\nthreads: 1\ndtype: float32\n" + head + "stages:\n" + stages);
    return directory_.path() / "recipe.yaml";
  }
  static constexpr const char* kNoLines = "source: {language: en}\ntarget: {language: es}\n";

  [[nodiscard]] io::Json run_stages(const std::string& stages, const std::string& head = kNoLines,
                                    const std::string& folder = "run") const {
    return run(load_recipe(recipe_of(stages, head), {"dir=" + file(folder)})).summary["stages"];
  }
  [[nodiscard]] std::string error_of(const std::string& stages, const std::string& head = kNoLines) const {
    try {
      (void)run_stages(stages, head, "failing");
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  [[nodiscard]] std::string problems_of(const std::string& stages, const std::string& head = kNoLines) const {
    try {
      validate(recipe_of(stages, head), {}).problems.raise();
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }

  test::TemporaryDirectory directory_;
};

// ---- evaluate_mexa

constexpr const char* kTinyLlama = R"(  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320}}
  first:
    recipe: pretrain
    model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}
    data: {loader: {sequence_length: 64, rows_per_step: 2}}
    train: {max_steps: 2}
)";

class MexaStage : public WordStages {
 protected:
  void SetUp() override {
    std::ofstream rows(file("pairs.tsv"));
    for (int i = 0; i < 300; ++i)
      rows << i << "\tthe cat number " << i << " saw the dog\tel gato número " << i << " vio al perro\n";
  }
  [[nodiscard]] std::string head(const std::string& held_out) const {
    const std::string path = file("pairs.tsv");
    return "source: {path: " + path + ", format: tsv, column: 2, language: en}\ntarget: {path: " + path +
           ", format: tsv, column: 3, language: es}\nheld_out: {" + held_out + "}\n";
  }
};

TEST_F(MexaStage, ScoresEveryLayerOfADecoder) {
  const std::string stages = std::string(kTinyLlama) +
                             "  weighted: {recipe: evaluate_mexa, from: first, sentences: 20}\n"
                             "  last: {recipe: evaluate_mexa, from: first, mexa: {tokens: last}}\n";
  const io::Json figures = run_stages(stages, head("every: 10"));
  const io::Json& weighted = figures["weighted"]["mexa"]["es"];
  EXPECT_EQ(weighted["sentences"], 20);
  EXPECT_EQ(figures["last"]["mexa"]["es"]["sentences"], 30);  // All there are.
  const io::Json bounded = run_stages(stages, head("every: 10, max_documents: 5"), "bounded");
  EXPECT_EQ(bounded["weighted"]["mexa"]["es"]["sentences"], 5);
  ASSERT_EQ(weighted["layers"].size(), 3U);  // The embeddings and two layers.
  double sum = 0;
  double most = 0;
  for (const io::Json& layer : weighted["layers"]) {
    sum += layer.get<double>();
    most = std::max(most, layer.get<double>());
    EXPECT_DOUBLE_EQ(std::round(layer.get<double>() * 20), layer.get<double>() * 20);
  }
  EXPECT_GE(most, 0.05);  // The number stands in both sentences.
  EXPECT_DOUBLE_EQ(weighted["mean"].get<double>(), sum / 3);
  EXPECT_DOUBLE_EQ(weighted["max"].get<double>(), most);
  const io::Json& table = figures["weighted"]["tables"][0];
  EXPECT_EQ(table["rows"].size(), 5U);
  EXPECT_EQ(table["rows"][0], (io::Json{"embeddings", weighted["layers"][0]}));
  // Every sentence ends in the same letter: the embeddings of the last tokens all tie.
  EXPECT_EQ(figures["last"]["mexa"]["es"]["layers"][0], 0.0);
}

TEST_F(MexaStage, RefusesWhatItCannotScore) {
  const std::string stages = std::string(kTinyLlama) + "  mexa: {recipe: evaluate_mexa}\n";
  EXPECT_THAT(error_of(stages, head("last: 1")),
              AllOf(HasSubstr("stage mexa"), HasSubstr("1 pair has nothing to be told from")));
  write("other.tsv", "1\tuno\n2\tdos\n");
  std::string two_files = head("every: 10");
  two_files.replace(two_files.rfind("pairs.tsv"), 9, "other.tsv");
  EXPECT_THAT(problems_of(stages, two_files), HasSubstr("pairs need source and target in one TSV file"));
  EXPECT_THAT(problems_of("  mexa: {recipe: evaluate_mexa, from: base, sentences: 1}\n"),
              HasSubstr("at least 2"));
}

// ---- align_words

/// Words, their translations by a hidden rotation of the plane pairs, and noise.
class AlignStage : public WordStages {
 protected:
  static constexpr int kWords = 120;
  static constexpr int kDim = 8;

  void SetUp() override {
    RandomStream stream(3, "vectors");
    std::string source = std::to_string(kWords) + " " + std::to_string(kDim) + "\n";
    std::string target = source;
    for (int word = 0; word < kWords; ++word) {
      source += "s" + std::to_string(word);
      target += "t" + std::to_string(word);
      for (int pair = 0; pair < kDim / 2; ++pair) {
        const double x = stream.normal();
        const double y = stream.normal();
        const double angle = 1.3 + pair;
        source += " " + std::to_string(x) + " " + std::to_string(y);
        target += " " + std::to_string(x * std::cos(angle) + y * std::sin(angle)) + " " +
                  std::to_string(y * std::cos(angle) - x * std::sin(angle));
      }
      source += "\n";
      target += "\n";
    }
    write("source.vec", source);
    write("target.vec", target);
    write("train.txt", dictionary(0, 60));
    write("test.txt", dictionary(60, 120) + "unknown t3\nunheard t4\ns70 gone\n");
  }
  static std::string dictionary(int first, int last) {
    std::string text;
    for (int word = first; word < last; ++word)
      text += "s" + std::to_string(word) + " t" + std::to_string(word) + "\n";
    return text;
  }
  [[nodiscard]] std::string stage(const std::string& more = "") const {
    return "  align: {recipe: align_words, source_vectors: " + file("source.vec") +
           ", target_vectors: " + file("target.vec") + ", train_dictionary: " + file("train.txt") +
           ", test_dictionary: " + file("test.txt") + more + "}\n";
  }
};

// Sinhala-English alignment: the hidden rotation is recovered, and the mapped vectors are written.
TEST_F(AlignStage, RecoversAHiddenRotationAndWritesTheMappedVectors) {
  const io::Json figures = run_stages(stage())["align"];
  const io::Json& alignment = figures["alignment"];
  for (const char* map : {"procrustes", "rcsls"}) {
    for (const char* search : {"nearest", "csls"}) {
      EXPECT_GE(alignment[map][search]["precision@1"].get<double>(), 0.99) << map << " " << search;
      EXPECT_EQ(alignment[map][search]["words"], 60);
    }
  }
  EXPECT_LT(alignment["identity"]["nearest"]["precision@1"].get<double>(), 0.3);
  EXPECT_EQ(alignment["train_pairs"], 60);
  EXPECT_DOUBLE_EQ(alignment["train_coverage"].get<double>(), 1);
  EXPECT_DOUBLE_EQ(alignment["coverage"].get<double>(), 60.0 / 62);  // Two words have no vector.
  EXPECT_EQ(figures["tables"][0]["rows"].size(), 6U);
  const eval::WordVectors mapped = eval::read_word_vectors(file("run/align/en.procrustes.vec"));
  const eval::WordVectors target = eval::read_word_vectors(file("target.vec"));
  EXPECT_EQ(mapped.words.front(), "s0");
  for (std::int64_t word : {0, 60, 119}) {
    const at::Tensor wanted = target.vectors[word] / target.vectors[word].norm();
    EXPECT_LT((mapped.vectors[word] - wanted).abs().max().item<double>(), 1e-4) << word;
  }
  EXPECT_TRUE(fs::exists(file("run/align/en.rcsls.vec")));
  // Without neighbours there is no CSLS.
  const io::Json plain = run_stages(stage(", lexicon: {csls_neighbours: 0}"), kNoLines, "plain")["align"];
  EXPECT_FALSE(plain["alignment"]["procrustes"].contains("csls"));
  EXPECT_EQ(plain["tables"][0]["rows"].size(), 3U);
}

TEST_F(AlignStage, NamesWhatCannotBeAligned) {
  write("test.txt", "unknown t3\n");
  EXPECT_THAT(error_of(stage()), AllOf(HasSubstr("stage align"), HasSubstr("test.txt"),
                                       HasSubstr("none of its 1 pairs has vectors on both sides")));
  write("test.txt", dictionary(60, 120));
  write("target.vec", "t1 1 2 3\nt2 3 4 5\n");
  EXPECT_THAT(error_of(stage()), HasSubstr("only spaces of one width can be aligned"));
  write("target.vec", "t1 1 2 nan\n");
  EXPECT_THAT(error_of(stage()), AllOf(HasSubstr("target.vec:1"), HasSubstr("'nan' is no finite number")));
  write("target.vec", "t1 1 1 1 1 1 1 1 1\nt2 1 1 1 1 1 1 1 1\n");
  EXPECT_THAT(error_of(stage()), HasSubstr("all 2 rows are equal"));
  fs::remove(file("target.vec"));
  EXPECT_THAT(problems_of(stage()),
              AllOf(HasSubstr("stages.align.target_vectors"), HasSubstr("there is no file")));
  EXPECT_THAT(problems_of("  align: {recipe: align_words}\n"), HasSubstr("source_vectors"));
}

// ---- evaluate_lexicon and BabelBERT's training

/// An encoder of 26 letters, twenty synsets of made-up words, and a retrieval set.
class LexiconStage : public WordStages {
 protected:
  void SetUp() override {
    fs::create_directories(file("vocabulary"));
    std::ofstream vocabulary(file("vocabulary/vocab.txt"));
    for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) vocabulary << special << "\n";
    for (char c = 'a'; c <= 'z'; ++c) vocabulary << c << "\n##" << c << "\n";
    vocabulary.close();
    std::ofstream(file("vocabulary/tokenizer_config.json")) << R"({"tokenizer_class": "BertTokenizer"})";
    const auto tokenizer = text::open_hf_tokenizer(file("vocabulary"));
    models::BertConfig config = testing::tiny_bert_config();
    config.vocab_size = tokenizer->vocab_size();
    models::SentenceEncoder model(testing::tiny_bert(at::kFloat, config), {{nn::Pooling::kMean}, true});
    hub::save_sentence_encoder(file("base"), model, tokenizer.get(), {});
    RandomStream stream(5, "words");
    const auto word = [&] {
      std::string letters;
      for (std::uint64_t i = 0; i < 3 + stream.below(3); ++i)
        letters += static_cast<char>('a' + stream.below(26));
      return letters;
    };
    std::ofstream dictionary(file("words.tsv"));
    std::ofstream pairs(file("words.jsonl"));
    for (int synset = 0; synset < 20; ++synset) {
      const std::string left = word();
      const std::string right = word();
      dictionary << left << "\t" << right << "\n";
      pairs << R"({"query": ")" << left << R"(", "positive": ")" << right << "\"}\n";
    }
  }
  [[nodiscard]] std::string head() const { return std::string(kNoLines) + "base: " + file("base") + "\n"; }
  [[nodiscard]] std::string lexicon(const std::string& name, const std::string& from) const {
    return "  " + name + ": {recipe: evaluate_lexicon, from: " + from +
           ", pool_special_tokens: false, dictionaries: [{path: " + file("words.tsv") + "}]}\n";
  }
  [[nodiscard]] std::string train(const std::string& name, const std::string& more) const {
    return "  " + name +
           ": {recipe: contrastive, from: base, pairs: false, files: [{path: " + file("words.jsonl") +
           "}], pool_special_tokens: false, " + more + "}\n";
  }
};

// BabelBERT: after toy training on 20 synsets the MRR of lexicon induction is above 0.9.
TEST_F(LexiconStage, TwentySynsetsAreLearnt) {
  for (const std::string loss : {"nt_xent", "supcon"}) {
    const std::string training =
        train("specialise", "objective: {loss: " + loss +
                                ", info_nce: {scale: 14.2857}}, dropout: 0, loader: {rows_per_step: 20, "
                                "micro_batch_rows: 6, distinct_texts: false}, train: {max_steps: 120, "
                                "learning_rate: 5e-3, eval_every: 0}");
    const io::Json figures =
        run_stages(lexicon("before", "base") + training + lexicon("after", "specialise"), head(), loss);
    const io::Json& before = figures["before"]["lexicon"]["words"];
    const io::Json& after = figures["after"]["lexicon"]["words"];
    EXPECT_LT(before["mrr"].get<double>(), 0.5) << loss;
    EXPECT_GT(after["mrr"].get<double>(), 0.9) << loss;
    EXPECT_GT(after["precision@1"].get<double>(), 0.8) << loss;
    EXPECT_EQ(after["words"], 20);
    EXPECT_EQ(after["candidates"], 20);
    EXPECT_EQ(figures["after"]["tables"][0]["rows"].size(), 1U);
  }
}

TEST_F(LexiconStage, SpecialTokensCountOnlyWhereAsked) {
  const std::string with =
      "  a: {recipe: evaluate_lexicon, from: base, dictionaries: [{path: " + file("words.tsv") +
      ", name: x}]}\n";
  const io::Json figures = run_stages(with + lexicon("b", "base"), head());
  EXPECT_NE(figures["a"]["lexicon"]["x"]["mrr"], figures["b"]["lexicon"]["words"]["mrr"]);
}

TEST_F(LexiconStage, NamesWhatCannotBeAsked) {
  write("words.tsv", "uno\tone\ndos\tone\n");
  EXPECT_THAT(error_of(lexicon("l", "base"), head()),
              AllOf(HasSubstr("words.tsv"), HasSubstr("the one translation 'one'")));
  write("words.tsv", "uno\tone\ttwo\n");
  EXPECT_THAT(error_of(lexicon("l", "base"), head()), HasSubstr("words.tsv:1"));
  // Unknown characters all become [UNK]: nothing tells such words apart.
  write("words.tsv", "\xD0\xB6\tone\n\xD1\x84\ttwo\n");
  EXPECT_THAT(error_of(lexicon("l", "base"), head()), HasSubstr("all 2 rows are equal"));
  EXPECT_THAT(problems_of("  l: {recipe: evaluate_lexicon, from: base, dictionaries: []}\n", head()),
              HasSubstr("must not be empty"));
  EXPECT_THAT(
      problems_of("  l: {recipe: evaluate_lexicon, from: base, dictionaries: [{path: none.tsv}]}\n", head()),
      HasSubstr("there is no file none.tsv"));
  EXPECT_THAT(problems_of(train("t", "objective: {loss: triplet}, train: {max_steps: 1}"), head()),
              AllOf(HasSubstr("objective.loss"), HasSubstr("supcon")));
}

// ---- xQG4xDR: documents that carry generated queries

class FusionStage : public LexiconStage {
 protected:
  void SetUp() override {
    LexiconStage::SetUp();
    eval::RetrievalSet set;
    std::string generated;
    for (int i = 0; i < 20; ++i) {
      const std::string letter(1, static_cast<char>('a' + i));
      set.corpus.push_back({"d" + letter, "", "some page " + letter + " of the " + letter + " help"});
      set.queries.push_back({"q" + letter, "", "ayuda " + letter});
      set.qrels["q" + letter]["d" + letter] = 1;
      generated += R"({"document": "d)" + letter + R"(", "query": "ayuda )" + letter + "\"}\n";
    }
    eval::write_beir(file("set"), set);
    write("generated.jsonl", generated);
  }
  [[nodiscard]] std::string search(const std::string& more) const {
    return "  search: {recipe: evaluate_retrieval, from: base, bm25: false, similarity: dot, depth: 20, "
           "collections: [{path: " +
           file("set") + ", generated_queries: " + file("generated.jsonl") + "}]" + more + "}\n";
  }
};

TEST_F(FusionStage, DocumentsCarryTheirQueries) {
  const io::Json figures = run_stages(search(", fusion_weights: [0, 0.01, 1]"), head())["search"];
  const io::Json& set = figures["search"]["set"];
  EXPECT_EQ(set["fused_0"], set["encoder"]);  // a = 0 is the plain run.
  EXPECT_EQ(set["fused_1"]["mrr@10"], 1.0);   // The query itself.
  EXPECT_GE(set["fused_0.01"]["mrr@10"].get<double>(), set["encoder"]["mrr@10"].get<double>());
  EXPECT_LT(set["encoder"]["mrr@10"].get<double>(), 1.0);
  EXPECT_TRUE(fs::exists(file("run/search/set.fused_0.01.trec")));
  const io::Json& table = figures["tables"][0];
  EXPECT_EQ(table["rows"].size(), 4U);
  EXPECT_EQ(table["rows"][0][0], "none");
  EXPECT_EQ(table["rows"][3][0], "1");
  // Fusion is linear: a run of dot products is the same mixture of runs.
  const eval::RetrievalRun plain = eval::read_trec_run(file("run/search/set.encoder.trec"));
  const eval::RetrievalRun queries = eval::read_trec_run(file("run/search/set.fused_1.trec"));
  const eval::RetrievalRun fused = eval::read_trec_run(file("run/search/set.fused_0.01.trec"));
  const auto score = [](const eval::RetrievalRun& run, const std::string& document) {
    for (const eval::Hit& hit : run.at("qc"))
      if (hit.document == document) return hit.score;
    ADD_FAILURE() << document;
    return 0.0;
  };
  for (const std::string document : {"da", "dc", "dt"})
    EXPECT_NEAR(score(fused, document), 0.99 * score(plain, document) + 0.01 * score(queries, document),
                1e-5);
}

TEST_F(FusionStage, NamesWhatDoesNotBelong) {
  write("generated.jsonl",
        "{\"document\": \"da\", \"query\": \"x\"}\n{\"document\": \"dz\", \"query\": \"x\"}\n");
  EXPECT_THAT(error_of(search(""), head()),
              AllOf(HasSubstr("generated.jsonl:2"), HasSubstr("'dz' is not in the corpus")));
  fs::remove(file("generated.jsonl"));
  EXPECT_THAT(problems_of(search(""), head()), HasSubstr("there is no file"));
  EXPECT_THAT(problems_of(search(", fusion_weights: [2]"), head()), HasSubstr("fusion_weights"));
}

}  // namespace
}  // namespace bitrain::recipe
