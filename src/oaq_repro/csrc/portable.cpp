// Kernels in plain C++: what every other set has to equal bit for bit, wrap, saturation and spill included.
#include <algorithm>
#include <cmath>

#include "elementwise.hpp"
#include "kernels.hpp"
#include "requantize.hpp"

namespace oaq {
namespace {

std::int16_t wrap16(std::int32_t value) { return static_cast<std::int16_t>(static_cast<std::uint16_t>(value)); }

std::int16_t pair(int a0, int w0, int a1, int w1) {
    return static_cast<std::int16_t>(std::clamp(a0 * w0 + a1 * w1, -32768, 32767));
}

std::int32_t add_wrapping(std::int32_t a, std::int32_t b) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
}

struct Halves {
    std::int16_t low = 0, high = 0;

    void add(const std::uint8_t* codes, const std::int8_t* weights) {
        low = wrap16(low + pair(codes[0], weights[0], codes[1], weights[1]));
        high = wrap16(high + pair(codes[2], weights[2], codes[3], weights[3]));
    }
};

std::int32_t accumulate(const DenseBlock& block, const std::uint8_t* in, int channel, const Route& route) {
    const std::int8_t* weights = block.weights + channel * kStep;
    std::int32_t acc = block.constants.start[channel];
    Halves whole;
    for (int r = 0; r < block.run_count; ++r) {
        const std::uint8_t* codes = in + block.runs[r].offset;
        int left = block.runs[r].steps;
        while (left > 0) {
            const int steps = route.wraps() ? left : std::min(left, route.fold);
            Halves part;
            Halves& halves = route.wraps() ? whole : part;
            for (int s = 0; s < steps; ++s, codes += kStep, weights += kPanel * kStep) halves.add(codes, weights);
            if (!route.wraps()) acc = add_wrapping(acc, part.low + part.high);
            left -= steps;
        }
    }
    return route.wraps() ? wrap16(acc + whole.low + whole.high) : acc;
}

std::int32_t accumulate_pairs(const DenseBlock& block, const std::uint8_t* in, int channel) {
    const std::int8_t* weights = block.weights + depthwise_place(channel) * kPair;
    std::int16_t sum = wrap16(block.constants.start[channel]);
    for (int r = 0; r < block.run_count; ++r) {
        const std::uint8_t* codes = in + block.runs[r].offset + (channel % 2 == 0 ? -kPair : 0);
        for (int i = 0; i <= block.runs[r].pairs; ++i, codes += kPair, weights += kWidePanel * kPair)
            sum = wrap16(sum + pair(codes[0], weights[0], codes[1], weights[1]));
    }
    return sum;
}

std::int32_t accumulate_exactly(const DenseBlock& block, const std::uint8_t* in, int channel) {
    const std::int8_t* weights = block.weights + channel * kPair;
    std::int32_t acc = block.constants.start[channel];
    for (int r = 0; r < block.run_count; ++r) {
        const std::int16_t* codes = reinterpret_cast<const std::int16_t*>(in) + block.runs[r].offset;
        for (int i = 0; i < block.runs[r].pairs; ++i, codes += kPair, weights += kPanel * kPair)
            acc = add_wrapping(acc, codes[0] * weights[0] + codes[1] * weights[1]);
    }
    return acc;
}

std::uint8_t code(std::int32_t acc, bool narrow, const OutputConstants& constants, int channel) {
    if (narrow || constants.wrap_shift != 0) return requantize(acc, constants, channel);
    return to_code(acc, constants.multipliers, channel, constants.zero_point, constants.q_max);
}

template <Sums SUMS, int FOLD>
void dense(const DenseBlock& block) {
    constexpr Route kRoute{SUMS, FOLD};
    for (int p = 0; p < block.pixels; ++p) {
        const std::uint8_t* in = block.in[p];
        std::uint8_t* out = block.out[p] + block.out_offset;
        for (int c = 0; c < block.channels; ++c) {
            const std::int32_t acc = SUMS == Sums::kExact   ? accumulate_exactly(block, in, c)
                                     : SUMS == Sums::kPairs ? accumulate_pairs(block, in, c)
                                                            : accumulate(block, in, c, kRoute);
            out[c] = code(acc, kRoute.wraps(), block.constants, c);
        }
    }
}

template <Sums SUMS, int FOLD = 0>
constexpr DenseRoute route() {
    return {{SUMS, FOLD}, 1, dense<SUMS, FOLD>};
}

std::int32_t accumulate(const DepthwiseBlock& block, const std::uint8_t* in, int channel) {
    std::int32_t acc = block.constants.start[channel];
    std::int16_t sum = 0;
    for (int t = 0; t < block.tap_count; ++t) {
        const std::int8_t* w = block.weights + (t * kChannelBlock + depthwise_place(channel)) * 2;
        sum = wrap16(sum + pair(in[block.taps[t].a + channel], w[0], in[block.taps[t].b + channel], w[1]));
        if (!block.route.wraps() && ((t + 1) % block.route.fold == 0 || t + 1 == block.tap_count)) {
            acc = add_wrapping(acc, sum);
            sum = 0;
        }
    }
    return block.route.wraps() ? wrap16(acc + sum) : acc;
}

void depthwise(const DepthwiseBlock& block) {
    for (int y = 0; y < block.rows; ++y) {
        for (int x = 0; x < block.pixels; ++x) {
            const std::uint8_t* in = block.in + y * block.in_row + x * block.in_step;
            std::uint8_t* out = block.out + y * block.out_row + x * block.out_step;
            for (int c = 0; c < block.channels; ++c)
                out[c] = code(accumulate(block, in, c), block.route.wraps(), block.constants, c);
        }
    }
}

bool always() { return true; }

}  // namespace

extern const KernelSet kPortable;
const KernelSet kPortable = {
    "portable", always, 255, true,
    {route<Sums::kExact>(), route<Sums::kPairs>(), route<Sums::kWhole>(), route<Sums::kFolded, 1>(),
     route<Sums::kFolded, 2>(), route<Sums::kFolded, 4>(), route<Sums::kFolded, 8>(), route<Sums::kFolded, 16>()},
    depthwise,
    elementwise::add,
    elementwise::multiply,
    elementwise::lookup,
};

}  // namespace oaq
