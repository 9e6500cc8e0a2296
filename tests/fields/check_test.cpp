#include <bitrain/fields/check.h>

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

namespace bitrain::fields {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Inner {
  double share = 0.5;
};
template <class Visitor>
void visit_fields(Visitor& v, Inner& o) {
  v.field("share", o.share, in_range(0.25, 1), "Share.");
}

struct Outer {
  std::int64_t pieces = 8;
  double rate = 0.1;
  std::string type = "bpe";
  std::string path = "x";
  Inner inner;
};
template <class Visitor>
void visit_fields(Visitor& v, Outer& o) {
  v.field("pieces", o.pieces, at_least(8), "Pieces.");
  v.field("rate", o.rate, above(0), "Rate.");
  v.field("type", o.type, one_of({"bpe", "unigram"}), "Type.");
  v.field("path", o.path, not_empty(), "Path.");
  v.field("inner", o.inner, any(), "Inner.");
}

TEST(Rules, WholeNumbersBeyondAllCountingAreRefusedByTheNearestBound) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(broken_bounds(in_range(1, 10), kMost), "must be at least 1 and at most 10");
  EXPECT_EQ(broken_bounds(at_least(1), kMost), "must be at most 9007199254740992");
  EXPECT_EQ(broken_bounds(any(), -kMost), "must be at least -9007199254740992");
  EXPECT_EQ(broken_bounds(any(), std::int64_t{1} << 53), "");
}

TEST(Rules, WhatKeepsThemPasses) {
  EXPECT_NO_THROW(check_fields(Outer{}));
}

TEST(Rules, TheFirstBrokenOneIsNamed) {
  const auto refused = [](void (*change)(Outer&), const char* message) {
    EXPECT_THAT(
        [&] {
          Outer options;
          change(options);
          check_fields(options);
        },
        ThrowsMessage<ConfigError>(HasSubstr(message)));
  };
  refused([](Outer& o) { o.pieces = 7; }, "pieces must be at least 8, not 7");
  refused([](Outer& o) { o.rate = 0; }, "rate must be above 0, not 0");
  refused([](Outer& o) { o.rate = std::nan(""); }, "rate must be a finite number, not nan");
  refused([](Outer& o) { o.type = "pbe"; },
          "type: 'pbe' is none of bpe, unigram (did you mean 'bpe'?)");
  refused([](Outer& o) { o.path = ""; }, "path must not be empty");
  refused([](Outer& o) { o.inner.share = 1.5; }, "share must be at least 0.25 and at most 1, not 1.5");
}

}  // namespace
}  // namespace bitrain::fields
