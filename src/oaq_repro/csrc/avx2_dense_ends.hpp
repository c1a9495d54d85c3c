// How the sums of a tile begin and end: what the dense AVX2 kernels have around their loops. 16 channels of a pixel are two
// vectors of 32-bit sums; of two pixels, one vector of codes.
#pragma once

#include "avx2.hpp"

namespace oaq::avx2 {

// int32 sums of 8 channels to scaled and rounded int32. Products stay below 2^31 (OutputConstants): nothing is clamped here.
OAQ_INLINE __m256i scale(__m256i acc, const float* multiplier) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_loadu_ps(multiplier)));
}

struct Epilogue {
    explicit Epilogue(const OutputConstants& constants)
        : zero_point(_mm256_set1_epi16(static_cast<short>(constants.zero_point))),
          highest(_mm256_set1_epi8(static_cast<char>(constants.q_max))),
          shifted(constants.zero_point != 0),
          multiplier(constants.multiplier) {}

    // 16 channels of one pixel as int16 codes, in the order 0-3, 8-11, 4-7, 12-15.
    OAQ_INLINE __m256i codes16(__m256i low, __m256i high) const {
        const __m256i codes = _mm256_packs_epi32(scale(low, multiplier), scale(high, multiplier + 8));
        return shifted ? _mm256_adds_epi16(codes, zero_point) : codes;  // not after a ReLU
    }

    // Both halves clamped to codes and put in order: 16 channels of `first` below those of `second`.
    OAQ_INLINE __m256i codes8(__m256i first, __m256i second) const {
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        const __m256i codes = _mm256_min_epu8(_mm256_packus_epi16(first, second), highest);
        return _mm256_permutevar8x32_epi32(codes, order);
    }

    __m256i zero_point, highest;
    bool shifted;
    const float* multiplier;
};

template <int R>
OAQ_INLINE void write(const DenseBlock& block, int first, const __m256i (&acc)[R][2]) {
    const Epilogue epilogue(block.constants);
    std::uint8_t* out[R];  // read before the first byte is written, which might be one of the tile's
    each<R>([&](auto r) OAQ_LAMBDA { out[r] = block.out[first + r] + block.out_offset; });
    const int channels = block.channels;
    each<(R + 1) / 2>([&](auto i) OAQ_LAMBDA {
        constexpr int r = 2 * decltype(i)::value, next = r + 1 < R ? r + 1 : r;
        const __m256i first = epilogue.codes16(acc[r][0], acc[r][1]);
        const __m256i second = next == r ? first : epilogue.codes16(acc[next][0], acc[next][1]);
        const __m256i codes = epilogue.codes8(first, second);
        store(out[r], _mm256_castsi256_si128(codes), channels);
        if (next != r) store(out[next], _mm256_extracti128_si256(codes, 1), channels);
    });
}

template <int R>
OAQ_INLINE void add_bias(const DenseBlock& block, __m256i (&acc)[R][2]) {
    const __m256i low = load(block.constants.bias), high = load(block.constants.bias + 8);
    each<R>([&](auto r) OAQ_LAMBDA {
        acc[r][0] = _mm256_add_epi32(acc[r][0], low);
        acc[r][1] = _mm256_add_epi32(acc[r][1], high);
    });
}

// What 32-bit accumulators leave, kept to fewer bits where that is asked for.
template <int R>
OAQ_INLINE void finish(const DenseBlock& block, int first, __m256i (&acc)[R][2]) {
    if (block.constants.wrap_shift != 0) {
        each<R>([&](auto r) OAQ_LAMBDA {
            each<2>([&](auto v) OAQ_LAMBDA { acc[r][v] = wrap(acc[r][v], block.constants.wrap_shift); });
        });
        add_bias<R>(block, acc);
    }
    write<R>(block, first, acc);
}

// First values of accumulators of 8 channels each. Of 16-bit halves, the lower one takes all of the start.
template <int R>
OAQ_INLINE void begin(const DenseBlock& block, __m256i (&acc)[R][2], bool halves = false) {
    const __m256i mask = _mm256_set1_epi32(halves ? 0xffff : -1);
    const __m256i low = _mm256_and_si256(load(block.constants.start), mask);
    const __m256i high = _mm256_and_si256(load(block.constants.start + 8), mask);
    each<R>([&](auto r) OAQ_LAMBDA {
        acc[r][0] = low;
        acc[r][1] = high;
    });
}

}  // namespace oaq::avx2
