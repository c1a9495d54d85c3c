// What the AVX2 kernels share. Only for files that are compiled with -mavx2.
#pragma once

#include <immintrin.h>

#include <type_traits>
#include <utility>

#include "kernels.hpp"

#define OAQ_LAMBDA __attribute__((always_inline))
#define OAQ_INLINE __attribute__((always_inline)) inline

namespace oaq {

bool cpu_has_avx2();  // dispatch.cpp, which is compiled for any CPU

namespace avx2 {

// f(0), ..., f(N - 1) with compile-time indices, so that arrays of vectors become registers.
template <typename F, int... I>
OAQ_INLINE void each(const F& f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>()), ...);
}
template <int N, typename F>
OAQ_INLINE void each(const F& f) {
    each(f, std::make_integer_sequence<int, N>());
}

// N codes, as an operand of assembly.
template <int N>
struct Codes {
    std::uint8_t codes[N];
};
template <int N>
inline const Codes<N>& at(const std::uint8_t* in) {
    return *reinterpret_cast<const Codes<N>*>(in);
}

OAQ_INLINE __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// Sign extension from the lowest 32 - shift bits.
OAQ_INLINE __m256i wrap(__m256i acc, int shift) {
    const __m128i count = _mm_cvtsi32_si128(shift);
    return _mm256_sra_epi32(_mm256_sll_epi32(acc, count), count);
}

OAQ_INLINE void store(std::uint8_t* out, __m128i codes, int channels) {
    if (channels >= 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), codes);
        return;
    }
    if (channels & 8) {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out), codes);
        codes = _mm_srli_si128(codes, 8);
        out += 8;
    }
    if ((channels & 7) != 0) {
        std::uint64_t left = static_cast<std::uint64_t>(_mm_cvtsi128_si64(codes));
        for (int c = 0; c < (channels & 7); ++c, left >>= 8) out[c] = static_cast<std::uint8_t>(left);
    }
}

// Requantization of 32 channels, in the order that interleaving within 128-bit lanes asks for: two vectors of 16-bit sums
// hold 0-7, 16-23 and 8-15, 24-31; widened, four vectors hold 0-3, 16-19 and so on, which packing puts in order by
// itself. The constants are brought into that order once a block.
//
// 16-bit sums start 2^15 higher (start16), so that they are unsigned. Behind such a sum u the upper half of the float32
// 2^23 makes 2^23 + u; less 2^23 + 2^15 - bias, which is exact up to kLargestBias, that is the sum with its bias.
class Epilogue32 {
public:
    explicit Epilogue32(const OutputConstants& constants)
        : zero_point_(_mm256_set1_epi16(static_cast<short>(constants.zero_point))),
          highest_(_mm256_set1_epi8(static_cast<char>(constants.q_max))),
          shifted_(constants.zero_point != 0),
          wrap_shift_(constants.wrap_shift) {
        each<4>([&](auto v) OAQ_LAMBDA {
            start[v] = both(constants.start + 4 * v);
            bias_[v] = both(constants.bias + 4 * v);
            less_[v] = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_set1_epi32((1 << 23) + (1 << 15)), bias_[v]));
            multiplier_[v] = _mm256_castsi256_ps(both(reinterpret_cast<const std::int32_t*>(constants.multiplier) + 4 * v));
        });
        const __m256i mask = _mm256_set1_epi32(0xffff), half = _mm256_set1_epi16(-(1 << 15));
        each<2>([&](auto h) OAQ_LAMBDA {
            const __m256i low = _mm256_and_si256(start[2 * h], mask), high = _mm256_and_si256(start[2 * h + 1], mask);
            start16[h] = _mm256_xor_si256(_mm256_packus_epi32(low, high), half);
        });
    }

    // 32-bit sums of one pixel.
    OAQ_INLINE void write(std::uint8_t* out, int channels, __m256i (&acc)[4]) const {
        if (wrap_shift_ != 0)
            each<4>([&](auto v) OAQ_LAMBDA { acc[v] = _mm256_add_epi32(wrap(acc[v], wrap_shift_), bias_[v]); });
        __m256 sums[4];
        each<4>([&](auto v) OAQ_LAMBDA { sums[v] = _mm256_cvtepi32_ps(acc[v]); });
        scale_and_store(out, channels, sums);
    }

    // 16-bit sums of one pixel, which start16 began.
    OAQ_INLINE void write(std::uint8_t* out, int channels, const __m256i (&sum)[2]) const {
        const __m256i exponent = _mm256_set1_epi16(0x4b00);
        __m256 sums[4];
        each<4>([&](auto v) OAQ_LAMBDA {
            const __m256i& from = sum[v / 2];
            const __m256i raised = v % 2 == 0 ? _mm256_unpacklo_epi16(from, exponent) : _mm256_unpackhi_epi16(from, exponent);
            sums[v] = _mm256_sub_ps(_mm256_castsi256_ps(raised), less_[v]);
        });
        scale_and_store(out, channels, sums);
    }

    __m256i start[4], start16[2];

private:
    // 4 channels, and the 4 that are 16 further.
    static __m256i both(const std::int32_t* p) {
        const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)), 1);
    }

    // Products stay below 2^31 (OutputConstants), so that nothing is clamped before packing.
    OAQ_INLINE void scale_and_store(std::uint8_t* out, int channels, const __m256 (&sums)[4]) const {
        __m256i acc[4];
        each<4>([&](auto v) OAQ_LAMBDA { acc[v] = _mm256_cvtps_epi32(_mm256_mul_ps(sums[v], multiplier_[v])); });
        __m256i low = _mm256_packs_epi32(acc[0], acc[1]), high = _mm256_packs_epi32(acc[2], acc[3]);
        if (shifted_) {  // not after a ReLU, where a branch costs less than two vector instructions
            low = _mm256_adds_epi16(low, zero_point_);
            high = _mm256_adds_epi16(high, zero_point_);
        }
        const __m256i codes = _mm256_min_epu8(_mm256_packus_epi16(low, high), highest_);
        if (channels == kChannelBlock) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), codes);
            return;
        }
        store(out, _mm256_castsi256_si128(codes), channels);
        if (channels > 16) store(out + 16, _mm256_extracti128_si256(codes, 1), channels - 16);
    }

    __m256i bias_[4];
    __m256 less_[4], multiplier_[4];
    __m256i zero_point_, highest_;
    bool shifted_;
    int wrap_shift_;
};

void depthwise(const DepthwiseBlock& block);  // avx2_depthwise.cpp
void add(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count,
         const AddConstants& constants);  // avx2_elementwise.cpp
void multiply(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels, std::int64_t count,
              const MultiplyConstants& constants);
void lookup(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const std::uint8_t* table);

}  // namespace avx2
}  // namespace oaq
