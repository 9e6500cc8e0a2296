#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <bitrain/kernels/nf4.h>

namespace bitrain::kernels {
namespace {

struct Quantised {
  std::int64_t bad = -1;
  std::vector<std::uint8_t> codes;
  std::vector<float> absmax;
  bool operator==(const Quantised&) const = default;
};

Quantised quantise(const FourBitKernels& kernels, FourBitType type, FloatType x_type, const void* x,
                   std::int64_t n, std::int64_t block_size) {
  Quantised result;
  result.codes.resize(static_cast<std::size_t>((n + 1) / 2));
  result.absmax.resize(static_cast<std::size_t>((n + block_size - 1) / block_size));
  result.bad = kernels.quantize(type, x_type, x, n, block_size, result.codes.data(), result.absmax.data());
  return result;
}

std::vector<float> random_values(std::int64_t n, unsigned seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(generator);
  return values;
}

// Random 16-bit patterns with finite values.
std::vector<std::uint16_t> random_halves(std::int64_t n, unsigned seed, std::uint16_t infinity) {
  std::mt19937 generator(seed);
  std::vector<std::uint16_t> values(static_cast<std::size_t>(n));
  for (std::uint16_t& value : values) {
    do value = static_cast<std::uint16_t>(generator());
    while ((value & infinity) == infinity);
  }
  return values;
}

std::vector<const FourBitKernels*> all_tables() {
  std::vector<const FourBitKernels*> tables;
  for (const char* isa : {"generic", "avx2", "avx512"})
    if (const FourBitKernels* table = four_bit_kernels_for(isa)) tables.push_back(table);
  return tables;
}

constexpr FourBitType kTypes[] = {FourBitType::kNf4, FourBitType::kFp4};
constexpr FloatType kFloats[] = {FloatType::kFloat32, FloatType::kBFloat16, FloatType::kFloat16};
constexpr std::int64_t kSizes[] = {1, 2, 31, 32, 33, 63, 64, 65, 100, 127, 129, 4096, 4097, 40000, 70001};

TEST(FourBitCodebook, HasThePublishedThresholds) {
  // The constants of the CUDA source of bitsandbytes; four of them are one step off the fp32 midpoints, which
  // its CPU back end and this library use.
  const float published[15] = {-0.8480964004993439F,   -0.6106329262256622F,  -0.4599952697753906F,
                               -0.33967943489551544F,  -0.23460740596055984F, -0.13791173323988914F,
                               -0.045525018125772476F, 0.03979014977812767F,  0.1202552504837513F,
                               0.2035212516784668F,    0.2920137718319893F,   0.3893125355243683F,
                               0.5016634166240692F,    0.6427869200706482F,   0.8614784181118011F};
  const FourBitCodebook& book = four_bit_codebook(FourBitType::kNf4);
  for (int i = 0; i < 15; ++i) {
    EXPECT_FLOAT_EQ(book.thresholds[i], published[i]) << i;
    EXPECT_EQ(book.thresholds[i], (book.values[i] + book.values[i + 1]) / 2);
  }
  for (int i = 0; i < 16; ++i) EXPECT_EQ(book.order[i], i);
  EXPECT_EQ(book.values[7], 0.0F);
}

TEST(FourBitCodebook, OrdersFp4ByValue) {
  const FourBitCodebook& book = four_bit_codebook(FourBitType::kFp4);
  std::set<int> seen;
  for (int i = 0; i < 16; ++i) seen.insert(book.order[i]);
  EXPECT_EQ(seen.size(), 16U);
  for (int i = 1; i < 16; ++i) EXPECT_LE(book.values[book.order[i - 1]], book.values[book.order[i]]);
}

TEST(DynamicMap, IsSortedWithZeroAndOne) {
  const float* map = dynamic_map();
  for (int i = 1; i < 256; ++i) EXPECT_LT(map[i - 1], map[i]);
  EXPECT_EQ(map[127], 0.0F);
  EXPECT_EQ(map[255], 1.0F);
  EXPECT_EQ(map[0], -0.99296875F);
  for (int i = 1; i < 65536; ++i) EXPECT_LE(dynamic_map_bins()[i - 1], dynamic_map_bins()[i]);
}

TEST(FourBitKernels, ThisMachinesTableIsTheBestThatExists) {
  EXPECT_STREQ(four_bit_kernels().isa, all_tables().back()->isa);
  EXPECT_EQ(four_bit_kernels_for("sse9"), nullptr);
}

TEST(FourBitKernels, AllTablesQuantiseToTheSameBytes) {
  for (const FourBitKernels* table : all_tables()) {
    SCOPED_TRACE(table->isa);
    const FourBitKernels& generic = *four_bit_kernels_for("generic");
    for (const FourBitType type : kTypes) {
      for (const std::int64_t n : kSizes) {
        for (const std::int64_t block_size : {32, 64, 4096}) {
          const auto check = [&](FloatType x_type, const void* x) {
            EXPECT_EQ(quantise(*table, type, x_type, x, n, block_size),
                      quantise(generic, type, x_type, x, n, block_size))
                << n << " in blocks of " << block_size << ", float type " << static_cast<int>(x_type);
          };
          const auto seed = static_cast<unsigned>(n);
          for (const float scale : {1.0F, 1e-39F, 1e37F}) {
            const std::vector<float> x = random_values(n, seed, scale);
            check(FloatType::kFloat32, x.data());
          }
          const auto brains = random_halves(n, seed, 0x7f80);
          check(FloatType::kBFloat16, brains.data());
          const auto halves = random_halves(n, seed, 0x7c00);
          check(FloatType::kFloat16, halves.data());
        }
      }
    }
  }
}

TEST(FourBitKernels, AllTablesDecodeToTheSameBytes) {
  const FourBitKernels& generic = *four_bit_kernels_for("generic");
  std::mt19937 generator(5);
  for (const FourBitKernels* table : all_tables()) {
    SCOPED_TRACE(table->isa);
    for (const std::int64_t n : kSizes) {
      const std::int64_t blocks = (n + 63) / 64;
      std::vector<std::uint8_t> codes(static_cast<std::size_t>((n + 1) / 2));
      for (auto& code : codes) code = static_cast<std::uint8_t>(generator());
      std::vector<float> absmax(static_cast<std::size_t>(blocks));
      for (float& value : absmax) value = std::ldexp(1.2345F, static_cast<int>(generator() % 270) - 148);
      std::vector<std::uint8_t> absmax_codes(absmax.size());
      for (auto& code : absmax_codes) code = static_cast<std::uint8_t>(generator());
      const std::vector<float> nested(static_cast<std::size_t>((blocks + 255) / 256), 0.7F);
      const BlockScales plain{absmax.data(), nullptr, nullptr, 0};
      const BlockScales doubled{nullptr, absmax_codes.data(), nested.data(), 1.3F};
      for (const FourBitType type : kTypes) {
        for (const FloatType y_type : kFloats) {
          for (const BlockScales& scales : {plain, doubled}) {
            const std::size_t bytes = static_cast<std::size_t>(n) * (y_type == FloatType::kFloat32 ? 4 : 2);
            // One byte more, to see that nothing is written past the end.
            std::vector<std::uint8_t> y(bytes + 1, 0xab);
            std::vector<std::uint8_t> expected(bytes + 1, 0xab);
            table->dequantize(type, codes.data(), scales, n, 64, y_type, y.data());
            generic.dequantize(type, codes.data(), scales, n, 64, y_type, expected.data());
            EXPECT_EQ(y, expected) << n << ", float type " << static_cast<int>(y_type);
          }
        }
      }
    }
  }
}

TEST(FourBitKernels, EveryValueGoesToTheNearestCode) {
  for (const FourBitKernels* table : all_tables()) {
    for (const FourBitType type : kTypes) {
      const float* values = four_bit_codebook(type).values;
      std::vector<float> x = random_values(6400, 3);
      const Quantised q = quantise(*table, type, FloatType::kFloat32, x.data(), 6400, 64);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const float scaled = x[i] / q.absmax[i / 64];
        const int code = i % 2 == 0 ? q.codes[i / 2] >> 4 : q.codes[i / 2] & 15;
        float nearest = 2;
        for (int k = 0; k < 16; ++k) nearest = std::min(nearest, std::abs(values[k] - scaled));
        EXPECT_NEAR(std::abs(values[code] - scaled), nearest, 1e-6F);
      }
    }
  }
}

TEST(FourBitKernels, ErrorIsThePublishedOne) {
  // bitsandbytes' own test table: mean absolute error 0.0728 for normal weights in blocks of 64.
  const std::int64_t n = 1 << 18;
  const std::vector<float> x = random_values(n, 9);
  const Quantised q = quantise(four_bit_kernels(), FourBitType::kNf4, FloatType::kFloat32, x.data(), n, 64);
  std::vector<float> y(x.size());
  four_bit_kernels().dequantize(FourBitType::kNf4, q.codes.data(), {q.absmax.data(), nullptr, nullptr, 0}, n,
                                64, FloatType::kFloat32, y.data());
  double error = 0;
  for (std::size_t i = 0; i < x.size(); ++i) error += std::abs(x[i] - y[i]);
  EXPECT_NEAR(error / static_cast<double>(n), 0.0728, 0.0005);
}

TEST(FourBitKernels, NameTheFirstBlockThatIsNotFinite) {
  for (const FourBitKernels* table : all_tables()) {
    for (const float poison :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
          -std::numeric_limits<float>::infinity()}) {
      for (const std::int64_t n : {320, 50000, 50001}) {
        std::vector<float> x = random_values(n, 1);
        x[200] = poison;
        x[static_cast<std::size_t>(n) - 1] = poison;
        EXPECT_EQ(quantise(*table, FourBitType::kNf4, FloatType::kFloat32, x.data(), n, 64).bad, 3);
        x[200] = 0;
        EXPECT_EQ(quantise(*table, FourBitType::kNf4, FloatType::kFloat32, x.data(), n, 64).bad,
                  (n - 1) / 64);
      }
    }
    const std::vector<std::uint16_t> halves(64, 0x7c00);
    EXPECT_EQ(quantise(*table, FourBitType::kNf4, FloatType::kFloat16, halves.data(), 64, 64).bad, 0);
    const std::vector<std::uint16_t> brains(40, 0x7fc0);
    EXPECT_EQ(quantise(*table, FourBitType::kNf4, FloatType::kBFloat16, brains.data(), 40, 64).bad, 0);
  }
}

TEST(FourBitKernels, AllTablesQuantiseStatisticsToTheSameBytes) {
  const FourBitKernels& generic = *four_bit_kernels_for("generic");
  for (const FourBitKernels* table : all_tables()) {
    for (const std::int64_t n : {1, 255, 256, 257, 5000, 40000}) {
      std::vector<float> absmax = random_values(n, 4);
      for (float& value : absmax) value = std::abs(value);
      for (std::size_t i = 0; i < absmax.size() && i < 256; ++i) absmax[i] = 0.75F;  // A constant block.
      const auto run = [&](const FourBitKernels& kernels) {
        std::vector<std::uint8_t> codes(absmax.size());
        std::vector<float> nested(static_cast<std::size_t>((n + 255) / 256));
        kernels.quantize_absmax(absmax.data(), n, 0.75F, codes.data(), nested.data());
        std::vector<float> restored(absmax.size());
        kernels.restore_absmax({nullptr, codes.data(), nested.data(), 0.75F}, n, restored.data());
        return std::make_tuple(codes, nested, restored);
      };
      EXPECT_EQ(run(*table), run(generic));
      const auto [codes, nested, restored] = run(*table);
      EXPECT_EQ(codes[0], 0);  // A constant block has only zeros after centring.
      for (std::size_t i = 0; i < absmax.size(); ++i)
        EXPECT_NEAR(restored[i], absmax[i], nested[i / 256] * 0.012F);
    }
  }
}

}  // namespace
}  // namespace bitrain::kernels
