// From sums to codes on AVX2: a class per requantization, made of a layer's constants once per call of a kernel.
//
// Sums of 16 channels come as two vectors of int32, or as one of int16 in the order in which vpackssdw puts the former. They
// become one vector of int16 values in that order; two of these are packed to codes.
#pragma once

#include "avx2.hpp"
#include "requantize.hpp"

namespace oaq::avx2 {

// Where the constants of two vectors stand. Of a dense panel: channels 0-7 and 8-15, packed to 0-3, 8-11, 4-7, 12-15.
struct Contiguous {
    OAQ_INLINE static __m256i low(const void* p) { return load(p); }
    OAQ_INLINE static __m256i high(const void* p) { return load(static_cast<const std::int32_t*>(p) + 8); }
};

// Part H of two of 32 channels whose codes were interleaved within 128-bit lanes: 16-bit sums of the first part are those
// of channels 0-7 and 16-23, those of the second 8-15 and 24-31; in 32 bits 0-3, 16-19 and so on.
template <int H>
struct Interleaved {
    OAQ_INLINE static __m256i low(const void* p) { return both(static_cast<const std::int32_t*>(p) + 8 * H); }
    OAQ_INLINE static __m256i high(const void* p) { return both(static_cast<const std::int32_t*>(p) + 8 * H + 4); }

private:
    OAQ_INLINE static __m256i both(const std::int32_t* p) {
        const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16));
        return _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    }
};

// Lower halves of 64-bit vectors, in turn.
OAQ_INLINE __m256i joined(__m256i even, __m256i odd) { return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa); }

// Values of 8 sums with their bias, int32, by multipliers of one kind.
template <Requantization K>
class Scale;

// Products stay below 2^31 (OutputConstants): nothing is clamped.
template <>
class Scale<Requantization::kFloat32> {
public:
    template <typename Take>
    OAQ_INLINE Scale(const Multipliers& multipliers, const Take& take)
        : multiplier_(_mm256_castsi256_ps(take(multipliers.real))) {}

    OAQ_INLINE __m256i operator()(__m256 sums) const { return _mm256_cvtps_epi32(_mm256_mul_ps(sums, multiplier_)); }
    OAQ_INLINE __m256i operator()(__m256i sums) const { return (*this)(_mm256_cvtepi32_ps(sums)); }

private:
    __m256 multiplier_;
};

// Every other sum at a time, as products take 64 bits. These have no arithmetic shift: 2^62 more, they are not negative, and
// what that leaves is taken off. Values stay below 2^31 (OutputConstants), so that their lower halves are all of them.
template <>
class Scale<Requantization::kDyadic> {
public:
    template <typename Take>
    OAQ_INLINE Scale(const Multipliers& multipliers, const Take& take) {
        const __m256i integer = take(multipliers.integer), shift = take(multipliers.shift);
        const __m256i one = _mm256_set1_epi64x(1), offset = _mm256_set1_epi64x(std::int64_t{1} << 62);
        const __m256i lower = _mm256_set1_epi64x(0xffffffff);
        __m256i left[2];
        each<2>([&](auto odd) OAQ_LAMBDA {
            multiplier_[odd] = odd == 0 ? integer : _mm256_srli_epi64(integer, 32);
            shift_[odd] = odd == 0 ? _mm256_and_si256(shift, lower) : _mm256_srli_epi64(shift, 32);
            const __m256i half = _mm256_sllv_epi64(one, _mm256_sub_epi64(shift_[odd], one));
            more_[odd] = _mm256_add_epi64(offset, half);
            left[odd] = _mm256_srlv_epi64(offset, shift_[odd]);
        });
        left_ = joined(left[0], left[1]);
    }

    OAQ_INLINE __m256i operator()(__m256i sums) const {
        const __m256i even = shifted(_mm256_mul_epi32(sums, multiplier_[0]), 0);
        const __m256i odd = shifted(_mm256_mul_epi32(_mm256_srli_epi64(sums, 32), multiplier_[1]), 1);
        return _mm256_sub_epi32(joined(even, odd), left_);
    }

private:
    OAQ_INLINE __m256i shifted(__m256i product, int odd) const {
        return _mm256_srlv_epi64(_mm256_add_epi64(product, more_[odd]), shift_[odd]);
    }

    __m256i multiplier_[2], more_[2], shift_[2], left_;
};

// Biases of 16 channels, and what a wrap_shift does before they are added.
class Biases {
public:
    template <typename Order>
    OAQ_INLINE Biases(const OutputConstants& constants, Order)
        : low(Order::low(constants.bias)), high(Order::high(constants.bias)), shift_(constants.wrap_shift) {}

    OAQ_INLINE bool wrap_sums() const { return shift_ != 0; }
    OAQ_INLINE void wrap_and_add(__m256i& first, __m256i& second) const {
        first = _mm256_add_epi32(wrap(first, shift_), low);
        second = _mm256_add_epi32(wrap(second, shift_), high);
    }

    const __m256i low, high;

private:
    int shift_;
};

// Values of the sums of 16 channels. kBegin: what sums of 16 bits begin with beside their start.
template <Requantization K>
class Values {
public:
    static constexpr short kBegin = K == Requantization::kFloat32 ? -(1 << 15) : 0;

    template <typename Order>
    OAQ_INLINE Values(const OutputConstants& constants, Order order)
        : biases(constants, order), low_(constants.multipliers, Order::low), high_(constants.multipliers, Order::high),
          less_low_(less(biases.low)), less_high_(less(biases.high)) {}

    // Of sums with their bias.
    OAQ_INLINE __m256i of_wide(__m256i low, __m256i high) const { return _mm256_packs_epi32(low_(low), high_(high)); }

    OAQ_INLINE __m256i of_narrow(__m256i sums) const {
        if constexpr (K == Requantization::kFloat32) {
            // Unsigned sums u, as they began 2^15 higher. Behind u the upper half of the float32 2^23 makes 2^23 + u; less
            // 2^23 + 2^15 - bias, which is exact up to kLargestBias, that is the sum with its bias.
            const __m256i exponent = _mm256_set1_epi16(0x4b00);
            const __m256 low = _mm256_castsi256_ps(_mm256_unpacklo_epi16(sums, exponent));
            const __m256 high = _mm256_castsi256_ps(_mm256_unpackhi_epi16(sums, exponent));
            return _mm256_packs_epi32(low_(_mm256_sub_ps(low, less_low_)), high_(_mm256_sub_ps(high, less_high_)));
        } else {
            const __m256i low = _mm256_srai_epi32(_mm256_unpacklo_epi16(sums, sums), 16);
            const __m256i high = _mm256_srai_epi32(_mm256_unpackhi_epi16(sums, sums), 16);
            return _mm256_packs_epi32(low_(_mm256_add_epi32(low, biases.low)), high_(_mm256_add_epi32(high, biases.high)));
        }
    }

    const Biases biases;

private:
    OAQ_INLINE static __m256 less(__m256i bias) {
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_set1_epi32((1 << 23) + (1 << 15)), bias));
    }

    Scale<K> low_, high_;
    __m256 less_low_, less_high_;  // of float32
};

// Nothing leaves 16 bits.
template <>
class Values<Requantization::kFixed16> {
public:
    static constexpr short kBegin = 0;

    template <typename Order>
    OAQ_INLINE Values(const OutputConstants& constants, Order order)
        : biases(constants, order), bias_(_mm256_packs_epi32(biases.low, biases.high)),
          multiplier_(_mm256_packs_epi32(Order::low(constants.multipliers.integer), Order::high(constants.multipliers.integer))) {}

    OAQ_INLINE __m256i of_wide(__m256i low, __m256i high) const {
        return _mm256_mulhrs_epi16(_mm256_packs_epi32(low, high), multiplier_);
    }

    OAQ_INLINE __m256i of_narrow(__m256i sums) const {
        return _mm256_mulhrs_epi16(_mm256_adds_epi16(sums, bias_), multiplier_);
    }

    const Biases biases;

private:
    __m256i bias_, multiplier_;
};

// Values, int16, to codes.
class ToCodes {
public:
    OAQ_INLINE ToCodes(int zero_point, int q_max)
        : zero_point_(_mm256_set1_epi16(static_cast<short>(zero_point))),
          highest_(_mm256_set1_epi8(static_cast<char>(q_max))), shifted_(zero_point != 0) {}

    OAQ_INLINE __m256i operator()(__m256i first, __m256i second) const {
        if (shifted_) {  // not after a ReLU, where a branch costs less than two vector instructions
            first = _mm256_adds_epi16(first, zero_point_);
            second = _mm256_adds_epi16(second, zero_point_);
        }
        return _mm256_min_epu8(_mm256_packus_epi16(first, second), highest_);
    }

private:
    __m256i zero_point_, highest_;
    bool shifted_;
};

// Codes of vectors that were packed twice, within 128-bit lanes, put in the order of what was packed.
OAQ_INLINE __m256i in_order(__m256i codes) {
    return _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// The first `count` of 32 codes.
OAQ_INLINE void store_codes(std::uint8_t* out, __m256i codes, int count) {
    if (count == 32) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), codes);
        return;
    }
    store(out, _mm256_castsi256_si128(codes), count);
    if (count > 16) store(out + 16, _mm256_extracti128_si256(codes, 1), count - 16);
}

// Of 16 channels of several pixels.
template <Requantization K>
class Epilogue16 {
public:
    explicit OAQ_INLINE Epilogue16(const OutputConstants& constants)
        : values(constants, Contiguous()), codes_(constants.zero_point, constants.q_max) {}

    // Codes of two pixels, side by side.
    OAQ_INLINE __m256i codes(__m256i first, __m256i second) const { return in_order(codes_(first, second)); }

    const Values<K> values;

private:
    ToCodes codes_;
};

// Of 32 channels of a pixel, in the order of Interleaved: packing puts them in their own.
template <Requantization K>
class Epilogue32 {
public:
    explicit OAQ_INLINE Epilogue32(const OutputConstants& constants)
        : first_(constants, Interleaved<0>()), second_(constants, Interleaved<1>()),
          codes_(constants.zero_point, constants.q_max) {
        start[0] = Interleaved<0>::low(constants.start);
        start[1] = Interleaved<0>::high(constants.start);
        start[2] = Interleaved<1>::low(constants.start);
        start[3] = Interleaved<1>::high(constants.start);
        const __m256i mask = _mm256_set1_epi32(0xffff), begin = _mm256_set1_epi16(Values<K>::kBegin);
        each<2>([&](auto h) OAQ_LAMBDA {
            const __m256i low = _mm256_and_si256(start[2 * h], mask), high = _mm256_and_si256(start[2 * h + 1], mask);
            start16[h] = _mm256_xor_si256(_mm256_packus_epi32(low, high), begin);
        });
    }

    // 32-bit sums, which `start` began.
    OAQ_INLINE void write(std::uint8_t* out, int channels, __m256i (&acc)[4]) const {
        if (first_.biases.wrap_sums()) {
            first_.biases.wrap_and_add(acc[0], acc[1]);
            second_.biases.wrap_and_add(acc[2], acc[3]);
        }
        store_codes(out, codes_(first_.of_wide(acc[0], acc[1]), second_.of_wide(acc[2], acc[3])), channels);
    }

    // 16-bit sums, without bias, which `start16` began.
    OAQ_INLINE void write(std::uint8_t* out, int channels, const __m256i (&sum)[2]) const {
        store_codes(out, codes_(first_.of_narrow(sum[0]), second_.of_narrow(sum[1])), channels);
    }

    __m256i start[4], start16[2];

private:
    Values<K> first_, second_;
    ToCodes codes_;
};

}  // namespace oaq::avx2
