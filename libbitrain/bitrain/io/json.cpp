#include <bitrain/io/json.h>

#include <unordered_set>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>

namespace bitrain::io {
namespace {

/// Builds the document like nlohmann's own handler, but refuses what that lets pass: double keys, deep
/// nesting.
class StrictHandler : public nlohmann::json_sax<Json> {
 public:
  StrictHandler(Json& root, const std::string& name)
      : root_(root), place_(name.empty() ? std::string() : name + ": ") {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t& value) override { return add(Json::binary(std::move(value))); }

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool key(string_t& value) override {
    if (!open_.back().keys.insert(value).second)
      throw FormatError(place_, "the key '", value, "' occurs twice in one object");
    key_ = std::move(value);
    return true;
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 8: <what>".
    std::string what = error.what();
    const std::size_t column = what.find("column");
    const std::size_t colon = column == std::string::npos ? column : what.find(": ", column);
    if (colon != std::string::npos) what = what.substr(colon + 2);
    if (what.size() > 200) what = what.substr(0, 200) + "...";
    const bool pythonic = ends_with(token, "N") || ends_with(token, "I");
    throw FormatError(place_, "not valid JSON at byte ", position, ": ", what,
                      pythonic ? "; JSON has no NaN, Infinity or None: write null" : "");
  }

 private:
  struct Open {
    Json* value;
    std::unordered_set<std::string> keys;
  };

  template <class Value>
  Json* place(Value&& value) {
    if (open_.empty()) {
      root_ = std::forward<Value>(value);
      return &root_;
    }
    Json& parent = *open_.back().value;
    if (parent.is_array()) {
      parent.push_back(std::forward<Value>(value));
      return &parent.back();
    }
    // Not parent[key]: an ordered object searches all its keys there, and this one is known to be new.
    auto& members = parent.get_ref<Json::object_t&>();
    members.Container::emplace_back(std::move(key_), std::forward<Value>(value));
    return &members.back().second;
  }

  template <class Value>
  bool add(Value&& value) {
    place(std::forward<Value>(value));
    return true;
  }

  bool open(Json value) {
    if (open_.size() == kMaxJsonDepth) throw FormatError(place_, "JSON nested deeper than ", kMaxJsonDepth);
    Json* placed = place(std::move(value));
    open_.push_back({placed, {}});
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  Json& root_;
  std::string place_;
  std::vector<Open> open_;
  std::string key_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& name) {
  Json root;
  StrictHandler handler(root, name);
  Json::sax_parse(text.begin(), text.end(), &handler);
  return root;
}

Json read_json(const std::filesystem::path& path) {
  return parse_json(read_file(path), path.string());
}

void write_json(const std::filesystem::path& path, const Json& value) {
  write_file_atomic(path, value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace bitrain::io
