#include <bitrain/io/json_difference.h>

#include <algorithm>

namespace bitrain::io {

std::vector<JsonDifference> differences(const Json& was, const Json& is) {
  const Json before = was.flatten();
  const Json after = is.flatten();
  std::vector<JsonDifference> all;
  const auto add = [&](const std::string& pointer, const std::string& old, const std::string& now) {
    std::string name = pointer.substr(std::min<std::size_t>(pointer.size(), 1));
    std::replace(name.begin(), name.end(), '/', '.');
    all.push_back({name, old, now});
  };
  for (const auto& [pointer, value] : before.items()) {
    const auto now = after.find(pointer);
    if (now == after.end())
      add(pointer, value.dump(), "not set");
    else if (*now != value)
      add(pointer, value.dump(), now->dump());
  }
  for (const auto& [pointer, value] : after.items())
    if (!before.contains(pointer)) add(pointer, "not set", value.dump());
  return all;
}

std::string describe(const std::vector<JsonDifference>& all, std::size_t most) {
  std::string text;
  for (std::size_t i = 0; i < std::min(most, all.size()); ++i)
    text += (i > 0 ? ", " : "") + all[i].name + " (was " + all[i].was + ", is " + all[i].is + ")";
  if (all.size() > most) text += " and " + std::to_string(all.size() - most) + " more";
  return text;
}

}  // namespace bitrain::io
