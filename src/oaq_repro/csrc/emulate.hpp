// Emulated convolution: uint8 codes times int8 weights into an accumulator that may overflow.
//
// It is what every faster kernel has to compute, on integers, and is itself compared with plain loops
// (tests/oracles/reference.py). It models the register's width,
// wrapping or saturation, lanes and spills exactly; it is portable C++17 without intrinsics or assembly.
//
// acc[o] = sum_k (a_k - z) * w_k with k = (kernel row, kernel column, input channel of the group), the channel
// running fastest. The policy splits the sum into partial sums, each held in a signed register of `bits` bits:
//   whole sum (lanes 1, block 0)   one partial sum
//   lanes L                        L partial sums, products with equal k mod L
//   block B                        ceil(K / B) partial sums of B consecutive products
// wrapping:   partial sums of (a - z) * w are kept modulo 2^bits (two's complement)
// saturating: partial sums of a * w are clamped, and -z * sum(w) is added afterwards
// Partial sums are added modulo 2^32. Zero padding has the code z.
// An output is an overflow event if any of its partial sums lies outside the register's range.
#pragma once

#include <cstdint>

namespace oaq {

// Output channels that are computed together: the inner loops run over them, so that compilers can vectorize.
constexpr std::int64_t kEmulatedTile = 16;

struct Policy {
    int bits;            // 8 to 32
    bool saturate;       // false: wrap
    std::int64_t lanes;  // at least 1
    std::int64_t block;  // products per partial sum; 0: the whole sum
};

struct Geometry {
    std::int64_t images, height, width, channels;            // x: uint8 NHWC
    std::int64_t outputs, kernel_h, kernel_w, group_inputs;  // weight: int8 [O, kh, kw, I / groups]
    std::int64_t stride_h, stride_w;
    std::int64_t padding_h, padding_w, padding_bottom, padding_right;  // the first two: top and left
    std::int64_t dilation_h, dilation_w, groups;

    std::int64_t padded_height() const { return padding_h + height + padding_bottom; }
    std::int64_t padded_width() const { return padding_w + width + padding_right; }
    std::int64_t output_height() const;
    std::int64_t output_width() const;
};

// Smallest and largest partial sum before wrapping or clamping, zero included.
struct Range {
    std::int64_t lowest = 0;
    std::int64_t highest = 0;
};

// Throws std::invalid_argument with what was found and what is expected; `emulate` may be called if it returns.
void validate(const Geometry& geometry, int zero_point, const Policy& policy);

// acc: int32 and events: uint8 (0 or 1), both [N, output height, output width, O], written completely.
Range emulate(const std::uint8_t* x, const std::int8_t* weight, const Geometry& geometry, int zero_point,
             const Policy& policy, std::int32_t* acc, std::uint8_t* events);

}  // namespace oaq
