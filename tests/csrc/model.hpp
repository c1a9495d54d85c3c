// What the tests of kernels share: random numbers, and the definition of kernels.hpp written once more, plainly.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "program.hpp"

namespace oaq::test {

// The same numbers everywhere; distributions of the standard library differ between platforms.
class Random {
public:
    explicit Random(std::uint64_t seed) : bits_(seed) {}

    int between(std::int64_t low, std::int64_t high) {
        const auto span = static_cast<std::uint64_t>(high - low + 1);
        return static_cast<int>(low + static_cast<std::int64_t>(bits_() % span));
    }
    bool one_in(int n) { return between(1, n) == 1; }
    template <typename T>
    T of(std::initializer_list<T> values) { return values.begin()[between(0, static_cast<int>(values.size()) - 1)]; }

private:
    std::mt19937_64 bits_;
};

// Ends the program with status 1 unless both are the same; `what` says which case.
template <typename... Args>
void expect_same(int found, int expected, const char* what, Args... args) {
    if (found == expected) return;
    std::printf("different: found %d, expected %d; ", found, expected);
    std::printf(what, args...);
    std::printf("\n");
    std::exit(1);
}

struct Product {
    int code, weight;  // the code with the offset taken off
    std::int64_t value() const { return std::int64_t{code} * weight; }
};

// Lowest `bits` bits, sign-extended.
std::int64_t wrapped(std::int64_t value, int bits);

// One half sum's worth of products, two by two, in one 16-bit register.
std::int64_t half_sum(const std::vector<Product>& products, bool saturates);

// Products that add up to `target` exactly, codes within [lowest, highest]; returns false where none were found.
bool products_of_sum(Random& random, std::int64_t target, int lowest, int highest, std::vector<Product>& products);

// The code of an accumulator's value; narrow: of 16-bit accumulation.
int code_of(std::int64_t acc, bool narrow, const OutputConstants& constants, int channel);
int rounded_code(double value, int zero_point, int q_max);  // half to even, clamped
// product / 2^shift, half up, clamped.
int divided_code(std::int64_t product, int shift, int zero_point, int q_max);
// By the multiplier at `i` of sums of 32 bits.
int code_by(const Multipliers& multipliers, int i, std::int64_t sum, int zero_point, int q_max);

// Weights of a dense panel by code and channel, and as kernels.hpp packs them.
struct DenseWeights {
    int width = kPanel;                // channels
    std::vector<Run> runs;
    std::vector<std::int8_t> weights;  // [steps][width][4]
    int steps = 0;

    void add_run(int offset, int length);  // weights of zero
    std::int8_t& weight(int step, int channel, int k) {
        return weights[static_cast<std::size_t>((step * width + channel) * kStep + k)];
    }
    std::vector<std::int8_t> packed(const Route& route);
};

// A multiplier below 2^bits, from 0 on, and a shift from `least` to `most`. Half of them make codes of values of so many bits.
struct Fraction {
    std::int32_t multiplier;
    int shift;

    Fraction(Random& random, int bits, int least, int most, int value_bits);
};

// Constants of `count` channels.
struct Constants {
    std::vector<std::int32_t> start, bias, integer, shift;
    std::vector<float> real;
    OutputConstants output;

    Constants(Random& random, int count, int wrap_shift);
    // Constants that show the lowest bits of channel c's accumulator, whose value is `acc`.
    void show(Random& random, int c, bool narrow, std::int64_t acc);
    MultiplierArrays multipliers() const;
    const char* name() const { return kRequantizationNames[static_cast<int>(output.multipliers.kind)]; }
};

void test_layers(Random& random, const KernelSet& set);  // test_layers.cpp
void test_plans(Random& random);                         // test_plan.cpp

}  // namespace oaq::test
