#include "emulate.hpp"

#include <algorithm>
#include <limits>
#include <vector>

namespace oaq {
namespace {

// Products that fit into 32 bits whatever they are: floor((2^31 - 1) / (255 * 128)).
constexpr std::int64_t kExactInt32 = 65793;

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

// Weights as [tile][position][kEmulatedTile] int16, zeros where a group's outputs do not fill its last tile.
// A tile holds outputs of one group only, except for depthwise layers: there it holds neighbouring channels.
std::vector<std::int16_t> pack_weight(const std::int8_t* weight, const Plan& plan, std::int64_t outputs,
                                      std::int64_t group_outputs) {
    const auto depth = static_cast<std::int64_t>(plan.order.size());
    const std::int64_t group_tiles = (group_outputs + kEmulatedTile - 1) / kEmulatedTile;
    std::vector<std::int16_t> packed(static_cast<std::size_t>(outputs / group_outputs * group_tiles * depth * kEmulatedTile), 0);
    for (std::int64_t o = 0; o < outputs; ++o) {
        const std::int64_t tile = o / group_outputs * group_tiles + o % group_outputs / kEmulatedTile;
        std::int16_t* column = packed.data() + tile * depth * kEmulatedTile + o % group_outputs % kEmulatedTile;
        for (std::int64_t i = 0; i < depth; ++i) {
            column[i * kEmulatedTile] = weight[o * depth + plan.order[static_cast<std::size_t>(i)]];
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

// All partial sums of kEmulatedTile outputs at one position. `Partial` holds any of them exactly.
// sum: their total after the policy, modulo 2^32; lowest, highest: their range, zero included.
template <typename Partial, bool kDepthwise>
inline void tile_sums(const std::int16_t* x, const std::int64_t* offsets, const std::vector<std::int64_t>& ends,
                      const std::int16_t* weight, const Limits& limits, std::uint32_t* __restrict sum,
                      Partial* __restrict lowest, Partial* __restrict highest) {
    std::uint32_t total[kEmulatedTile] = {};
    Partial low[kEmulatedTile] = {}, high[kEmulatedTile] = {};
    std::int64_t i = 0;
    for (const std::int64_t end : ends) {
        Partial partial[kEmulatedTile] = {};
        // Four products per pass: the partial sums are then loaded and stored a fourth as often.
        for (; i + 4 <= end; i += 4) {
            const std::int16_t *const a0 = x + offsets[i], *const a1 = x + offsets[i + 1];
            const std::int16_t *const a2 = x + offsets[i + 2], *const a3 = x + offsets[i + 3];
            const std::int16_t* const w = weight + i * kEmulatedTile;
            for (std::int64_t t = 0; t < kEmulatedTile; ++t) {
                const std::int64_t c = kDepthwise ? t : 0;
                const std::int32_t even = a0[c] * w[t] + a2[c] * w[2 * kEmulatedTile + t];
                const std::int32_t odd = a1[c] * w[kEmulatedTile + t] + a3[c] * w[3 * kEmulatedTile + t];
                partial[t] += even + odd;
            }
        }
        for (; i < end; ++i) {
            const std::int16_t* const a = x + offsets[i];
            const std::int16_t* const w = weight + i * kEmulatedTile;
            for (std::int64_t t = 0; t < kEmulatedTile; ++t) partial[t] += a[kDepthwise ? t : 0] * w[t];
        }
        for (std::int64_t t = 0; t < kEmulatedTile; ++t) {
            low[t] = std::min(low[t], partial[t]);
            high[t] = std::max(high[t], partial[t]);
        }
        if (limits.saturate) {
            for (std::int64_t t = 0; t < kEmulatedTile; ++t) {
                const Partial upper = limits.maximum, lower = limits.minimum;
                total[t] += static_cast<std::uint32_t>(std::max(std::min(partial[t], upper), lower));
            }
        } else {
            for (std::int64_t t = 0; t < kEmulatedTile; ++t) {
                const std::uint32_t bits = static_cast<std::uint32_t>(partial[t]) & limits.mask;
                total[t] += (bits ^ limits.sign) - limits.sign;
            }
        }
    }
    for (std::int64_t t = 0; t < kEmulatedTile; ++t) {
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
    const std::int64_t group_tiles = (group_outputs + kEmulatedTile - 1) / kEmulatedTile;
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

    // One padded image; kEmulatedTile more elements because the last depthwise tile reads a whole tile.
    std::vector<std::int16_t> image(static_cast<std::size_t>(padded_h * padded_w * g.channels + kEmulatedTile), padding);
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
            const std::int64_t group = tile / group_tiles, first = tile % group_tiles * kEmulatedTile;
            const std::int64_t valid = std::min(kEmulatedTile, group_outputs - first);
            const std::int64_t output = group * group_outputs + first;
            const std::int16_t* const tile_weight = packed.data() + tile * depth * kEmulatedTile;
            const std::int16_t* const base = image.data() + (kDepthwise ? first : group * g.group_inputs);
            Partial lowest[kEmulatedTile] = {}, highest[kEmulatedTile] = {};
            for (std::int64_t row = 0; row < out_h; ++row) {
                for (std::int64_t column = 0; column < out_w; ++column) {
                    const std::int64_t position = row * g.stride_h * padded_w + column * g.stride_w;
                    std::uint32_t sum[kEmulatedTile];
                    Partial low[kEmulatedTile], high[kEmulatedTile];
                    tile_sums<Partial, kDepthwise>(base + position * g.channels, offsets.data(), plan.ends, tile_weight,
                                                   limits, sum, low, high);
                    const std::int64_t at = ((n * out_h + row) * out_w + column) * g.outputs + output;
                    for (std::int64_t t = 0; t < valid; ++t) {
                        acc[at + t] = static_cast<std::int32_t>(sum[t] + correction[static_cast<std::size_t>(output + t)]);
                        events[at + t] = low[t] < limits.minimum || high[t] > limits.maximum;
                    }
                    for (std::int64_t t = 0; t < kEmulatedTile; ++t) {
                        lowest[t] = std::min(lowest[t], low[t]);
                        highest[t] = std::max(highest[t], high[t]);
                    }
                }
            }
            // Outputs beyond `valid` have zero weights: their partial sums are zero and change nothing.
            range.lowest = std::min<std::int64_t>(range.lowest, *std::min_element(lowest, lowest + kEmulatedTile));
            range.highest = std::max<std::int64_t>(range.highest, *std::max_element(highest, highest + kEmulatedTile));
        }
    }
    return range;
}

}  // namespace

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
