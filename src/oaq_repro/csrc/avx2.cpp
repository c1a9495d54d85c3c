// Kernels for x86-64 with AVX2 and no dot-product instructions. This file alone is compiled with -mavx2.
//
// vpmaddubsw multiplies 32 unsigned by 32 signed codes and adds pairs, saturating, to 16 sums of int16: with vpaddw, 32
// products in two instructions; vpmaddwd by ones and vpaddd, where 32-bit accumulators are needed, make it four. A tile
// of 6 pixels by 16 channels (3 pixels where 16- and 32-bit accumulators live side by side) fills the 16 registers.
#include <immintrin.h>

#include <cstring>

#include "kernels.hpp"

#define OAQ_UNROLL _Pragma("GCC unroll 16")

namespace oaq {
namespace {

__m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

__m256i broadcast(const std::uint8_t* p) {
    std::int32_t codes;
    std::memcpy(&codes, p, sizeof codes);
    return _mm256_set1_epi32(codes);
}

// int32 sums of 8 channels to scaled and rounded int32, bounded above only: packing bounds them below.
__m256i scale(__m256i acc, const std::int32_t* bias, const float* multiplier, __m256 highest) {
    const __m256 value = _mm256_cvtepi32_ps(_mm256_add_epi32(acc, load(bias)));
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(value, _mm256_loadu_ps(multiplier)), highest));
}

// Sign extension from the lowest 32 - shift bits.
__m256i wrap(__m256i acc, int shift) {
    const __m128i count = _mm_cvtsi32_si128(shift);
    return _mm256_sra_epi32(_mm256_sll_epi32(acc, count), count);
}

void store(std::uint8_t* out, __m128i codes, int channels) {
    if (channels >= 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), codes);
        return;
    }
    alignas(16) std::uint8_t buffer[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(buffer), codes);
    std::memcpy(out, buffer, static_cast<std::size_t>(channels));
}

struct Epilogue {
    explicit Epilogue(const Output& output)
        : highest(_mm256_set1_ps(static_cast<float>(output.q_max - output.zero_point))),
          zero_point(_mm256_set1_epi16(static_cast<short>(output.zero_point))),
          bias(output.bias),
          multiplier(output.multiplier) {}

    // 16 channels of one pixel as int16 codes, in the order 0-3, 8-11, 4-7, 12-15.
    __m256i codes16(__m256i low, __m256i high, int channel = 0) const {
        const __m256i a = scale(low, bias + channel, multiplier + channel, highest);
        const __m256i b = scale(high, bias + channel + 8, multiplier + channel + 8, highest);
        return _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero_point);
    }

    __m256 highest;
    __m256i zero_point;
    const std::int32_t* bias;
    const float* multiplier;
};

template <int R>
void write(const DenseTile& tile, __m256i (&acc)[R][2]) {
    const Epilogue epilogue(tile.output);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    OAQ_UNROLL for (int r = 0; r < R; r += 2) {
        const int next = r + 1 < R ? r + 1 : r;
        const __m256i first = epilogue.codes16(acc[r][0], acc[r][1]);
        const __m256i second = next == r ? first : epilogue.codes16(acc[next][0], acc[next][1]);
        const __m256i codes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order);
        store(tile.out[r] + tile.out_offset, _mm256_castsi256_si128(codes), tile.channels);
        if (next != r) store(tile.out[next] + tile.out_offset, _mm256_extracti128_si256(codes, 1), tile.channels);
    }
}

// What 32-bit accumulators leave, kept to fewer bits where that is asked for.
template <int R>
void finish(const DenseTile& tile, __m256i (&acc)[R][2]) {
    if (tile.output.wrap_shift != 0)
        OAQ_UNROLL for (int r = 0; r < R; ++r)
            OAQ_UNROLL for (int v = 0; v < 2; ++v) acc[r][v] = wrap(acc[r][v], tile.output.wrap_shift);
    write<R>(tile, acc);
}

template <int R>
void dense_wrap(const DenseTile& tile) {
    __m256i acc[R][2];
    OAQ_UNROLL for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    const std::int8_t* w = static_cast<const std::int8_t*>(tile.weights);
    for (int run = 0; run < tile.run_count; ++run) {
        const std::ptrdiff_t length = tile.runs[run].steps * kStep;
        const std::uint8_t* in[R];
        OAQ_UNROLL for (int r = 0; r < R; ++r) in[r] = tile.in[r] + tile.runs[run].offset + length;
        for (std::ptrdiff_t k = -length; k < 0; k += kStep, w += kPanel * kStep) {
            const __m256i w0 = load(w), w1 = load(w + 32);
            OAQ_UNROLL for (int r = 0; r < R; ++r) {
                const __m256i codes = broadcast(in[r] + k);
                acc[r][0] = _mm256_add_epi16(acc[r][0], _mm256_maddubs_epi16(codes, w0));
                acc[r][1] = _mm256_add_epi16(acc[r][1], _mm256_maddubs_epi16(codes, w1));
            }
        }
    }
    // Both halves and the start, modulo 2^16, sign-extended.
    OAQ_UNROLL for (int r = 0; r < R; ++r) {
        OAQ_UNROLL for (int v = 0; v < 2; ++v) {
            const __m256i low = _mm256_add_epi16(acc[r][v], load(tile.output.start + 8 * v));
            acc[r][v] = _mm256_srai_epi32(_mm256_add_epi16(_mm256_slli_epi32(low, 16), acc[r][v]), 16);
        }
    }
    write<R>(tile, acc);
}

template <int R>
void add_pairs(__m256i (&acc)[R][2], const __m256i (&halves)[R][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    OAQ_UNROLL for (int r = 0; r < R; ++r)
        OAQ_UNROLL for (int v = 0; v < 2; ++v)
            acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_madd_epi16(halves[r][v], ones));
}

// S steps in 16 bits, then 32 bits.
template <int R, int S>
void block(const std::uint8_t* const (&in)[R], std::ptrdiff_t k, const std::int8_t* w, __m256i (&acc)[R][2]) {
    __m256i halves[R][2];
    OAQ_UNROLL for (int s = 0; s < S; ++s) {
        const __m256i w0 = load(w + s * kPanel * kStep), w1 = load(w + s * kPanel * kStep + 32);
        OAQ_UNROLL for (int r = 0; r < R; ++r) {
            const __m256i codes = broadcast(in[r] + k + s * kStep);
            const __m256i a = _mm256_maddubs_epi16(codes, w0), b = _mm256_maddubs_epi16(codes, w1);
            halves[r][0] = s == 0 ? a : _mm256_add_epi16(halves[r][0], a);
            halves[r][1] = s == 0 ? b : _mm256_add_epi16(halves[r][1], b);
        }
    }
    add_pairs<R>(acc, halves);
}

template <int R, int S>
void dense_fold(const DenseTile& tile) {
    __m256i acc[R][2];
    OAQ_UNROLL for (int r = 0; r < R; ++r)
        OAQ_UNROLL for (int v = 0; v < 2; ++v) acc[r][v] = load(tile.output.start + 8 * v);
    const std::int8_t* w = static_cast<const std::int8_t*>(tile.weights);
    for (int run = 0; run < tile.run_count; ++run) {
        const std::ptrdiff_t length = tile.runs[run].steps * kStep;
        const std::uint8_t* in[R];
        OAQ_UNROLL for (int r = 0; r < R; ++r) in[r] = tile.in[r] + tile.runs[run].offset + length;
        std::ptrdiff_t k = -length;
        for (; k + S * kStep <= 0; k += S * kStep, w += S * kPanel * kStep) block<R, S>(in, k, w, acc);
        if (S > 1)
            for (; k < 0; k += kStep, w += kPanel * kStep) block<R, 1>(in, k, w, acc);
    }
    finish<R>(tile, acc);
}

// 4 codes widened to 16 bits meet 4 channels per vector: two sums of two products per channel.
template <int R>
void dense_exact(const DenseTile& tile) {
    __m256i sums[R][4];
    OAQ_UNROLL for (int r = 0; r < R; ++r) OAQ_UNROLL for (int v = 0; v < 4; ++v) sums[r][v] = _mm256_setzero_si256();
    const std::int16_t* w = static_cast<const std::int16_t*>(tile.weights);
    for (int run = 0; run < tile.run_count; ++run) {
        const std::ptrdiff_t length = tile.runs[run].steps * kStep;
        const std::uint8_t* in[R];
        OAQ_UNROLL for (int r = 0; r < R; ++r) in[r] = tile.in[r] + tile.runs[run].offset + length;
        for (std::ptrdiff_t k = -length; k < 0; k += kStep, w += kPanel * kStep) {
            __m256i codes[R];
            OAQ_UNROLL for (int r = 0; r < R; ++r)
                codes[r] = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(broadcast(in[r] + k)));
            OAQ_UNROLL for (int v = 0; v < 4; ++v) {
                const __m256i weights = load(w + 16 * v);
                OAQ_UNROLL for (int r = 0; r < R; ++r)
                    sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(codes[r], weights));
            }
        }
    }
    const __m256i order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);  // hadd works within 128-bit lanes
    __m256i acc[R][2];
    OAQ_UNROLL for (int r = 0; r < R; ++r) {
        OAQ_UNROLL for (int v = 0; v < 2; ++v) {
            const __m256i sum = _mm256_hadd_epi32(sums[r][2 * v], sums[r][2 * v + 1]);
            acc[r][v] = _mm256_add_epi32(_mm256_permutevar8x32_epi32(sum, order), load(tile.output.start + 8 * v));
        }
    }
    finish<R>(tile, acc);
}

// 32 channels per vector. Interleaving two taps' codes works within 128-bit lanes, so the sums hold the channels
// 0-7, 16-23 and 8-15, 24-31.
void widen(const __m256i (&sum)[2], __m256i (&acc)[4]) {
    OAQ_UNROLL for (int h = 0; h < 2; ++h) {
        acc[h] = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum[h]));
        acc[h + 2] = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum[h], 1));
    }
}

// TAPS: number of pairs where it is known (3x3: 5), else 0.
template <int TAPS, bool FOLD>
void depthwise_row(const DepthwiseRow& row) {
    const Epilogue epilogue(row.output);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    alignas(32) std::int16_t start[2][16];
    for (int c = 0; c < kChannelBlock; ++c)
        start[depthwise_place(c) / 16][depthwise_place(c) % 16] = FOLD ? 0 : static_cast<std::int16_t>(row.output.start[c]);
    const int taps = TAPS != 0 ? TAPS : row.tap_count;
    for (int p = 0; p < row.pixels; ++p) {
        const std::uint8_t* in = row.in + p * row.in_step;
        __m256i sum[2] = {load(start[0]), load(start[1])};
        __m256i acc[4], part[4];
        if (FOLD)
            OAQ_UNROLL for (int v = 0; v < 4; ++v) acc[v] = load(row.output.start + 8 * v);
        int left = row.fold;
        OAQ_UNROLL for (int t = 0; t < taps; ++t) {
            const __m256i a = load(in + row.taps[t].a), b = load(in + row.taps[t].b);
            const std::int8_t* w = row.weights + t * kChannelBlock * 2;
            sum[0] = _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), load(w)));
            sum[1] = _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), load(w + 32)));
            if (FOLD && (--left == 0 || t + 1 == taps)) {
                widen(sum, part);
                OAQ_UNROLL for (int v = 0; v < 4; ++v) acc[v] = _mm256_add_epi32(acc[v], part[v]);
                sum[0] = sum[1] = _mm256_setzero_si256();
                left = row.fold;
            }
        }
        if (!FOLD) widen(sum, acc);
        if (FOLD && row.output.wrap_shift != 0)
            OAQ_UNROLL for (int v = 0; v < 4; ++v) acc[v] = wrap(acc[v], row.output.wrap_shift);
        const __m256i low = epilogue.codes16(acc[0], acc[1]), high = epilogue.codes16(acc[2], acc[3], 16);
        const __m256i codes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
        std::uint8_t* out = row.out + p * row.out_step;
        if (row.channels == kChannelBlock) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), codes);
        } else {
            store(out, _mm256_castsi256_si128(codes), row.channels);
            if (row.channels > 16) store(out + 16, _mm256_extracti128_si256(codes, 1), row.channels - 16);
        }
    }
}

void depthwise(const DepthwiseRow& row) {
    if (row.fold != 0)
        row.tap_count == 5 ? depthwise_row<5, true>(row) : depthwise_row<0, true>(row);
    else
        row.tap_count == 5 ? depthwise_row<5, false>(row) : depthwise_row<0, false>(row);
}

template <int S>
constexpr DenseRoute fold_route() {
    return {S, 3, {nullptr, dense_fold<1, S>, dense_fold<2, S>, dense_fold<3, S>}};
}

bool available() { return __builtin_cpu_supports("avx2") != 0; }

}  // namespace

extern const KernelSet kAvx2;
const KernelSet kAvx2 = {
    "avx2", available, 255, true,
    {
        {kExact, 3, {nullptr, dense_exact<1>, dense_exact<2>, dense_exact<3>}},
        {0, 6, {nullptr, dense_wrap<1>, dense_wrap<2>, dense_wrap<3>, dense_wrap<4>, dense_wrap<5>, dense_wrap<6>}},
        {1, 6,
         {nullptr, dense_fold<1, 1>, dense_fold<2, 1>, dense_fold<3, 1>, dense_fold<4, 1>, dense_fold<5, 1>,
          dense_fold<6, 1>}},
        fold_route<2>(), fold_route<4>(), fold_route<8>(), fold_route<16>(),
    },
    depthwise,
};

}  // namespace oaq
