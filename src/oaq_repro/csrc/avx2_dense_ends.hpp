// How the sums of a tile begin and end: what the dense AVX2 kernels have around their loops. 16 channels of a pixel are two
// vectors of 32-bit sums, or of pairs of 16-bit halves; of two pixels, one vector of codes.
#pragma once

#include "avx2_epilogue.hpp"

namespace oaq::avx2 {

// Writes the codes of a tile's pixels; values(r): those of pixel r. All are made before the first byte is written: it might be
// one of what is read, for all that the compiler knows, and then constants would be loaded again.
template <int R, Requantization K, typename PixelValues>
OAQ_INLINE void write(const DenseBlock& block, const Epilogue16<K>& epilogue, int first, const PixelValues& values) {
    std::uint8_t* out[R];
    __m256i codes[(R + 1) / 2];
    each<R>([&](auto r) OAQ_LAMBDA { out[r] = block.out[first + r] + block.out_offset; });
    each<(R + 1) / 2>([&](auto i) OAQ_LAMBDA {
        const __m256i first = values(2 * i);
        codes[i] = epilogue.codes(first, 2 * i + 1 < R ? values(2 * i + 1 < R ? 2 * i + 1 : 0) : first);
    });
    const int channels = block.channels;
    each<R>([&](auto r) OAQ_LAMBDA {
        store(out[r], r % 2 == 0 ? _mm256_castsi256_si128(codes[r / 2]) : _mm256_extracti128_si256(codes[r / 2], 1), channels);
    });
}

// What 32-bit accumulators leave.
template <int R, Requantization K>
OAQ_INLINE void finish(const DenseBlock& block, const Epilogue16<K>& epilogue, int first, __m256i (&acc)[R][2]) {
    if (epilogue.values.biases.wrap_sums())
        each<R>([&](auto r) OAQ_LAMBDA { epilogue.values.biases.wrap_and_add(acc[r][0], acc[r][1]); });
    write<R>(block, epilogue, first, [&](int r) OAQ_LAMBDA { return epilogue.values.of_wide(acc[r][0], acc[r][1]); });
}

// What 16-bit halves leave: their sums modulo 2^16.
template <int R, Requantization K>
OAQ_INLINE void join(const DenseBlock& block, const Epilogue16<K>& epilogue, int first, const __m256i (&halves)[R][2]) {
    write<R>(block, epilogue, first, [&](int r) OAQ_LAMBDA {
        return epilogue.values.of_narrow(_mm256_hadd_epi16(halves[r][0], halves[r][1]));
    });
}

// First values of 32-bit accumulators.
template <int R>
OAQ_INLINE void begin(const DenseBlock& block, __m256i (&acc)[R][2]) {
    const __m256i low = load(block.constants.start), high = load(block.constants.start + 8);
    each<R>([&](auto r) OAQ_LAMBDA {
        acc[r][0] = low;
        acc[r][1] = high;
    });
}

// First values of 16-bit halves, of which the lower one takes all.
template <int R, Requantization K>
OAQ_INLINE void begin_halves(const DenseBlock& block, __m256i (&halves)[R][2]) {
    begin<R>(block, halves);
    const __m256i mask = _mm256_set1_epi32(0xffff), begin = _mm256_set1_epi32(Values<K>::kBegin & 0xffff);
    each<2>([&](auto v) OAQ_LAMBDA {
        const __m256i first = _mm256_xor_si256(_mm256_and_si256(halves[0][v], mask), begin);
        each<R>([&](auto r) OAQ_LAMBDA { halves[r][v] = first; });
    });
}

}  // namespace oaq::avx2
