#include <bitrain/recipe/document.h>

#include <algorithm>
#include <sstream>
#include <unordered_set>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <bitrain/base/error.h>
#include <bitrain/base/printable.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/byte_reader.h>
#include <bitrain/io/file.h>

namespace bitrain::recipe {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::int64_t kMaxNodes = 200'000;  ///< Aliases of aliases would grow without end.
constexpr std::size_t kMaxBytes = std::size_t{4} << 20;

[[noreturn]] void refuse_size(const Mark& mark) {
  throw ConfigError(mark.text(), ": more than ", kMaxNodes, " values (do aliases repeat one another?)");
}

class Converter {
 public:
  explicit Converter(const std::string& name) : name_(name) {}

  Node convert(const YAML::Node& yaml, int depth) {
    Node node;
    node.mark = mark_of(yaml);
    if (depth > kMaxDepth) throw ConfigError(node.mark.text(), ": nested deeper than ", kMaxDepth);
    if (++nodes_ > kMaxNodes) refuse_size(node.mark);
    switch (yaml.Type()) {
      case YAML::NodeType::Scalar: scalar(yaml, node); break;
      case YAML::NodeType::Sequence:
        node.kind = Node::Kind::kList;
        for (const YAML::Node& item : yaml) node.items.push_back(convert(item, depth + 1));
        break;
      case YAML::NodeType::Map: map(yaml, node, depth); break;
      default: break;
    }
    return node;
  }

 private:
  [[nodiscard]] Mark mark_of(const YAML::Node& yaml) const {
    const YAML::Mark mark = yaml.Mark();
    return {name_, mark.line + 1, mark.column + 1};
  }

  static void scalar(const YAML::Node& yaml, Node& node) {
    const std::string& text = yaml.Scalar();
    if (find_invalid_utf8(text) != std::string::npos) throw ConfigError(node.mark.text(), ": not UTF-8");
    const bool plain = yaml.Tag() != "!";  // yaml-cpp's tag of a quoted scalar.
    if (plain && (text.empty() || text == "~" || text == "null")) return;
    node.kind = Node::Kind::kScalar;
    node.scalar = text;
  }

  void map(const YAML::Node& yaml, Node& node, int depth) {
    node.kind = Node::Kind::kMap;
    std::unordered_set<std::string> keys;
    for (const auto& pair : yaml) {
      if (!pair.first.IsScalar())
        throw ConfigError(mark_of(pair.first).text(), ": a key must be a plain word");
      const std::string& key = pair.first.Scalar();
      if (!keys.insert(key).second)
        throw ConfigError(mark_of(pair.first).text(), ": ", key, ": this key is there already");
      Node value = convert(pair.second, depth + 1);
      // An error about a value is best shown where its key is.
      value.mark = mark_of(pair.first);
      node.members.push_back({key, std::move(value)});
    }
  }

  const std::string& name_;
  std::int64_t nodes_ = 0;
};

/// A bad key or bracket inside a short text blows the parser's stack: look before parsing.
void check_nesting(const std::string& text, const std::string& name) {
  int depth = 0;
  int deepest = 0;
  for (const char c : text) {
    if (c == '[' || c == '{') deepest = std::max(deepest, ++depth);
    if (c == ']' || c == '}') --depth;
  }
  // Brackets inside strings count too; nobody writes so many.
  if (deepest > 4 * kMaxDepth) throw ConfigError(name, ": nested deeper than ", kMaxDepth);
  // Block nesting needs growing indentation: "- - - - x" or deeper and deeper lines.
  int dashes = 0;
  for (std::size_t i = 0; i + 1 < text.size(); ++i) {
    if (text[i] == '\n') dashes = 0;
    if ((text[i] == '-' || text[i] == '?' || text[i] == ':') && (text[i + 1] == ' ' || text[i + 1] == '\t'))
      if (++dashes > 4 * kMaxDepth) throw ConfigError(name, ": nested deeper than ", kMaxDepth);
  }
}

/// YAML is text: yaml-cpp never comes back from some documents with NUL bytes.
void check_characters(const std::string& text, const std::string& name) {
  const std::size_t broken = find_invalid_utf8(text);
  int line = 1;
  int column = 1;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const auto byte = static_cast<unsigned char>(c);
    if (i == broken)
      throw ConfigError(Mark{name, line, column}.text(), ": not UTF-8: save the recipe as UTF-8");
    if ((byte < 0x20 && c != '\n' && c != '\r' && c != '\t') || byte == 0x7F)
      throw ConfigError(Mark{name, line, column}.text(), ": a control character (code ",
                        static_cast<int>(byte), "): a recipe is plain text");
    column = c == '\n' ? 1 : column + 1;
    line += c == '\n' ? 1 : 0;
  }
}

/// Counts the values of a document before it is built, which takes long and much memory.
class Count : public YAML::EventHandler {
 public:
  explicit Count(const std::string& name) : name_(name) {}
  void OnDocumentStart(const YAML::Mark& /*mark*/) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override { add(mark); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override { add(mark); }
  void OnScalar(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t /*anchor*/,
                const std::string& /*value*/) override {
    add(mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t /*anchor*/,
                       YAML::EmitterStyle::value /*style*/) override {
    add(mark);
  }
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t /*anchor*/,
                  YAML::EmitterStyle::value /*style*/) override {
    add(mark);
  }
  void OnMapEnd() override {}

 private:
  // Keys are events too.
  void add(const YAML::Mark& mark) {
    if (++events_ > 2 * kMaxNodes) refuse_size({name_, mark.line + 1, mark.column + 1});
  }

  const std::string& name_;
  std::int64_t events_ = 0;
};

/// Shows `visit` every part of `key` ("train.max_steps", "files[2].path") that is there; what stands at its
/// end, or null.
template <class Visit>
const Node* walk(const Node& root, const std::string& key, const Visit& visit) {
  const Node* node = &root;
  for (const std::string& part : split(key, '.')) {
    const std::size_t bracket = part.find('[');
    node = node->find(part.substr(0, bracket));
    if (node == nullptr) return nullptr;
    visit(*node);
    if (bracket == std::string::npos) continue;
    const auto item = static_cast<std::size_t>(std::stoul(part.substr(bracket + 1)));
    if (item >= node->items.size()) return nullptr;
    node = &node->items[item];
    visit(*node);
  }
  return node;
}

}  // namespace

std::string Mark::text() const {
  if (line == 0) return file;
  return file + ":" + std::to_string(line) + ":" + std::to_string(column);
}

const Node* Node::find(std::string_view key) const {
  for (const auto& [name, value] : members)
    if (name == key) return &value;
  return nullptr;
}

Node* Node::find(std::string_view key) {
  for (auto& [name, value] : members)
    if (name == key) return &value;
  return nullptr;
}

std::string Node::describe() const {
  switch (kind) {
    case Kind::kNull: return "nothing";
    case Kind::kList: return "a list";
    case Kind::kMap: return "a map";
    default: return "'" + (scalar.size() > 60 ? scalar.substr(0, 60) + "..." : scalar) + "'";
  }
}

std::string Problem::text() const {
  constexpr std::size_t kLongestKey = 200;
  constexpr std::size_t kLongestText = 1000;
  return mark.text() + ": " + (key.empty() ? "" : shortened(key, kLongestKey) + ": ") +
         shortened(what, kLongestText);
}

bool Problems::mentions(const std::string& key) const {
  return std::any_of(list_.begin(), list_.end(), [&](const Problem& problem) {
    return starts_with(problem.key, key) &&
           (problem.key.size() == key.size() || problem.key[key.size()] == '.' ||
            problem.key[key.size()] == '[');
  });
}

std::string Problems::text() const {
  std::string message = list_.size() == 1 ? "" : std::to_string(list_.size()) + " problems:";
  for (std::size_t i = 0; i < std::min(list_.size(), kMostShown); ++i)
    message += (list_.size() == 1 ? "" : "\n  ") + list_[i].text();
  if (list_.size() > kMostShown) message += to_text("\n  and ", list_.size() - kMostShown, " more");
  return message;
}

void Problems::raise() const {
  if (!list_.empty()) throw ConfigError(text());
}

Node parse_yaml(const std::string& text, const std::string& name) {
  if (text.size() > kMaxBytes)
    throw ConfigError(name, ": a recipe of ", human_bytes(text.size()), "; the most is ",
                      human_bytes(kMaxBytes));
  check_characters(text, name);
  check_nesting(text, name);
  try {
    // Not LoadAll: it never comes back from some damaged documents.
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    Count events(name);
    if (!parser.HandleNextDocument(events)) return {};
    if (parser) throw ConfigError(name, ": more than one YAML document, or text after its end");
    return Converter(name).convert(YAML::Load(text), 0);
  } catch (const YAML::Exception& error) {
    throw ConfigError(Mark{name, error.mark.line + 1, error.mark.column + 1}.text(), ": ", error.msg);
  }
}

namespace {

/// All of a file, or of a pipe such as a shell's <(...), which is waited for.
std::string file_or_pipe(const std::filesystem::path& path) {
  if (io::kind_of(path) != io::PathKind::kPipe) return io::read_file(path);
  io::ByteReader pipe(path);
  std::string text;
  char buffer[1 << 16];
  while (const std::size_t got = pipe.read(buffer, sizeof buffer)) {
    text.append(buffer, got);
    if (text.size() > kMaxBytes) break;  // The parser says so.
  }
  if (text.empty())
    throw IoError(
        "cannot read ", path.string(),
        ": it is an empty pipe, and only the first that reads one gets what is in it; write it to a "
        "file and name that");
  return text;
}

}  // namespace

Node load_yaml(const std::filesystem::path& path) {
  return parse_yaml(file_or_pipe(path), path.string());
}

Mark mark_of(const Node& root, const std::string& key) {
  Mark mark = root.mark;
  (void)walk(root, key, [&](const Node& node) { mark = node.mark; });
  return mark;
}

const Node* find(const Node& root, const std::string& key) {
  return walk(root, key, [](const Node&) {});
}

namespace {

/// The value of an override. Only what begins as YAML's lists, maps and quoted texts do is YAML; all else is
/// a text as it was typed: the shell has removed what the shell understands, and " #2" or "&" in a name mean
/// nothing more.
Node override_value(const std::string& typed, const Mark& mark) {
  const std::string text(trim(typed));
  if (!text.empty() && std::string_view("[{\"'").find(text.front()) != std::string_view::npos)
    return parse_yaml(text, mark.file);
  check_characters(text, mark.file);
  Node node;
  if (text.empty() || text == "~" || text == "null") return node;
  node.kind = Node::Kind::kScalar;
  node.scalar = text;
  return node;
}

}  // namespace

void apply_override(Node& root, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    throw ConfigError("'", assignment, "' is no override: write key=value, for example train.max_steps=100");
  const std::string path = assignment.substr(0, equals);
  const Mark mark{"on the command line", 0, 0};
  Node* node = &root;
  for (const std::string& key : split(path, '.')) {
    if (key.empty()) throw ConfigError("'", assignment, "': an empty key");
    if (node->kind == Node::Kind::kNull) node->kind = Node::Kind::kMap;
    if (node->kind != Node::Kind::kMap)
      throw ConfigError("'", assignment, "': ", node->describe(), " stands where '", key, "' should be");
    Node* child = node->find(key);
    if (child == nullptr) {
      node->members.push_back({key, Node{Node::Kind::kNull, mark, {}, {}, {}}});
      child = &node->members.back().value;
    }
    node = child;
  }
  *node = override_value(assignment.substr(equals + 1), mark);
  node->mark = mark;
}

}  // namespace bitrain::recipe
