// Depthwise kernels for x86-64 with AVX2.
// 32 channels a vector: two taps' codes, interleaved, give 16-bit sums in the order of Epilogue32.
#include "avx2.hpp"

namespace oaq::avx2 {
namespace {

// sum += the products of two taps. As assembly, because GCC (12, 13) otherwise loads all taps ahead and spills them.
OAQ_INLINE void add_pair(__m256i (&sum)[2], const std::uint8_t* a, const std::uint8_t* b, __m256i w0, __m256i w1) {
    __m256i low, high, other;
    asm("vmovdqu %[in], %[high]\n\t"
        "vmovdqu %[next], %[other]\n\t"
        "vpunpcklbw %[other], %[high], %[low]\n\t"
        "vpunpckhbw %[other], %[high], %[high]\n\t"
        "vpmaddubsw %[w0], %[low], %[low]\n\t"
        "vpmaddubsw %[w1], %[high], %[high]\n\t"
        "vpaddw %[low], %[s0], %[s0]\n\t"
        "vpaddw %[high], %[s1], %[s1]"
        : [s0] "+x"(sum[0]), [s1] "+x"(sum[1]), [low] "=&x"(low), [high] "=&x"(high), [other] "=&x"(other)
        : [in] "m"(at<kChannelBlock>(a)), [next] "m"(at<kChannelBlock>(b)), [w0] "xm"(w0), [w1] "xm"(w1));
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

OAQ_INLINE void begin(const Epilogue32& epilogue, __m256i (&acc)[4]) {
    each<4>([&](auto v) OAQ_LAMBDA { acc[v] = epilogue.start[v]; });
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
    const Epilogue32 epilogue(block.constants);
    const __m256i zero = _mm256_setzero_si256();
    const bool whole = block.route.wraps();
    const __m256i start[2] = {whole ? epilogue.start16[0] : zero, whole ? epilogue.start16[1] : zero};
    each_pixel(block, [&](const std::uint8_t* in, std::uint8_t* out) OAQ_LAMBDA {
        __m256i sum[2] = {start[0], start[1]}, acc[4];
        begin(epilogue, acc);
        int left = block.route.fold;
        for (int t = 0; t < block.tap_count; ++t) {
            const std::int8_t* w = block.weights + t * kChannelBlock * 2;
            add_pair(sum, in + block.taps[t].a, in + block.taps[t].b, load(w), load(w + 32));
            if (--left == 0) {
                add_wide(sum, acc);
                sum[0] = sum[1] = zero;
                left = block.route.fold;
            }
        }
        if (whole) {
            epilogue.write(out, block.channels, sum);
        } else {
            add_wide(sum, acc);
            epilogue.write(out, block.channels, acc);
        }
    });
}

// 6 to 9 pairs of taps, those of a 3x3 window of which some stand alone: all wrapping in 16 bits.
template <int PAIRS>
void depthwise_many(const DepthwiseBlock& block) {
    const Epilogue32 epilogue(block.constants);
    const int channels = block.channels;
    std::ptrdiff_t a[PAIRS], b[PAIRS];
    each<PAIRS>([&](auto t) OAQ_LAMBDA {
        a[t] = block.taps[t].a;
        b[t] = block.taps[t].b;
    });
    const auto* weights = reinterpret_cast<const __m256i_u*>(block.weights);
    each_pixel(block, [&](const std::uint8_t* in, std::uint8_t* out) OAQ_LAMBDA {
        __m256i sum[2] = {epilogue.start16[0], epilogue.start16[1]};
        each<PAIRS>([&](auto t) OAQ_LAMBDA { add_pair(sum, in + a[t], in + b[t], weights[2 * t], weights[2 * t + 1]); });
        epilogue.write(out, channels, sum);
    });
}

// 5 pairs of taps, those of a 3x3 window: weights stay in registers. FOLD pairs to a 16-bit sum; 0: all, wrapping.
template <int FOLD>
void depthwise_five(const DepthwiseBlock& block) {
    constexpr int kLength = FOLD == 0 ? 5 : FOLD, kSums = (5 + kLength - 1) / kLength;
    const Epilogue32 epilogue(block.constants);
    const int channels = block.channels;
    std::ptrdiff_t a[5], b[5];
    __m256i w[5][2];
    each<5>([&](auto t) OAQ_LAMBDA {
        a[t] = block.taps[t].a;
        b[t] = block.taps[t].b;
        each<2>([&](auto h) OAQ_LAMBDA { w[t][h] = load(block.weights + t * kChannelBlock * 2 + 32 * h); });
    });
    each_pixel(block, [&](const std::uint8_t* in, std::uint8_t* out) OAQ_LAMBDA {
        __m256i sum[kSums][2];
        each<kSums>([&](auto s) OAQ_LAMBDA {
            each<2>([&](auto h) OAQ_LAMBDA { sum[s][h] = FOLD == 0 ? epilogue.start16[h] : _mm256_setzero_si256(); });
        });
        each<5>([&](auto t) OAQ_LAMBDA { add_pair(sum[t / kLength], in + a[t], in + b[t], w[t][0], w[t][1]); });
        if (FOLD == 0) {
            epilogue.write(out, channels, sum[0]);
        } else {
            __m256i acc[4];
            begin(epilogue, acc);
            each<kSums / 2>([&](auto s) OAQ_LAMBDA { add_both(sum[2 * s], sum[2 * s + 1], acc); });
            if (kSums % 2 == 1) add_wide(sum[kSums - 1], acc);
            epilogue.write(out, channels, acc);
        }
    });
}

}  // namespace

void depthwise(const DepthwiseBlock& block) {
    static constexpr DepthwiseKernel kernels[] = {depthwise_five<0>, depthwise_five<1>, depthwise_five<2>,
                                                  depthwise_five<3>, depthwise_five<4>, depthwise_five<5>};
    static constexpr DepthwiseKernel many[] = {depthwise_many<6>, depthwise_many<7>, depthwise_many<8>, depthwise_many<9>};
    if (block.tap_count == 5)
        kernels[block.route.fold < 5 ? block.route.fold : 5](block);  // whole sums have the fold 0
    else if (block.route.wraps() && block.tap_count > 5 && block.tap_count <= 9)
        many[block.tap_count - 6](block);
    else
        depthwise_any(block);
}

}  // namespace oaq::avx2
