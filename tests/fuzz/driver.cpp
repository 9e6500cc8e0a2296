#include "driver.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <string_view>

namespace {

using bitrain::fuzz::fuzz_one;
using Random = std::mt19937_64;

/// Values at which bounds are got wrong.
constexpr std::uint64_t kEdges[] = {0,          1,          0x7F,       0x80,       0xFF,
                                    0x7FFF,     0xFFFF,     0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
                                    1ULL << 40, ~0ULL >> 1, ~0ULL};
constexpr std::string_view kTokens[] = {
    "{",    "}",     "[",      "]",   "\"",  ":",  ",",  "null", "-1",   "1e309", "\\u0000",
    "\xff", "\xc3",  "&a",     "*a",  "<<:", "- ", "\n", "\t",   "!!",   "true",  "99999999999999999999",
    "{{{{", "[[[[[", "0.0001", "NaN", "?",   "|",  "\\", "'",    "\r\n", "\0"};

std::size_t below(Random& random, std::size_t bound) {
  return bound == 0 ? 0 : random() % bound;
}

void mutate_once(std::string& input, const std::vector<std::string>& corpus, Random& random) {
  const std::size_t at = below(random, input.size() + 1);
  switch (random() % 9) {
    case 0:
      if (!input.empty()) input[below(random, input.size())] ^= static_cast<char>(1 << (random() % 8));
      break;
    case 1:
      if (!input.empty()) input[below(random, input.size())] = static_cast<char>(random());
      break;
    case 2:
      input.erase(std::min(at, input.size()), below(random, 1 + std::min<std::size_t>(input.size(), 64)));
      break;
    case 3: input.insert(at, std::string(kTokens[below(random, std::size(kTokens))])); break;
    case 4: {  // A number of 1, 2, 4 or 8 bytes at an edge.
      const std::uint64_t edge = kEdges[below(random, std::size(kEdges))];
      const std::size_t width = std::size_t{1} << (random() % 4);
      if (input.size() >= width)
        std::memcpy(input.data() + below(random, input.size() - width + 1), &edge, width);
      break;
    }
    case 5:
      input.resize(at);  // Truncation.
      break;
    case 6: {  // A piece again, somewhere else.
      const std::string piece = input.substr(at, below(random, 64));
      input.insert(below(random, input.size() + 1), piece);
      break;
    }
    case 7: {  // The front of this, the back of another.
      const std::string& other = corpus[below(random, corpus.size())];
      input = input.substr(0, at) + other.substr(below(random, other.size() + 1));
      break;
    }
    default: {  // Another number in a text.
      const std::size_t digit = input.find_first_of("0123456789", at);
      if (digit == std::string::npos) break;
      std::size_t end = digit;
      while (end < input.size() && input[end] >= '0' && input[end] <= '9') ++end;
      input.replace(digit, end - digit, std::to_string(kEdges[below(random, std::size(kEdges))]));
    }
  }
  constexpr std::size_t kMostBytes = std::size_t{1} << 16;
  if (input.size() > kMostBytes) input.resize(kMostBytes);
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 60;
  std::uint64_t seed = 1;
  std::string findings = ".";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--seconds" && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else if (argument == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--findings" && i + 1 < argc) {
      findings = argv[++i];
    } else if (argument[0] != '-') {  // Repeat a finding.
      std::ifstream file(argument, std::ios::binary);
      const std::string input((std::istreambuf_iterator<char>(file)), {});
      fuzz_one(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
      std::printf("%s: no finding\n", argument.c_str());
      return 0;
    } else {
      std::fprintf(stderr, "usage: %s [--seconds N] [--seed S] [--findings DIR] | FILE\n", argv[0]);
      return 2;
    }
  }

  // A sanitizer ends the process at once, so each input is on disk before it is tried.
  const std::string name = std::string(argv[0]).substr(std::string(argv[0]).rfind('/') + 1);
  const std::string path = findings + "/" + name + "-" + std::to_string(seed);
  std::vector<std::string> corpus = bitrain::fuzz::seeds();
  corpus.emplace_back();
  const std::size_t kept = corpus.size();
  for (const std::string& input : corpus)
    fuzz_one(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  Random random(seed);
  std::FILE* current = std::fopen(path.c_str(), "wb");
  if (current == nullptr) {
    std::fprintf(stderr, "cannot write %s\n", path.c_str());
    return 2;
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [&begin] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  std::uint64_t runs = 0;
  while (passed() < seconds) {
    std::string input = corpus[below(random, corpus.size())];
    for (std::size_t count = 1 + below(random, 6); count > 0; --count) mutate_once(input, corpus, random);
    const bool written =
        ftruncate(fileno(current), 0) == 0 &&
        pwrite(fileno(current), input.data(), input.size(), 0) == static_cast<ssize_t>(input.size());
    if (!written) {
      std::fprintf(stderr, "cannot write %s\n", path.c_str());
      return 2;
    }
    alarm(30);  // An input that never ends is a finding too: the signal ends the program, the input stays on
                // disk.
    fuzz_one(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
    ++runs;
    // A small share of the mutants joins the corpus, so that mutations add up.
    if (runs % 64 == 0) {
      if (corpus.size() < 256)
        corpus.push_back(std::move(input));
      else
        corpus[kept + below(random, corpus.size() - kept)] = std::move(input);
    }
  }
  alarm(0);
  std::fclose(current);
  std::remove(path.c_str());
  std::printf("%llu inputs in %.0f s, no finding\n", static_cast<unsigned long long>(runs), passed());
  return 0;
}
