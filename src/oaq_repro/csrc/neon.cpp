// Kernels for ARMv8.0-A: NEON without dot-product instructions.
//
// smull and smlal multiply 8 signed codes by 8 signed weights and keep the low 16 bits of every sum. 4 codes in all lanes
// of a register meet 16 weights, that is 4 channels, so that a channel has four 16-bit sums, one of each code of a step:
// 16 products in two instructions. Where 32-bit accumulators are needed, addp joins the four sums to the two halves of
// kernels.hpp, modulo 2^16, and sadalp adds these to 32 bits: four instructions, or three where two steps share them.
//
// Nothing saturates, so sums modulo 2^16 come out whatever their order, and halves are those of the definition. That
// the planner asks only for halves that fit is enough: the four sums need not fit, as addp is modulo 2^16 as well.
// Unsigned codes above 127 are no signed ones: 128 is taken off (the top bit flipped), and `start` puts it back.
#include <arm_neon.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "elementwise.hpp"
#include "kernels.hpp"

namespace oaq {
namespace {

constexpr int kGroup = 8;  // channels that a register holds of depthwise sums

template <bool SHIFTED>
inline int8x8_t as_signed(uint8x8_t codes) {
    return vreinterpret_s8_u8(SHIFTED ? veor_u8(codes, vdup_n_u8(128)) : codes);
}

// 4 codes, in each quarter of the register.
template <bool SHIFTED>
inline int8x16_t broadcast(const std::uint8_t* p) {
    std::int32_t four;
    std::memcpy(&four, p, sizeof four);
    const uint8x16_t codes = vreinterpretq_u8_s32(vdupq_n_s32(four));
    return vreinterpretq_s8_u8(SHIFTED ? veorq_u8(codes, vdupq_n_u8(128)) : codes);
}

// Modulo 2^16 and 2^32: of signed vectors, compilers may take vaddq for an addition that never overflows.
inline int16x8_t add_wrapping(int16x8_t a, int16x8_t b) {
    return vreinterpretq_s16_u16(vaddq_u16(vreinterpretq_u16_s16(a), vreinterpretq_u16_s16(b)));
}
inline int32x4_t add_wrapping(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_u32(vaddq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}

// 4 channels to scaled and rounded int32. vcvtn rounds half to even, and saturates. NARROW: 16-bit sums.
template <bool NARROW>
inline int32x4_t scale(int32x4_t acc, const OutputConstants& constants, int channel) {
    if (constants.wrap_shift != 0)  // sign extension from the lowest 32 - wrap_shift bits
        acc = vshlq_s32(vshlq_s32(acc, vdupq_n_s32(constants.wrap_shift)), vdupq_n_s32(-constants.wrap_shift));
    if (NARROW || constants.wrap_shift != 0) acc = add_wrapping(acc, vld1q_s32(constants.bias + channel));
    return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(acc), vld1q_f32(constants.multiplier + channel)));
}

// Codes of 16 channels, the first `channels` of them written. Saturation on the way clamps as well: zero_point <= 255.
template <bool NARROW>
inline void write(const int32x4_t (&acc)[4], const OutputConstants& constants, std::uint8_t* out, int channels, int first = 0) {
    const int16x8_t zero_point = vdupq_n_s16(static_cast<std::int16_t>(constants.zero_point));
    int16x8_t values[2];
    for (int h = 0; h < 2; ++h) {
        const int16x4_t low = vqmovn_s32(scale<NARROW>(acc[2 * h], constants, first + 8 * h));
        values[h] = vqaddq_s16(vqmovn_high_s32(low, scale<NARROW>(acc[2 * h + 1], constants, first + 8 * h + 4)), zero_point);
    }
    const uint8x16_t codes = vqmovun_high_s16(vqmovun_s16(values[0]), values[1]);
    const uint8x16_t clamped = vminq_u8(codes, vdupq_n_u8(static_cast<std::uint8_t>(constants.q_max)));
    if (channels >= 16) {
        vst1q_u8(out, clamped);
        return;
    }
    std::uint8_t buffer[16];
    vst1q_u8(buffer, clamped);
    std::memcpy(out, buffer, static_cast<std::size_t>(channels));
}

template <bool NARROW>
inline void write(const DenseBlock& block, int pixel, const int32x4_t (&acc)[4]) {
    write<NARROW>(acc, block.constants, block.out[pixel] + block.out_offset, block.channels);
}

// `start` of 8 channels modulo 2^16, and 16-bit sums sign-extended.
inline int16x8_t start16(const std::int32_t* start) {
    return vmovn_high_s32(vmovn_s32(vld1q_s32(start)), vld1q_s32(start + 4));
}
inline void extend(int16x8_t sums, int32x4_t& low, int32x4_t& high) {
    low = vmovl_s16(vget_low_s16(sums));
    high = vmovl_high_s16(sums);
}

// Products of one step: 4 channels' in sums[0] and sums[1], the next 4 in sums[2] and sums[3], ...
template <bool ADD>
inline void multiply(int16x8_t (&sums)[8], int8x16_t codes, const int8x16_t (&w)[4]) {
    for (int v = 0; v < 4; ++v) {
        int16x8_t &low = sums[2 * v], &high = sums[2 * v + 1];
        low = ADD ? vmlal_s8(low, vget_low_s8(w[v]), vget_low_s8(codes)) : vmull_s8(vget_low_s8(w[v]), vget_low_s8(codes));
        high = ADD ? vmlal_high_s8(high, w[v], codes) : vmull_high_s8(w[v], codes);
    }
}

inline void load_weights(int8x16_t (&w)[4], const std::int8_t* weights) {
    for (int v = 0; v < 4; ++v) w[v] = vld1q_s8(weights + 16 * v);
}

template <int R, bool SHIFTED>
inline void dense_wrap(const DenseBlock& block, int first) {
    const auto* weights = block.weights;
    int16x8_t sums[R][8];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < 8; ++v) sums[r][v] = vdupq_n_s16(0);
    for (int i = 0; i < block.run_count; ++i) {
        const std::uint8_t* in[R];
        for (int r = 0; r < R; ++r) in[r] = block.in[first + r] + block.runs[i].offset;
        const std::ptrdiff_t length = static_cast<std::ptrdiff_t>(block.runs[i].steps) * kStep;
        for (std::ptrdiff_t k = 0; k < length; k += kStep, weights += kPanel * kStep) {
            int8x16_t w[4];
            load_weights(w, weights);
            for (int r = 0; r < R; ++r) multiply<true>(sums[r], broadcast<SHIFTED>(in[r] + k), w);
        }
    }
    for (int r = 0; r < R; ++r) {
        int32x4_t acc[4];
        for (int h = 0; h < 2; ++h) {
            const int16x8_t* s = sums[r] + 4 * h;
            const int16x8_t joined = vpaddq_s16(vpaddq_s16(s[0], s[1]), vpaddq_s16(s[2], s[3]));
            extend(add_wrapping(joined, start16(block.constants.start + 8 * h)), acc[2 * h], acc[2 * h + 1]);
        }
        write<true>(block, first + r, acc);
    }
}

// One step in 16 bits, then 32 bits: pixel by pixel, so that a few registers hold the sums of all.
template <int R, bool SHIFTED>
inline void add_single(int32x4_t (&acc)[R][4], const std::uint8_t* const (&in)[R], std::ptrdiff_t k, const std::int8_t* weights) {
    int8x16_t w[4];
    load_weights(w, weights);
    for (int r = 0; r < R; ++r) {
        int16x8_t sums[8];
        multiply<false>(sums, broadcast<SHIFTED>(in[r] + k), w);
        for (int v = 0; v < 4; ++v) acc[r][v] = vpadalq_s16(acc[r][v], vpaddq_s16(sums[2 * v], sums[2 * v + 1]));
    }
}

// The codes from k up to `end` in 16 bits, then 32 bits.
template <int R, bool SHIFTED>
inline void add_steps(int32x4_t (&acc)[R][4], const std::uint8_t* const (&in)[R], std::ptrdiff_t k, std::ptrdiff_t end,
                      const std::int8_t* weights) {
    int8x16_t w[4];
    int16x8_t sums[R][8];
    load_weights(w, weights);
    for (int r = 0; r < R; ++r) multiply<false>(sums[r], broadcast<SHIFTED>(in[r] + k), w);
#pragma GCC unroll 1  // unrolled, registers do not suffice
    for (k += kStep; k < end; k += kStep) {
        weights += kPanel * kStep;
        load_weights(w, weights);
        for (int r = 0; r < R; ++r) multiply<true>(sums[r], broadcast<SHIFTED>(in[r] + k), w);
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < 4; ++v) acc[r][v] = vpadalq_s16(acc[r][v], vpaddq_s16(sums[r][2 * v], sums[r][2 * v + 1]));
}

template <int R, bool SHIFTED, int S>
inline void dense_fold(const DenseBlock& block, int first) {
    const auto* weights = block.weights;
    int32x4_t acc[R][4];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < 4; ++v) acc[r][v] = vld1q_s32(block.constants.start + 4 * v);
    for (int i = 0; i < block.run_count; ++i) {
        const std::uint8_t* in[R];
        for (int r = 0; r < R; ++r) in[r] = block.in[first + r] + block.runs[i].offset;
        const std::ptrdiff_t length = static_cast<std::ptrdiff_t>(block.runs[i].steps) * kStep;
        for (std::ptrdiff_t k = 0; k < length; k += S * kStep) {
            const std::ptrdiff_t end = std::min<std::ptrdiff_t>(k + S * kStep, length);
            if (S == 1)
                add_single<R, SHIFTED>(acc, in, k, weights);
            else
                add_steps<R, SHIFTED>(acc, in, k, end, weights);
            weights += (end - k) * kPanel;
        }
    }
    for (int r = 0; r < R; ++r) write<false>(block, first + r, acc[r]);
}

// Two codes meet the weights of four channels: a register holds two sums of two channels.
inline void dense_exact(const DenseBlock& block, int pixel) {
    const std::int8_t* weights = block.weights;
    int32x4_t sums[kPanel / 2], acc[4];
    for (int32x4_t& sum : sums) sum = vdupq_n_s32(0);
    for (int i = 0; i < block.run_count; ++i) {
        const std::int16_t* in = reinterpret_cast<const std::int16_t*>(block.in[pixel]) + block.runs[i].offset;
        for (int p = 0; p < block.runs[i].pairs; ++p, in += kPair, weights += kPanel * kPair) {
            std::int32_t two;
            std::memcpy(&two, in, sizeof two);
            const int16x8_t codes = vreinterpretq_s16_s32(vdupq_n_s32(two));
            for (int v = 0; v < 4; ++v) {
                const int16x8_t w = vmovl_s8(vld1_s8(weights + 8 * v));
                sums[2 * v] = vmlal_s16(sums[2 * v], vget_low_s16(w), vget_low_s16(codes));
                sums[2 * v + 1] = vmlal_high_s16(sums[2 * v + 1], w, codes);
            }
        }
    }
    for (int v = 0; v < 4; ++v)
        acc[v] = add_wrapping(vpaddq_s32(sums[2 * v], sums[2 * v + 1]), vld1q_s32(block.constants.start + 4 * v));
    write<false>(block, pixel, acc);
}

// P pixels side by side, whose sums share loads of weights. Both taps of a pair go to the same 16-bit sum.
template <int P, bool SHIFTED, bool FOLD>
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
            int32x4_t part[4];
            for (int g = 0; g < 2; ++g) {
                const int at = c / kGroup + g;
                if (FOLD) {
                    part[2 * g] = acc[p][2 * at];
                    part[2 * g + 1] = acc[p][2 * at + 1];
                } else {
                    extend(sums[p][at], part[2 * g], part[2 * g + 1]);
                }
            }
            write<!FOLD>(part, block.constants, out + p * block.out_step + c, block.channels - c, c);
        }
    }
}

// All of them, N at a time, then one by one: tile(first, how many).
template <int N, typename Tile>
void tiles(int count, const Tile& tile) {
    int first = 0;
    for (; first + N <= count; first += N) tile(first, std::integral_constant<int, N>());
    for (; first < count; ++first) tile(first, std::integral_constant<int, 1>());
}

template <bool SHIFTED>
void wrap_tiles(const DenseBlock& block) {
    tiles<3>(block.pixels, [&](int first, auto rows) { dense_wrap<rows, SHIFTED>(block, first); });
}

template <int S, int ROWS, bool SHIFTED>
void fold_tiles(const DenseBlock& block) {
    tiles<ROWS>(block.pixels, [&](int first, auto rows) { dense_fold<rows, SHIFTED, S>(block, first); });
}

template <int N, bool SHIFTED, bool FOLD>
void depthwise_tiles(const DepthwiseBlock& block) {
    for (int y = 0; y < block.rows; ++y)
        tiles<N>(block.pixels, [&](int first, auto pixels) {
            depthwise_pixels<pixels, SHIFTED, FOLD>(block, block.in + y * block.in_row + first * block.in_step,
                                                    block.out + y * block.out_row + first * block.out_step);
        });
}

void wrap_kernel(const DenseBlock& block) {
    block.code_offset != 0 ? wrap_tiles<true>(block) : wrap_tiles<false>(block);
}

template <int S, int ROWS>
void fold_kernel(const DenseBlock& block) {
    block.code_offset != 0 ? fold_tiles<S, ROWS, true>(block) : fold_tiles<S, ROWS, false>(block);
}

void exact_kernel(const DenseBlock& block) {
    for (int p = 0; p < block.pixels; ++p) dense_exact(block, p);
}

void depthwise(const DepthwiseBlock& block) {
    if (!block.route.wraps())
        block.code_offset != 0 ? depthwise_tiles<2, true, true>(block) : depthwise_tiles<2, false, true>(block);
    else
        block.code_offset != 0 ? depthwise_tiles<4, true, false>(block) : depthwise_tiles<4, false, false>(block);
}

// Of 16 codes: 64 codes of the table at a time, as a place beyond them gives 0.
void lookup(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const std::uint8_t* table) {
    uint8x16x4_t parts[4];
    for (int p = 0; p < 4; ++p) parts[p] = vld1q_u8_x4(table + 64 * p);
    std::int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        uint8x16_t places = vld1q_u8(in + i), codes = vqtbl4q_u8(parts[0], places);
        for (int p = 1; p < 4; ++p) {
            places = vsubq_u8(places, vdupq_n_u8(64));
            codes = vorrq_u8(codes, vqtbl4q_u8(parts[p], places));
        }
        vst1q_u8(out + i, codes);
    }
    elementwise::lookup(in + i, out + i, count - i, table);
}

bool available() { return true; }  // every ARMv8-A that runs Linux or macOS has NEON

}  // namespace

extern const KernelSet kNeon;
const KernelSet kNeon = {
    "neon", available, 127, false,
    {
        {{Sums::kExact}, 1, exact_kernel}, {{Sums::kWhole}, 3, wrap_kernel}, {folded(1), 3, fold_kernel<1, 3>},
        {folded(2), 2, fold_kernel<2, 2>}, {folded(4), 2, fold_kernel<4, 2>}, {folded(8), 2, fold_kernel<8, 2>},
        {folded(16), 2, fold_kernel<16, 2>},
    },
    depthwise,
    elementwise::add,
    elementwise::multiply,
    lookup,
};

}  // namespace oaq
