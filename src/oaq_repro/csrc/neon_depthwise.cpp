// Depthwise kernels for ARMv8.0-A (neon.hpp).
#include "neon.hpp"

namespace oaq::neon {
namespace {

constexpr int kGroup = 8;  // channels that a register holds of depthwise sums

// P pixels side by side, whose sums share loads of weights. Both taps of a pair go to the same 16-bit sum.
template <Requantization K, int P, bool SHIFTED, bool FOLD>
inline void depthwise_pixels(const DepthwiseBlock& block, const std::uint8_t* in, std::uint8_t* out) {
    constexpr int kGroups = kChannelBlock / kGroup;
    const std::int32_t* start = block.constants.start;
    int16x8_t sums[P][kGroups];
    int32x4_t acc[P][2 * kGroups];
    for (int p = 0; p < P; ++p) {
        for (int g = 0; g < kGroups; ++g) sums[p][g] = FOLD ? vdupq_n_s16(0) : start16(start + kGroup * g);
        if (FOLD)
            for (int v = 0; v < 2 * kGroups; ++v) acc[p][v] = vld1q_s32(start + 4 * v);
    }
    const std::int8_t* weights = block.weights;
    int left = block.route.fold;
    for (int t = 0; t < block.tap_count; ++t, weights += kChannelBlock * 2) {
        for (int g = 0; g < kGroups; ++g) {
            const int channel = kGroup * g;
            const int8x8x2_t w = vld2_s8(weights + 2 * depthwise_place(channel));
            for (int p = 0; p < P; ++p) {
                const std::uint8_t* codes = in + p * block.in_step + channel;
                const int8x8_t a = as_signed<SHIFTED>(vld1_u8(codes + block.taps[t].a));
                const int8x8_t b = as_signed<SHIFTED>(vld1_u8(codes + block.taps[t].b));
                sums[p][g] = vmlal_s8(vmlal_s8(sums[p][g], a, w.val[0]), b, w.val[1]);
            }
        }
        if (FOLD && (--left == 0 || t + 1 == block.tap_count)) {
            for (int p = 0; p < P; ++p)
                for (int g = 0; g < kGroups; ++g) {
                    acc[p][2 * g] = vaddw_s16(acc[p][2 * g], vget_low_s16(sums[p][g]));
                    acc[p][2 * g + 1] = vaddw_high_s16(acc[p][2 * g + 1], sums[p][g]);
                    sums[p][g] = vdupq_n_s16(0);
                }
            left = block.route.fold;
        }
    }
    for (int p = 0; p < P; ++p) {
        for (int c = 0; c < block.channels; c += 16) {
            int16x8_t values[2];
            for (int h = 0; h < 2; ++h) {
                const int g = c / kGroup + h;
                values[h] = FOLD ? Values<K>::of_wide(acc[p][2 * g], acc[p][2 * g + 1], block.constants, kGroup * g)
                                 : Values<K>::of_narrow(sums[p][g], block.constants, kGroup * g);
            }
            write(values, block.constants, out + p * block.out_step + c, block.channels - c);
        }
    }
}

template <int N, bool FOLD>
void depthwise_tiles(const DepthwiseBlock& block) {
    by_block(block, [&](auto kind, auto shifted) {
        for (int y = 0; y < block.rows; ++y)
            tiles<N>(block.pixels, [&](int first, auto pixels) {
                depthwise_pixels<kind(), pixels(), shifted(), FOLD>(
                    block, block.in + y * block.in_row + first * block.in_step,
                    block.out + y * block.out_row + first * block.out_step);
            });
    });
}

}  // namespace

void depthwise(const DepthwiseBlock& block) {
    block.route.wraps() ? depthwise_tiles<4, false>(block) : depthwise_tiles<2, true>(block);
}

}  // namespace oaq::neon
