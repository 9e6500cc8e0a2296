#include <bitrain/io/home.h>

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

#include <bitrain/base/error.h>

namespace bitrain::io {

std::string expand_home(const std::string& path) {
  if (path.empty() || path.front() != '~') return path;
  const std::size_t slash = path.find('/');
  const std::string name = path.substr(1, slash == std::string::npos ? slash : slash - 1);
  const std::string rest = slash == std::string::npos ? "" : path.substr(slash);
  if (name.empty())
    if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') return home + rest;
  const passwd* user = name.empty() ? ::getpwuid(::getuid()) : ::getpwnam(name.c_str());
  if (user == nullptr || user->pw_dir == nullptr || *user->pw_dir == '\0')
    throw ConfigError("'", path, "': ",
                      name.empty() ? "there is no home folder: set HOME, or write the whole path"
                                   : "there is no user '" + name + "'; write ./" + path +
                                         " for a file or folder of that name");
  return user->pw_dir + rest;
}

}  // namespace bitrain::io
