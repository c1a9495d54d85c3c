#include "emulate.hpp"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace oaq {
namespace {

// Output channels that are computed together: the inner loops run over them, so that compilers can vectorize.
constexpr std::int64_t kTile = 16;

// Products that fit into 32 bits whatever they are: floor((2^31 - 1) / (255 * 128)).
constexpr std::int64_t kExactInt32 = 65793;

// Keeps all address arithmetic far from 2^63.
constexpr std::int64_t kLargestParameter = std::int64_t{1} << 20;
constexpr std::int64_t kLargestArray = std::int64_t{1} << 40;

void require(bool holds, const char* field, std::int64_t found, const std::string& expected) {
    if (!holds) {
        throw std::invalid_argument(std::string(field) + ": found " + std::to_string(found) + ", expected " + expected);
    }
}

void require_product(std::initializer_list<std::int64_t> factors, const char* what) {
    std::int64_t product = 1;
    for (std::int64_t factor : factors) {
        if (factor > 0 && product > kLargestArray / factor) {
            throw std::invalid_argument(std::string(what) + ": more than 2^40 elements");
        }
        product *= factor;
    }
}

std::int64_t output_size(std::int64_t padded, std::int64_t kernel, std::int64_t stride, std::int64_t dilation) {
    return (padded - dilation * (kernel - 1) - 1) / stride + 1;
}

// The products in the order in which the partial sums take them, and where each partial sum ends.
struct Plan {
    std::vector<std::int64_t> order;  // position -> k
    std::vector<std::int64_t> ends;   // one per partial sum that has products, positions
    std::int64_t longest = 0;         // products of the longest partial sum
};

Plan make_plan(std::int64_t depth, const Policy& policy) {
    Plan plan;
    plan.order.reserve(static_cast<std::size_t>(depth));
    const auto end_here = [&plan] {
        const auto end = static_cast<std::int64_t>(plan.order.size());
        plan.longest = std::max(plan.longest, end - (plan.ends.empty() ? 0 : plan.ends.back()));
        plan.ends.push_back(end);
    };
    const std::int64_t lanes = std::min(policy.lanes, depth);  // further lanes have no products
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
        for (std::int64_t k = lane; k < depth; k += lanes) {
            plan.order.push_back(k);
            if (policy.block > 0 && (k + 1) % policy.block == 0 && k + 1 < depth) end_here();
        }
        end_here();
    }
    return plan;
}

// Weights as [tile][position][kTile] int16, zeros where a group's outputs do not fill its last tile.
// A tile holds outputs of one group only, except for depthwise layers: there it holds neighbouring channels.
std::vector<std::int16_t> pack_weight(const std::int8_t* weight, const Plan& plan, std::int64_t outputs,
                                      std::int64_t group_outputs) {
    const auto depth = static_cast<std::int64_t>(plan.order.size());
    const std::int64_t group_tiles = (group_outputs + kTile - 1) / kTile;
    std::vector<std::int16_t> packed(static_cast<std::size_t>(outputs / group_outputs * group_tiles * depth * kTile), 0);
    for (std::int64_t o = 0; o < outputs; ++o) {
        const std::int64_t tile = o / group_outputs * group_tiles + o % group_outputs / kTile;
        std::int16_t* column = packed.data() + tile * depth * kTile + o % group_outputs % kTile;
        for (std::int64_t i = 0; i < depth; ++i) {
            column[i * kTile] = weight[o * depth + plan.order[static_cast<std::size_t>(i)]];
        }
    }
    return packed;
}

struct Limits {
    std::int32_t minimum, maximum;
    std::uint32_t mask, sign;
    bool saturate;

    explicit Limits(const Policy& policy)
        : minimum(static_cast<std::int32_t>(-(std::int64_t{1} << (policy.bits - 1)))),
          maximum(static_cast<std::int32_t>((std::int64_t{1} << (policy.bits - 1)) - 1)),
          mask(static_cast<std::uint32_t>((std::int64_t{1} << policy.bits) - 1)),
          sign(std::uint32_t{1} << (policy.bits - 1)),
          saturate(policy.saturate) {}
};

// All partial sums of kTile outputs at one position. `Partial` holds any of them exactly.
// sum: their total after the policy, modulo 2^32; lowest, highest: their range, zero included.
template <typename Partial, bool kDepthwise>
inline void tile_sums(const std::int16_t* x, const std::int64_t* offsets, const std::vector<std::int64_t>& ends,
                      const std::int16_t* weight, const Limits& limits, std::uint32_t* __restrict sum,
                      Partial* __restrict lowest, Partial* __restrict highest) {
    std::uint32_t total[kTile] = {};
    Partial low[kTile] = {}, high[kTile] = {};
    std::int64_t i = 0;
    for (const std::int64_t end : ends) {
        Partial partial[kTile] = {};
        // Four products per pass: the partial sums are then loaded and stored a fourth as often.
        for (; i + 4 <= end; i += 4) {
            const std::int16_t *const a0 = x + offsets[i], *const a1 = x + offsets[i + 1];
            const std::int16_t *const a2 = x + offsets[i + 2], *const a3 = x + offsets[i + 3];
            const std::int16_t* const w = weight + i * kTile;
            for (std::int64_t t = 0; t < kTile; ++t) {
                const std::int64_t c = kDepthwise ? t : 0;
                const std::int32_t even = a0[c] * w[t] + a2[c] * w[2 * kTile + t];
                const std::int32_t odd = a1[c] * w[kTile + t] + a3[c] * w[3 * kTile + t];
                partial[t] += even + odd;
            }
        }
        for (; i < end; ++i) {
            const std::int16_t* const a = x + offsets[i];
            const std::int16_t* const w = weight + i * kTile;
            for (std::int64_t t = 0; t < kTile; ++t) partial[t] += a[kDepthwise ? t : 0] * w[t];
        }
        for (std::int64_t t = 0; t < kTile; ++t) {
            low[t] = std::min(low[t], partial[t]);
            high[t] = std::max(high[t], partial[t]);
        }
        if (limits.saturate) {
            for (std::int64_t t = 0; t < kTile; ++t) {
                const Partial upper = limits.maximum, lower = limits.minimum;
                total[t] += static_cast<std::uint32_t>(std::max(std::min(partial[t], upper), lower));
            }
        } else {
            for (std::int64_t t = 0; t < kTile; ++t) {
                const std::uint32_t bits = static_cast<std::uint32_t>(partial[t]) & limits.mask;
                total[t] += (bits ^ limits.sign) - limits.sign;
            }
        }
    }
    for (std::int64_t t = 0; t < kTile; ++t) {
        sum[t] = total[t];
        lowest[t] = low[t];
        highest[t] = high[t];
    }
}

template <typename Partial, bool kDepthwise>
Range run(const std::uint8_t* x, const std::int8_t* weight, const Geometry& g, int zero_point, const Policy& policy,
          const Plan& plan, std::int32_t* acc, std::uint8_t* events) {
    const std::int64_t depth = g.kernel_h * g.kernel_w * g.group_inputs;
    const std::int64_t padded_w = g.padded_width(), padded_h = g.padded_height();
    const std::int64_t out_h = g.output_height(), out_w = g.output_width();
    // A tile of a depthwise layer runs over neighbouring channels as if they were one group.
    const std::int64_t groups = kDepthwise ? 1 : g.groups;
    const std::int64_t group_outputs = g.outputs / groups;
    const std::int64_t group_tiles = (group_outputs + kTile - 1) / kTile;
    const std::vector<std::int16_t> packed = pack_weight(weight, plan, g.outputs, group_outputs);
    const Limits limits(policy);

    // Wrapping registers see a - z (they may start at -z * sum(w)), saturating ones the raw code.
    const std::int16_t shift = static_cast<std::int16_t>(policy.saturate ? 0 : zero_point);
    const std::int16_t padding = static_cast<std::int16_t>(zero_point - shift);
    std::vector<std::uint32_t> correction(static_cast<std::size_t>(g.outputs), 0);
    if (policy.saturate) {
        for (std::int64_t o = 0; o < g.outputs; ++o) {
            std::int64_t weights = 0;
            for (std::int64_t k = 0; k < depth; ++k) weights += weight[o * depth + k];
            correction[static_cast<std::size_t>(o)] = static_cast<std::uint32_t>(-zero_point * weights);
        }
    }

    // Where product i of a position reads, relative to the position's top left input.
    std::vector<std::int64_t> offsets(static_cast<std::size_t>(depth));
    for (std::int64_t i = 0; i < depth; ++i) {
        const std::int64_t k = plan.order[static_cast<std::size_t>(i)];
        const std::int64_t tap = k / g.group_inputs;
        const std::int64_t row = tap / g.kernel_w * g.dilation_h, column = tap % g.kernel_w * g.dilation_w;
        offsets[static_cast<std::size_t>(i)] = (row * padded_w + column) * g.channels + k % g.group_inputs;
    }

    // One padded image; kTile more elements because the last depthwise tile reads a whole tile.
    std::vector<std::int16_t> image(static_cast<std::size_t>(padded_h * padded_w * g.channels + kTile), padding);
    Range range;
    for (std::int64_t n = 0; n < g.images; ++n) {
        for (std::int64_t row = 0; row < g.height; ++row) {
            const std::uint8_t* from = x + (n * g.height + row) * g.width * g.channels;
            std::int16_t* to = image.data() + ((row + g.padding_h) * padded_w + g.padding_w) * g.channels;
            for (std::int64_t i = 0; i < g.width * g.channels; ++i) {
                to[i] = static_cast<std::int16_t>(from[i] - shift);
            }
        }
        for (std::int64_t tile = 0; tile < groups * group_tiles; ++tile) {
            const std::int64_t group = tile / group_tiles, first = tile % group_tiles * kTile;
            const std::int64_t valid = std::min(kTile, group_outputs - first);
            const std::int64_t output = group * group_outputs + first;
            const std::int16_t* const tile_weight = packed.data() + tile * depth * kTile;
            const std::int16_t* const base = image.data() + (kDepthwise ? first : group * g.group_inputs);
            Partial lowest[kTile] = {}, highest[kTile] = {};
            for (std::int64_t row = 0; row < out_h; ++row) {
                for (std::int64_t column = 0; column < out_w; ++column) {
                    const std::int64_t position = row * g.stride_h * padded_w + column * g.stride_w;
                    std::uint32_t sum[kTile];
                    Partial low[kTile], high[kTile];
                    tile_sums<Partial, kDepthwise>(base + position * g.channels, offsets.data(), plan.ends, tile_weight,
                                                   limits, sum, low, high);
                    const std::int64_t at = ((n * out_h + row) * out_w + column) * g.outputs + output;
                    for (std::int64_t t = 0; t < valid; ++t) {
                        acc[at + t] = static_cast<std::int32_t>(sum[t] + correction[static_cast<std::size_t>(output + t)]);
                        events[at + t] = low[t] < limits.minimum || high[t] > limits.maximum;
                    }
                    for (std::int64_t t = 0; t < kTile; ++t) {
                        lowest[t] = std::min(lowest[t], low[t]);
                        highest[t] = std::max(highest[t], high[t]);
                    }
                }
            }
            // Outputs beyond `valid` have zero weights: their partial sums are zero and change nothing.
            range.lowest = std::min<std::int64_t>(range.lowest, *std::min_element(lowest, lowest + kTile));
            range.highest = std::max<std::int64_t>(range.highest, *std::max_element(highest, highest + kTile));
        }
    }
    return range;
}

}  // namespace

std::int64_t Geometry::output_height() const { return output_size(padded_height(), kernel_h, stride_h, dilation_h); }
std::int64_t Geometry::output_width() const { return output_size(padded_width(), kernel_w, stride_w, dilation_w); }

void validate(const Geometry& g, int zero_point, const Policy& policy) {
    for (const std::int64_t size : {g.height, g.width, g.channels}) require(size > 0, "x", size, "sizes of at least 1");
    for (const std::int64_t size : {g.outputs, g.kernel_h, g.kernel_w, g.group_inputs}) {
        require(size > 0, "weight", size, "sizes of at least 1");
    }
    const auto within = [](std::int64_t value, std::int64_t least) { return value >= least && value <= kLargestParameter; };
    for (const std::int64_t value : {g.stride_h, g.stride_w}) require(within(value, 1), "stride", value, "1 to 2^20");
    for (const std::int64_t value : {g.padding_h, g.padding_w, g.padding_bottom, g.padding_right})
        require(within(value, 0), "padding", value, "0 to 2^20");
    for (const std::int64_t value : {g.dilation_h, g.dilation_w}) require(within(value, 1), "dilation", value, "1 to 2^20");
    require(within(g.groups, 1), "groups", g.groups, "1 to 2^20");
    require(g.outputs % g.groups == 0, "weight", g.outputs, "outputs that are a multiple of groups");
    require(g.channels % g.groups == 0 && g.channels / g.groups == g.group_inputs, "x", g.channels,
            std::to_string(g.groups) + " groups of " + std::to_string(g.group_inputs) + " channels, as weight has");
    require(zero_point >= 0 && zero_point <= 255, "zero_point", zero_point, "0 to 255");
    require(policy.bits >= 8 && policy.bits <= 32, "bits", policy.bits, "8 to 32");
    require(policy.lanes >= 1, "lanes", policy.lanes, "at least 1");
    require(policy.block >= 0, "block", policy.block, "at least 1, or none");
    require(policy.lanes == 1 || policy.block == 0, "lanes", policy.lanes, "1 where block is given");
    require_product({g.kernel_h, g.dilation_h}, "weight");
    require_product({g.kernel_w, g.dilation_w}, "weight");
    require(g.dilation_h * (g.kernel_h - 1) < g.padded_height(), "x", g.height, "a padded height that holds the kernel");
    require(g.dilation_w * (g.kernel_w - 1) < g.padded_width(), "x", g.width, "a padded width that holds the kernel");
    require_product({g.padded_height(), g.padded_width(), g.channels}, "padded x");
    require_product({g.images, g.output_height(), g.output_width(), g.outputs}, "output");
    require_product({g.outputs, g.kernel_h, g.kernel_w, g.group_inputs, kTile}, "weight");
}

Range emulate(const std::uint8_t* x, const std::int8_t* weight, const Geometry& g, int zero_point, const Policy& policy,
             std::int32_t* acc, std::uint8_t* events) {
    const Plan plan = make_plan(g.kernel_h * g.kernel_w * g.group_inputs, policy);
    const bool depthwise = g.groups == g.channels && g.outputs == g.channels;
    const bool exact = plan.longest <= kExactInt32;
    if (depthwise && exact) return run<std::int32_t, true>(x, weight, g, zero_point, policy, plan, acc, events);
    if (depthwise) return run<std::int64_t, true>(x, weight, g, zero_point, policy, plan, acc, events);
    if (exact) return run<std::int32_t, false>(x, weight, g, zero_point, policy, plan, acc, events);
    return run<std::int64_t, false>(x, weight, g, zero_point, policy, plan, acc, events);
}

}  // namespace oaq
