#include <bitrain/data/inspect.h>

#include <algorithm>

#include <bitrain/base/error.h>
#include <bitrain/base/printable.h>

namespace bitrain::data {
namespace {

constexpr const char* kGreen = "\x1b[32m";
constexpr const char* kGrey = "\x1b[90m";
constexpr const char* kBold = "\x1b[1m";
constexpr const char* kReset = "\x1b[0m";

/// A piece in one line.
std::string shown(const std::string& piece) {
  std::string result;
  for (const char c : printable(piece)) {
    if (c == '\n')
      result += "\\n";
    else if (c == '\t')
      result += "\\t";
    else
      result += c;
  }
  return result;
}

class Renderer {
 public:
  Renderer(const Batch& batch, const text::Tokenizer& tokenizer, const std::vector<std::string>& languages,
           const InspectOptions& options)
      : batch_(batch), tokenizer_(tokenizer), languages_(languages), options_(options) {}

  std::string render() {
    const Batch host = batch_.to(at::kCPU);
    const auto* ids = host.input_ids.const_data_ptr<std::int64_t>();
    const auto* labels = host.labels.const_data_ptr<std::int64_t>();
    const std::int64_t count =
        options_.max_segments > 0 ? std::min(options_.max_segments, batch_.segments()) : batch_.segments();
    for (std::int64_t s = 0; s < count; ++s) render_segment(s, ids, labels);
    if (count < batch_.segments()) out_ += to_text("... ", batch_.segments() - count, " more segments\n");
    return std::move(out_);
  }

 private:
  void render_segment(std::int64_t segment, const std::int64_t* ids, const std::int64_t* labels) {
    const std::int32_t begin = batch_.boundaries[static_cast<std::size_t>(segment)];
    const std::int32_t end = batch_.boundaries[static_cast<std::size_t>(segment) + 1];
    const std::int64_t supervised =
        std::count_if(labels + begin, labels + end, [](std::int64_t label) { return label != kIgnoreIndex; });
    std::string heading =
        to_text("segment ", segment, " · ", language_of(segment), " · ", end - begin, " tokens · ");
    heading += batch_.group_ids.empty()
                   ? to_text(supervised, " supervised")
                   : to_text("example ", batch_.group_ids[static_cast<std::size_t>(segment)]);
    paint(kBold, heading);
    out_ += "\n";
    if (options_.in_place)
      render_in_place(begin, end, ids, labels);
    else
      render_shifted(begin, end, ids, labels);
    if (out_.back() == ' ') out_.pop_back();
    out_ += "\n";
  }

  void render_in_place(std::int32_t begin, std::int32_t end, const std::int64_t* ids,
                       const std::int64_t* labels) {
    for (std::int32_t i = begin; i < end; ++i) {
      if (labels[i] == kIgnoreIndex)
        paint(kGrey, piece_of(ids[i]));
      else if (labels[i] == ids[i])
        paint(kGreen, "[" + piece_of(ids[i]) + "]");
      else
        paint(kGreen, "[" + piece_of(ids[i]) + "->" + piece_of(labels[i]) + "]");
      out_ += " ";
    }
  }

  void render_shifted(std::int32_t begin, std::int32_t end, const std::int64_t* ids,
                      const std::int64_t* labels) {
    for (std::int32_t i = begin; i < end; ++i) {
      const bool learnt = i > begin && labels[i - 1] != kIgnoreIndex;
      if (learnt && labels[i - 1] != ids[i]) {  // labels of another text: say so rather than hide it
        paint(kGreen, "[->" + piece_of(labels[i - 1]) + "]");
        paint(kGrey, piece_of(ids[i]));
      } else if (learnt) {
        paint(kGreen, "[" + piece_of(ids[i]) + "]");
      } else {
        paint(kGrey, piece_of(ids[i]));
      }
      out_ += " ";
    }
    if (labels[end - 1] != kIgnoreIndex) paint(kGreen, "[->" + piece_of(labels[end - 1]) + "]");
  }

  std::string language_of(std::int64_t segment) const {
    if (batch_.language_ids.empty()) return "unknown language";
    const auto id = static_cast<std::size_t>(batch_.language_ids[static_cast<std::size_t>(segment)]);
    return id < languages_.size() && !languages_[id].empty() ? shown(languages_[id]) : "unknown language";
  }

  std::string piece_of(std::int64_t id) const {
    // Ids of cloned languages and of padded rows are no pieces.
    std::string piece = id >= 0 && id < tokenizer_.vocab_size()
                            ? shown(tokenizer_.id_to_piece(static_cast<text::TokenId>(id)))
                            : to_text("<id ", id, ">");
    return options_.ids ? to_text(piece, "(", id, ")") : piece;
  }

  void paint(const char* color, const std::string& text) {
    out_ += options_.color ? to_text(color, text, kReset) : text;
  }

  const Batch& batch_;
  const text::Tokenizer& tokenizer_;
  const std::vector<std::string>& languages_;
  const InspectOptions& options_;
  std::string out_;
};

}  // namespace

std::string render_batch(const Batch& batch, const text::Tokenizer& tokenizer,
                         const std::vector<std::string>& languages, const InspectOptions& options) {
  return Renderer(batch, tokenizer, languages, options).render();
}

}  // namespace bitrain::data
