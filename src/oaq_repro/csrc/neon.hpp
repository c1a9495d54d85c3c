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
