// Dense kernels for ARMv8.0-A (neon.hpp).
#include <algorithm>
#include <cstring>

#include "elementwise.hpp"
#include "neon.hpp"

namespace oaq {
namespace neon {
namespace {

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

template <Requantization K, int R, bool SHIFTED>
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
        int16x8_t joined[2];
        for (int h = 0; h < 2; ++h) {
            const int16x8_t* s = sums[r] + 4 * h;
            const int16x8_t all = vpaddq_s16(vpaddq_s16(s[0], s[1]), vpaddq_s16(s[2], s[3]));
            joined[h] = add_wrapping(all, start16(block.constants.start + 8 * h));
        }
        write<K>(block, first + r, joined);
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

template <Requantization K, int R, bool SHIFTED, int S>
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
    for (int r = 0; r < R; ++r) write<K>(block, first + r, acc[r]);
}

// Two codes meet the weights of four channels: a register holds two sums of two channels.
template <Requantization K>
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
    write<K>(block, pixel, acc);
}

void wrap_kernel(const DenseBlock& block) {
    by_block(block, [&](auto kind, auto shifted) {
        tiles<3>(block.pixels, [&](int first, auto rows) { dense_wrap<kind(), rows(), shifted()>(block, first); });
    });
}

template <int S, int ROWS>
void fold_kernel(const DenseBlock& block) {
    by_block(block, [&](auto kind, auto shifted) {
        tiles<ROWS>(block.pixels, [&](int first, auto rows) { dense_fold<kind(), rows(), shifted(), S>(block, first); });
    });
}

void exact_kernel(const DenseBlock& block) {
    by_kind(block.constants.multipliers.kind, [&](auto kind) {
        for (int p = 0; p < block.pixels; ++p) dense_exact<kind()>(block, p);
    });
}

bool available() { return true; }  // every ARMv8-A that runs Linux or macOS has NEON

}  // namespace
}  // namespace neon

extern const KernelSet kNeon;
const KernelSet kNeon = {
    "neon", neon::available, 127, false,
    {
        {{Sums::kExact}, 1, neon::exact_kernel}, {{Sums::kWhole}, 3, neon::wrap_kernel}, {folded(1), 3, neon::fold_kernel<1, 3>},
        {folded(2), 2, neon::fold_kernel<2, 2>}, {folded(4), 2, neon::fold_kernel<4, 2>}, {folded(8), 2, neon::fold_kernel<8, 2>},
        {folded(16), 2, neon::fold_kernel<16, 2>},
    },
    neon::depthwise,
    elementwise::add,
    elementwise::multiply,
    neon::lookup,
};

}  // namespace oaq
