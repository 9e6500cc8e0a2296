#include <bitrain/nn/module.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/ones.h>

#include <bitrain/nn/embedding.h>
#include <bitrain/nn/linear.h>

namespace bitrain::nn {
namespace {

using ::testing::ElementsAre;

class Block : public Module {
 public:
  Block() : up(2, 3, true), down(3, 2, false) {
    register_child("up", up);
    register_child("down", down);
    register_tensor("scale", scale);
    register_tensor("absent", absent);
  }
  Linear up;
  Linear down;
  at::Tensor scale = at::ones({2});
  at::Tensor absent;
};

class Root : public Module {
 public:
  Root() : table(5, 2) {
    register_child("table", table);
    register_child("block", block);
  }
  Embedding table;
  Block block;
};

TEST(Module, NamesFollowThePathAndTheOrderOfRegistration) {
  Root root;
  std::vector<std::string> names;
  root.visit_tensors([&](const std::string& name, at::Tensor&) { names.push_back(name); });
  EXPECT_THAT(names, ElementsAre("table.weight", "block.scale", "block.up.weight", "block.up.bias",
                                 "block.down.weight"));
  EXPECT_THAT(root.module_paths([](const Module&) { return true; }),
              ElementsAre("", "table", "block", "block.up", "block.down"));
  EXPECT_EQ(root.find("block.up"), &root.block.up);
  EXPECT_EQ(root.find(""), &root);
  EXPECT_EQ(root.find("block.u"), nullptr);
}

TEST(Module, VisitorsMayReplaceTensors) {
  Root root;
  root.visit_tensors([](const std::string&, at::Tensor& tensor) { tensor = tensor.to(at::kDouble); });
  EXPECT_EQ(root.block.up.weight.scalar_type(), at::kDouble);
  EXPECT_EQ(root.block.scale.scalar_type(), at::kDouble);
}

}  // namespace
}  // namespace bitrain::nn
