// Kernels for x86-64 with AVX2 and no dot-product instructions. This file alone is compiled with -mavx2.
//
// vpmaddubsw multiplies 32 unsigned by 32 signed codes and adds pairs, saturating, to 16 sums of int16: with vpaddw, 32
// products in two instructions; vpmaddwd by ones and vpaddd, where 32-bit accumulators are needed, make it four. A tile
// of 6 pixels by 16 channels (3 pixels where 16- and 32-bit accumulators live side by side) fills the 16 registers.
#include <immintrin.h>

#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels.hpp"

#define OAQ_LAMBDA __attribute__((always_inline))
#define OAQ_INLINE __attribute__((always_inline)) inline

namespace oaq {
namespace {

// f(0), ..., f(N - 1) with compile-time indices, so that arrays of vectors become registers.
template <typename F, int... I>
OAQ_INLINE void each(const F& f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>()), ...);
}
template <int N, typename F>
OAQ_INLINE void each(const F& f) {
    each(f, std::make_integer_sequence<int, N>());
}

__m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

struct Codes4 {
    std::uint8_t codes[kStep];
};

const Codes4& at(const std::uint8_t* in) { return *reinterpret_cast<const Codes4*>(in); }

// 4 codes, over and over.
inline __m128i broadcast(const std::uint8_t* p) {
    __m128i codes;
    asm("vpbroadcastd %1, %0" : "=x"(codes) : "m"(at(p)));
    return codes;
}

// int32 sums of 8 channels to scaled and rounded int32. Products stay below 2^31 (Output), so nothing is clamped here.
inline __m256i scale(__m256i acc, const std::int32_t* bias, const float* multiplier) {
    const __m256 value = _mm256_cvtepi32_ps(_mm256_add_epi32(acc, load(bias)));
    return _mm256_cvtps_epi32(_mm256_mul_ps(value, _mm256_loadu_ps(multiplier)));
}

// Sign extension from the lowest 32 - shift bits.
__m256i wrap(__m256i acc, int shift) {
    const __m128i count = _mm_cvtsi32_si128(shift);
    return _mm256_sra_epi32(_mm256_sll_epi32(acc, count), count);
}

OAQ_INLINE void store(std::uint8_t* out, __m128i codes, int channels) {
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
        : zero_point(_mm256_set1_epi16(static_cast<short>(output.zero_point))),
          highest(_mm256_set1_epi8(static_cast<char>(output.q_max))),
          bias(output.bias),
          multiplier(output.multiplier) {}

    // 16 channels of one pixel as int16 codes, in the order 0-3, 8-11, 4-7, 12-15.
    OAQ_INLINE __m256i codes16(__m256i low, __m256i high) const {
        const __m256i a = scale(low, bias, multiplier), b = scale(high, bias + 8, multiplier + 8);
        return _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero_point);
    }

    // Both halves clamped to codes and put in order: 16 channels of `first` below those of `second`.
    OAQ_INLINE __m256i codes8(__m256i first, __m256i second) const {
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        const __m256i codes = _mm256_min_epu8(_mm256_packus_epi16(first, second), highest);
        return _mm256_permutevar8x32_epi32(codes, order);
    }

    __m256i zero_point, highest;
    const std::int32_t* bias;
    const float* multiplier;
};

template <int R>
OAQ_INLINE void write(const DenseBlock& block, int first, const __m256i (&acc)[R][2]) {
    const Epilogue epilogue(block.output);
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

// What 32-bit accumulators leave, kept to fewer bits where that is asked for.
template <int R>
OAQ_INLINE void finish(const DenseBlock& block, int first, __m256i (&acc)[R][2]) {
    if (block.output.wrap_shift != 0)
        each<R>([&](auto r) OAQ_LAMBDA {
            each<2>([&](auto v) OAQ_LAMBDA { acc[r][v] = wrap(acc[r][v], block.output.wrap_shift); });
        });
    write<R>(block, first, acc);
}

// First values of accumulators of 8 channels each. Of 16-bit halves, the lower one takes all of the start.
template <int R>
OAQ_INLINE void begin(const DenseBlock& block, __m256i (&acc)[R][2], bool halves = false) {
    const __m256i mask = _mm256_set1_epi32(halves ? 0xffff : -1);
    const __m256i low = _mm256_and_si256(load(block.output.start), mask);
    const __m256i high = _mm256_and_si256(load(block.output.start + 8), mask);
    each<R>([&](auto r) OAQ_LAMBDA {
        acc[r][0] = low;
        acc[r][1] = high;
    });
}

// The inner loops' steps for one pixel and 16 channels, as assembly: GCC (12, 13) otherwise loads the codes of all pixels
// ahead and spills the accumulators, at half the speed. Two scratch registers each, so that 12 accumulators and 2 weight
// vectors fit.

const __m256i kOnes = _mm256_set1_epi16(1);

// halves += codes * weights, pair by pair.
OAQ_INLINE void add_products(__m256i (&halves)[2], const std::uint8_t* in, __m256i w0, __m256i w1) {
    __m256i a, b;
    asm("vpbroadcastd %[in], %[b]\n\t"
        "vpmaddubsw %[w0], %[b], %[a]\n\t"
        "vpmaddubsw %[w1], %[b], %[b]\n\t"
        "vpaddw %[a], %[h0], %[h0]\n\t"
        "vpaddw %[b], %[h1], %[h1]"
        : [h0] "+x"(halves[0]), [h1] "+x"(halves[1]), [a] "=&x"(a), [b] "=&x"(b)
        : [in] "m"(at(in)), [w0] "x"(w0), [w1] "x"(w1));
}

// halves = codes * weights.
OAQ_INLINE void set_products(__m256i (&halves)[2], const std::uint8_t* in, __m256i w0, __m256i w1) {
    asm("vpbroadcastd %[in], %[h1]\n\t"
        "vpmaddubsw %[w0], %[h1], %[h0]\n\t"
        "vpmaddubsw %[w1], %[h1], %[h1]"
        : [h0] "=&x"(halves[0]), [h1] "=&x"(halves[1])
        : [in] "m"(at(in)), [w0] "x"(w0), [w1] "x"(w1));
}

// acc += the pairs' sums in 32 bits, where halves are needed no more.
OAQ_INLINE void spill(__m256i (&acc)[2], __m256i (&halves)[2]) {
    asm("vpmaddwd %[ones], %[h0], %[h0]\n\t"
        "vpmaddwd %[ones], %[h1], %[h1]\n\t"
        "vpaddd %[h0], %[a0], %[a0]\n\t"
        "vpaddd %[h1], %[a1], %[a1]"
        : [a0] "+x"(acc[0]), [a1] "+x"(acc[1]), [h0] "+x"(halves[0]), [h1] "+x"(halves[1])
        : [ones] "m"(kOnes));
}

// acc += codes * weights, four channels a vector.
OAQ_INLINE void add_exactly(__m256i& acc, __m256i codes, const std::int16_t* weights) {
    __m256i a;
    asm("vpmaddwd %[w], %[codes], %[a]\n\t"
        "vpaddd %[a], %[acc], %[acc]"
        : [acc] "+x"(acc), [a] "=&x"(a)
        : [w] "m"(*reinterpret_cast<const __m256i_u*>(weights)), [codes] "x"(codes));
}

// Calls step(in, k, weights) along the runs; in + k are the codes of every pixel. `step` takes what it has done off k.
template <int R, typename Weight, typename Step>
OAQ_INLINE void along_runs(const DenseBlock& block, int first, const Step& step) {
    const Weight* weights = static_cast<const Weight*>(block.weights);
    const Run* run = block.runs;
    const Run* const end = run + block.run_count;
    do {
        const std::ptrdiff_t length = run->steps * kStep;
        const std::uint8_t* in[R];
        each<R>([&](auto r) OAQ_LAMBDA { in[r] = block.in[first + r] + run->offset + length; });
        std::ptrdiff_t k = -length;
        step(in, k, weights);
    } while (++run != end);
}

template <int R>
OAQ_INLINE void sum_wrap(const DenseBlock& block, int first, __m256i (&result)[R][2]) {
    __m256i halves[R][2];
    begin<R>(block, halves, true);
    along_runs<R, std::int8_t>(block, first, [&](const std::uint8_t* const (&in)[R], std::ptrdiff_t k, const std::int8_t*& w) OAQ_LAMBDA {
        do {
            const __m256i w0 = load(w), w1 = load(w + 32);
            each<R>([&](auto r) OAQ_LAMBDA { add_products(halves[r], in[r] + k, w0, w1); });
            w += kPanel * kStep;
        } while ((k += kStep) < 0);
    });
    each<R>([&](auto r) OAQ_LAMBDA { each<2>([&](auto v) OAQ_LAMBDA { result[r][v] = halves[r][v]; }); });
}

template <int R>
OAQ_INLINE void dense_wrap(const DenseBlock& block, int first) {
    __m256i halves[R][2], acc[R][2];
    sum_wrap<R>(block, first, halves);
    // Both halves modulo 2^16, sign-extended.
    each<R>([&](auto r) OAQ_LAMBDA {
        each<2>([&](auto v) OAQ_LAMBDA {
            const __m256i low = _mm256_slli_epi32(halves[r][v], 16);
            acc[r][v] = _mm256_srai_epi32(_mm256_add_epi16(low, halves[r][v]), 16);
        });
    });
    finish<R>(block, first, acc);
}

// S steps in 16 bits, then 32 bits.
template <int R, int S>
OAQ_INLINE void add_steps(const std::uint8_t* const (&in)[R], std::ptrdiff_t k, const std::int8_t* w, __m256i (&acc)[R][2]) {
    if (S == 1) {  // pixel by pixel, so that one pair of registers holds the halves of all
        const __m256i w0 = load(w), w1 = load(w + 32);
        each<R>([&](auto r) OAQ_LAMBDA {
            __m256i halves[2];
            set_products(halves, in[r] + k, w0, w1);
            spill(acc[r], halves);
        });
        return;
    }
    __m256i halves[R][2];
    each<S>([&](auto s) OAQ_LAMBDA {
        const __m256i w0 = load(w + s * kPanel * kStep), w1 = load(w + s * kPanel * kStep + 32);
        each<R>([&](auto r) OAQ_LAMBDA {
            if (s == 0)
                set_products(halves[r], in[r] + k, w0, w1);
            else
                add_products(halves[r], in[r] + k + s * kStep, w0, w1);
        });
    });
    each<R>([&](auto r) OAQ_LAMBDA { spill(acc[r], halves[r]); });
}

template <int R, int S>
OAQ_INLINE void sum_fold(const DenseBlock& block, int first, __m256i (&result)[R][2]) {
    __m256i acc[R][2];
    begin<R>(block, acc);
    along_runs<R, std::int8_t>(block, first, [&](const std::uint8_t* const (&in)[R], std::ptrdiff_t k, const std::int8_t*& w) OAQ_LAMBDA {
        for (; k + S * kStep <= 0; k += S * kStep, w += S * kPanel * kStep) add_steps<R, S>(in, k, w, acc);
        if (S > 1)
            for (; k < 0; k += kStep, w += kPanel * kStep) add_steps<R, 1>(in, k, w, acc);
    });
    each<R>([&](auto r) OAQ_LAMBDA { each<2>([&](auto v) OAQ_LAMBDA { result[r][v] = acc[r][v]; }); });
}

template <int R, int S>
OAQ_INLINE void dense_fold(const DenseBlock& block, int first) {
    __m256i acc[R][2];
    sum_fold<R, S>(block, first, acc);
    finish<R>(block, first, acc);
}

// 4 codes widened to 16 bits meet 4 channels per vector: two sums of two products per channel.
template <int R>
OAQ_INLINE void sum_exact(const DenseBlock& block, int first, __m256i (&result)[R][4]) {
    __m256i sums[R][4];
    each<R>([&](auto r) OAQ_LAMBDA { each<4>([&](auto v) OAQ_LAMBDA { sums[r][v] = _mm256_setzero_si256(); }); });
    along_runs<R, std::int16_t>(block, first, [&](const std::uint8_t* const (&in)[R], std::ptrdiff_t k, const std::int16_t*& w) OAQ_LAMBDA {
        do {
            __m256i codes[R];
            each<R>([&](auto r) OAQ_LAMBDA { codes[r] = _mm256_cvtepu8_epi16(broadcast(in[r] + k)); });
            each<4>([&](auto v) OAQ_LAMBDA { each<R>([&](auto r) OAQ_LAMBDA { add_exactly(sums[r][v], codes[r], w + 16 * v); }); });
            w += kPanel * kStep;
        } while ((k += kStep) < 0);
    });
    each<R>([&](auto r) OAQ_LAMBDA { each<4>([&](auto v) OAQ_LAMBDA { result[r][v] = sums[r][v]; }); });
}

template <int R>
OAQ_INLINE void dense_exact(const DenseBlock& block, int first) {
    __m256i sums[R][4], acc[R][2];
    sum_exact<R>(block, first, sums);
    begin<R>(block, acc);
    const __m256i order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);  // hadd works within 128-bit lanes
    each<R>([&](auto r) OAQ_LAMBDA {
        each<2>([&](auto v) OAQ_LAMBDA {
            const __m256i sum = _mm256_hadd_epi32(sums[r][2 * v], sums[r][2 * v + 1]);
            acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_permutevar8x32_epi32(sum, order));
        });
    });
    finish<R>(block, first, acc);
}

// Depthwise: 32 channels a vector. Interleaving works within 128-bit lanes: two taps' codes give 16-bit sums of the
// channels 0-7, 16-23 and 8-15, 24-31; two such sums, or one with itself, give 32-bit sums of 0-3, 16-19 and so on,
// which packing then puts in order by itself. The constants are brought into that order once a block.
struct DepthwiseConstants {
    explicit DepthwiseConstants(const Output& output)
        : zero_point(_mm256_set1_epi16(static_cast<short>(output.zero_point))),
          highest(_mm256_set1_epi8(static_cast<char>(output.q_max))),
          shift(output.wrap_shift) {
        const __m256i mask = _mm256_set1_epi32(0xffff);
        each<4>([&](auto v) OAQ_LAMBDA {
            start[v] = both(output.start + 4 * v);
            bias[v] = both(output.bias + 4 * v);
            multiplier[v] = _mm256_castsi256_ps(both(reinterpret_cast<const std::int32_t*>(output.multiplier) + 4 * v));
        });
        each<2>([&](auto h) OAQ_LAMBDA {
            start16[h] = _mm256_packus_epi32(_mm256_and_si256(start[2 * h], mask), _mm256_and_si256(start[2 * h + 1], mask));
        });
    }

    // 4 channels, and the 4 that are 16 further.
    static __m256i both(const std::int32_t* p) {
        const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)), 1);
    }

    __m256i start[4], start16[2], bias[4];
    __m256 multiplier[4];
    __m256i zero_point, highest;
    int shift;
};

OAQ_INLINE void add_pair(__m256i (&sum)[2], __m256i a, __m256i b, __m256i w0, __m256i w1) {
    sum[0] = _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), w0));
    sum[1] = _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), w1));
}

// Sums of 16 bits, sign-extended.
OAQ_INLINE void widen(const __m256i (&sum)[2], __m256i (&acc)[4]) {
    each<2>([&](auto h) OAQ_LAMBDA {
        acc[2 * h] = _mm256_srai_epi32(_mm256_unpacklo_epi16(sum[h], sum[h]), 16);
        acc[2 * h + 1] = _mm256_srai_epi32(_mm256_unpackhi_epi16(sum[h], sum[h]), 16);
    });
}

OAQ_INLINE void add_wide(const __m256i (&sum)[2], __m256i (&acc)[4]) {
    __m256i part[4];
    widen(sum, part);
    each<4>([&](auto v) OAQ_LAMBDA { acc[v] = _mm256_add_epi32(acc[v], part[v]); });
}

// acc += a + b in 32 bits.
OAQ_INLINE void add_both(const __m256i (&a)[2], const __m256i (&b)[2], __m256i (&acc)[4]) {
    const __m256i ones = _mm256_set1_epi16(1);
    each<2>([&](auto h) OAQ_LAMBDA {
        const __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(a[h], b[h]), ones);
        const __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(a[h], b[h]), ones);
        acc[2 * h] = _mm256_add_epi32(acc[2 * h], low);
        acc[2 * h + 1] = _mm256_add_epi32(acc[2 * h + 1], high);
    });
}

OAQ_INLINE void begin(const DepthwiseConstants& constants, __m256i (&acc)[4]) {
    each<4>([&](auto v) OAQ_LAMBDA { acc[v] = constants.start[v]; });
}

OAQ_INLINE void keep_bits(const DepthwiseConstants& constants, __m256i (&acc)[4]) {
    if (constants.shift != 0) each<4>([&](auto v) OAQ_LAMBDA { acc[v] = wrap(acc[v], constants.shift); });
}

// 32 channels of one pixel.
OAQ_INLINE void write_pixel(const DepthwiseConstants& constants, std::uint8_t* out, int channels, __m256i (&acc)[4]) {
    each<4>([&](auto v) OAQ_LAMBDA {
        const __m256 value = _mm256_cvtepi32_ps(_mm256_add_epi32(acc[v], constants.bias[v]));
        acc[v] = _mm256_cvtps_epi32(_mm256_mul_ps(value, constants.multiplier[v]));
    });
    const __m256i low = _mm256_adds_epi16(_mm256_packs_epi32(acc[0], acc[1]), constants.zero_point);
    const __m256i high = _mm256_adds_epi16(_mm256_packs_epi32(acc[2], acc[3]), constants.zero_point);
    const __m256i codes = _mm256_min_epu8(_mm256_packus_epi16(low, high), constants.highest);
    if (channels == kChannelBlock) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), codes);
        return;
    }
    store(out, _mm256_castsi256_si128(codes), channels);
    if (channels > 16) store(out + 16, _mm256_extracti128_si256(codes, 1), channels - 16);
}

// Calls pixel(in, out) for all.
template <typename Pixel>
OAQ_INLINE void each_pixel(const DepthwiseBlock& block, const Pixel& pixel) {
    for (int y = 0; y < block.rows; ++y) {
        const std::uint8_t* in = block.in + y * block.in_row;
        std::uint8_t* out = block.out + y * block.out_row;
        for (int x = 0; x < block.pixels; ++x, in += block.in_step, out += block.out_step) pixel(in, out);
    }
}

void depthwise_any(const DepthwiseBlock& block) {
    const DepthwiseConstants constants(block.output);
    const __m256i zero = _mm256_setzero_si256();
    const __m256i start[2] = {block.fold == 0 ? constants.start16[0] : zero, block.fold == 0 ? constants.start16[1] : zero};
    each_pixel(block, [&](const std::uint8_t* in, std::uint8_t* out) OAQ_LAMBDA {
        __m256i sum[2] = {start[0], start[1]}, acc[4];
        begin(constants, acc);
        int left = block.fold;
        for (int t = 0; t < block.tap_count; ++t) {
            const std::int8_t* w = block.weights + t * kChannelBlock * 2;
            add_pair(sum, load(in + block.taps[t].a), load(in + block.taps[t].b), load(w), load(w + 32));
            if (--left == 0) {
                add_wide(sum, acc);
                sum[0] = sum[1] = zero;
                left = block.fold;
            }
        }
        if (block.fold == 0) {
            widen(sum, acc);
        } else {
            add_wide(sum, acc);
            keep_bits(constants, acc);
        }
        write_pixel(constants, out, block.channels, acc);
    });
}

// 3x3 windows: weights stay in registers, taps are reached from three rows. FOLD pairs to a 16-bit sum; 0: all, wrapping.
template <int FOLD>
void depthwise_3x3(const DepthwiseBlock& block) {
    constexpr int kLength = FOLD == 0 ? 5 : FOLD, kSums = (5 + kLength - 1) / kLength;
    const DepthwiseConstants constants(block.output);
    const std::ptrdiff_t dx = block.taps[0].b, dy = block.taps[1].b;
    __m256i w[5][2];
    each<5>([&](auto t) OAQ_LAMBDA {
        each<2>([&](auto h) OAQ_LAMBDA { w[t][h] = load(block.weights + t * kChannelBlock * 2 + 32 * h); });
    });
    each_pixel(block, [&](const std::uint8_t* top, std::uint8_t* out) OAQ_LAMBDA {
        const std::uint8_t* const rows[] = {top, top + dy, top + 2 * dy};
        __m256i sum[kSums][2], acc[4];
        each<kSums>([&](auto s) OAQ_LAMBDA {
            each<2>([&](auto h) OAQ_LAMBDA { sum[s][h] = FOLD == 0 ? constants.start16[h] : _mm256_setzero_si256(); });
        });
        each<5>([&](auto t) OAQ_LAMBDA {
            constexpr int a = 2 * t, b = t == 4 ? a : a + 1;
            const __m256i first = load(rows[a / 3] + a % 3 * dx), second = load(rows[b / 3] + b % 3 * dx);
            add_pair(sum[t / kLength], first, second, w[t][0], w[t][1]);
        });
        if (FOLD == 0) {
            widen(sum[0], acc);
        } else {
            begin(constants, acc);
            each<kSums / 2>([&](auto s) OAQ_LAMBDA { add_both(sum[2 * s], sum[2 * s + 1], acc); });
            if (kSums % 2 == 1) add_wide(sum[kSums - 1], acc);
            keep_bits(constants, acc);
        }
        write_pixel(constants, out, block.channels, acc);
    });
}

// Whether the taps are those of a 3x3 window, taken two by two.
bool is_3x3(const DepthwiseBlock& block) {
    if (block.tap_count != 5) return false;
    const std::int32_t dx = block.taps[0].b, dy = block.taps[1].b;
    const std::int32_t offsets[] = {0, dx, 2 * dx, dy, dy + dx, dy + 2 * dx, 2 * dy, 2 * dy + dx, 2 * dy + 2 * dx};
    for (int i = 0; i < 9; ++i)
        if (offsets[i] != (i % 2 == 0 ? block.taps[i / 2].a : block.taps[i / 2].b)) return false;
    return block.taps[4].b == block.taps[4].a;
}

void depthwise(const DepthwiseBlock& block) {
    static constexpr DepthwiseKernel kernels[] = {depthwise_3x3<0>, depthwise_3x3<1>, depthwise_3x3<2>,
                                                  depthwise_3x3<3>, depthwise_3x3<4>, depthwise_3x3<5>};
    if (is_3x3(block))
        kernels[block.fold < 5 ? block.fold : 5](block);
    else
        depthwise_any(block);
}

// All pixels, ROWS at a time; what is left over at the end as one tile of fewer.
template <int ROWS, typename Tile, int R = ROWS - 1>
OAQ_INLINE void rest(const DenseBlock& block, int first, const Tile& tile) {
    if constexpr (R > 0) {
        if (block.pixels - first == R)
            tile(first, std::integral_constant<int, R>());
        else
            rest<ROWS, Tile, R - 1>(block, first, tile);
    }
}
template <int ROWS, typename Tile>
OAQ_INLINE void tiles(const DenseBlock& block, const Tile& tile) {
    int first = 0;
    for (; first + ROWS <= block.pixels; first += ROWS) tile(first, std::integral_constant<int, ROWS>());
    rest<ROWS>(block, first, tile);
}

void wrap_kernel(const DenseBlock& block) {
    tiles<6>(block, [&](int first, auto rows) OAQ_LAMBDA { dense_wrap<rows>(block, first); });
}

template <int S, int ROWS>
void fold_kernel(const DenseBlock& block) {
    tiles<ROWS>(block, [&](int first, auto rows) OAQ_LAMBDA { dense_fold<rows, S>(block, first); });
}

void exact_kernel(const DenseBlock& block) {
    tiles<3>(block, [&](int first, auto rows) OAQ_LAMBDA { dense_exact<rows>(block, first); });
}

bool available() { return __builtin_cpu_supports("avx2") != 0; }

}  // namespace

extern const KernelSet kAvx2;
const KernelSet kAvx2 = {
    "avx2", available, 255, true,
    {
        {kExact, 3, exact_kernel}, {0, 6, wrap_kernel}, {1, 6, fold_kernel<1, 6>}, {2, 3, fold_kernel<2, 3>},
        {4, 3, fold_kernel<4, 3>}, {8, 3, fold_kernel<8, 3>}, {16, 3, fold_kernel<16, 3>},
    },
    depthwise,
};

}  // namespace oaq
