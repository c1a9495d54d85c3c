// Depthwise kernels for x86-64 with AVX2.
// 32 channels a vector. Interleaving works within 128-bit lanes: two taps' codes give 16-bit sums of the
// channels 0-7, 16-23 and 8-15, 24-31; two such sums, or one with itself, give 32-bit sums of 0-3, 16-19 and so on,
// which packing then puts in order by itself. The constants are brought into that order once a block.
#include "avx2.hpp"

namespace oaq::avx2 {
namespace {

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

}  // namespace

void depthwise(const DepthwiseBlock& block) {
    static constexpr DepthwiseKernel kernels[] = {depthwise_3x3<0>, depthwise_3x3<1>, depthwise_3x3<2>,
                                                  depthwise_3x3<3>, depthwise_3x3<4>, depthwise_3x3<5>};
    if (is_3x3(block))
        kernels[block.fold < 5 ? block.fold : 5](block);
    else
        depthwise_any(block);
}

}  // namespace oaq::avx2
