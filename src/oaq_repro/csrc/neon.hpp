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
#pragma once

#include <arm_neon.h>

#include <cstring>
#include <type_traits>

#include "kernels.hpp"
#include "requantize.hpp"

namespace oaq::neon {

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

// `start` of 8 channels modulo 2^16.
inline int16x8_t start16(const std::int32_t* start) {
    return vmovn_high_s32(vmovn_s32(vld1q_s32(start)), vld1q_s32(start + 4));
}

// Of 8 channels, whose constants stand at `channel`. K: the requantization of `constants`.
template <Requantization K>
class Values {
public:
    // Of 32-bit sums.
    static int16x8_t of_wide(int32x4_t low, int32x4_t high, const OutputConstants& constants, int channel) {
        if (constants.wrap_shift != 0) {
            low = with_bias(wrap(low, constants.wrap_shift), constants, channel);
            high = with_bias(wrap(high, constants.wrap_shift), constants, channel + 4);
        }
        return of_sums(low, high, constants, channel);
    }

    // Of 16-bit sums.
    static int16x8_t of_narrow(int16x8_t sums, const OutputConstants& constants, int channel) {
        if constexpr (K == Requantization::kFixed16)
            return of_short(vqaddq_s16(sums, narrowed(constants.bias + channel)), constants, channel);
        return of_sums(with_bias(vmovl_s16(vget_low_s16(sums)), constants, channel),
                       with_bias(vmovl_high_s16(sums), constants, channel + 4), constants, channel);
    }

private:
    static int32x4_t wrap(int32x4_t sums, int shift) {  // sign extension from the lowest 32 - shift bits
        return vshlq_s32(vshlq_s32(sums, vdupq_n_s32(shift)), vdupq_n_s32(-shift));
    }
    static int32x4_t with_bias(int32x4_t sums, const OutputConstants& constants, int channel) {
        return add_wrapping(sums, vld1q_s32(constants.bias + channel));
    }
    static int16x8_t narrowed(const std::int32_t* p) { return vqmovn_high_s32(vqmovn_s32(vld1q_s32(p)), vld1q_s32(p + 4)); }

    static int16x8_t of_short(int16x8_t sums, const OutputConstants& constants, int channel) {
        return vqrdmulhq_s16(sums, narrowed(constants.multipliers.integer + channel));
    }
    static int16x8_t of_sums(int32x4_t low, int32x4_t high, const OutputConstants& constants, int channel) {
        if constexpr (K == Requantization::kFixed16)
            return of_short(vqmovn_high_s32(vqmovn_s32(low), high), constants, channel);
        return vqmovn_high_s32(vqmovn_s32(scaled(low, constants.multipliers, channel)),
                               scaled(high, constants.multipliers, channel + 4));
    }
    static int32x4_t scaled(int32x4_t sums, const Multipliers& multipliers, int channel) {
        if constexpr (K == Requantization::kDyadic) {
            const int32x4_t by = vld1q_s32(multipliers.integer + channel), shift = vnegq_s32(vld1q_s32(multipliers.shift + channel));
            const int64x2_t low = vmull_s32(vget_low_s32(sums), vget_low_s32(by)), high = vmull_high_s32(sums, by);
            return vqmovn_high_s64(vqmovn_s64(vrshlq_s64(low, vmovl_s32(vget_low_s32(shift)))),
                                   vrshlq_s64(high, vmovl_high_s32(shift)));
        } else {  // vcvtn rounds half to even, and saturates
            return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), vld1q_f32(multipliers.real + channel)));
        }
    }
};

// Codes of 16 channels, the first `channels` of them written. Saturation on the way clamps as well: zero_point <= 255.
inline void write(const int16x8_t (&values)[2], const OutputConstants& constants, std::uint8_t* out, int channels) {
    const int16x8_t zero_point = vdupq_n_s16(static_cast<std::int16_t>(constants.zero_point));
    const uint8x8_t low = vqmovun_s16(vqaddq_s16(values[0], zero_point));
    const uint8x16_t codes = vqmovun_high_s16(low, vqaddq_s16(values[1], zero_point));
    const uint8x16_t clamped = vminq_u8(codes, vdupq_n_u8(static_cast<std::uint8_t>(constants.q_max)));
    if (channels >= 16) {
        vst1q_u8(out, clamped);
        return;
    }
    std::uint8_t buffer[16];
    vst1q_u8(buffer, clamped);
    std::memcpy(out, buffer, static_cast<std::size_t>(channels));
}

// Codes of a pixel's sums: 32-bit and 16-bit ones.
template <Requantization K>
inline void write(const DenseBlock& block, int pixel, const int32x4_t (&acc)[4]) {
    int16x8_t values[2];
    for (int h = 0; h < 2; ++h) values[h] = Values<K>::of_wide(acc[2 * h], acc[2 * h + 1], block.constants, 8 * h);
    write(values, block.constants, block.out[pixel] + block.out_offset, block.channels);
}
template <Requantization K>
inline void write(const DenseBlock& block, int pixel, const int16x8_t (&sums)[2]) {
    int16x8_t values[2];
    for (int h = 0; h < 2; ++h) values[h] = Values<K>::of_narrow(sums[h], block.constants, 8 * h);
    write(values, block.constants, block.out[pixel] + block.out_offset, block.channels);
}

// f(kind, shifted), both compile-time constants: the block's requantization, and whether 128 is to be taken off its codes.
template <typename Block, typename F>
inline void by_block(const Block& block, const F& f) {
    by_kind(block.constants.multipliers.kind, [&](auto kind) {
        block.code_offset != 0 ? f(kind, std::true_type()) : f(kind, std::false_type());
    });
}

// All of them, N at a time, then one by one: tile(first, how many).
template <int N, typename Tile>
void tiles(int count, const Tile& tile) {
    int first = 0;
    for (; first + N <= count; first += N) tile(first, std::integral_constant<int, N>());
    for (; first < count; ++first) tile(first, std::integral_constant<int, 1>());
}

void depthwise(const DepthwiseBlock& block);  // neon_depthwise.cpp
void lookup(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const std::uint8_t* table);  // neon_lookup.cpp

}  // namespace oaq::neon
